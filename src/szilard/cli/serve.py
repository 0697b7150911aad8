"""`szilard serve`: an OpenAI-compatible server and a page, on one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.loading import load_engine, needs, note
from szilard.engines.choice import EngineChoice
from szilard.options import parse_option
from szilard.registry import method_class

if TYPE_CHECKING:
    from szilard.decoding.method import Method
    from szilard.server.access import Keys
    from szilard.server.settings import ServerSettings

_OPEN_TO_ALL = " (open to all who reach it)"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_command(
    model: o.ModelOption = None,
    method: o.MethodOption = None,
    set_: o.SetOption = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="A hyperparameter that requests find set, as chimera.drafter=FOLDER. Repeatable.",
            metavar="METHOD.NAME=VALUE",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address; 0.0.0.0 opens the server to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option("--name", help="Under which requests ask for the model.")] = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    compile_: o.CompileOption = False,
    quantize: o.QuantizeOption = None,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Requests decoded together.")] = 16,
    wait_ms: Annotated[float, typer.Option("--wait-ms", help="How long a batch's first request waits for others.")] = 5,
    max_queue: Annotated[int, typer.Option("--max-queue", help="Requests that may wait; more get 429.")] = 256,
    deadline: Annotated[float, typer.Option("--deadline", help="Seconds per request.")] = 300,
    max_prompt_tokens: Annotated[int | None, typer.Option("--max-prompt-tokens", help="Default: the window.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", help="The most a request may ask for.")
    ] = 2048,
    max_body: Annotated[int, typer.Option("--max-body", help="Megabytes of a request.")] = 16,
    api_keys: Annotated[
        Path | None,
        typer.Option("--api-keys", help="A file of keys, one a line; or SZILARD_API_KEYS in the environment."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option("--cors", help="An origin whose pages may call the server. Repeatable.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A name that requests may ask the server by, as a proxy's. Repeatable."),
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log what is asked.")] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="On Ray Serve: joins the cluster of RAY_ADDRESS, or starts one here.")
    ] = False,
    replicas: Annotated[int | None, typer.Option("--replicas", min=1, help="With --ray: copies of the model.")] = None,
    autoscale: Annotated[
        str | None,
        typer.Option("--autoscale", help="With --ray: replicas that come and go with the load.", metavar="MIN:MAX"),
    ] = None,
    replica_cpus: Annotated[float, typer.Option("--replica-cpus", help="With --ray: cores of each.")] = 1.0,
    replica_gpus: Annotated[
        float | None, typer.Option("--replica-gpus", help="With --ray: GPUs of each; default: 1 with --device cuda.")
    ] = None,
) -> None:
    """Serve a model over HTTP as OpenAI's API, with a method for every request, and a page to try them."""
    needs("fastapi", "uvicorn", "sse_starlette", "prometheus_client", extra="serve")
    if ray:
        needs("ray", extra="ray")
    elif replicas is not None or autoscale is not None:
        raise ValueError("--replicas and --autoscale are for Ray Serve: add --ray.")
    from szilard.server.access import read_keys
    from szilard.server.app import create_app
    from szilard.server.run import bind, run
    from szilard.server.settings import ServerSettings

    chosen = o.method_from(method, set_)
    settings = ServerSettings(
        max_batch=max_batch,
        wait_ms=wait_ms,
        max_queue=max_queue,
        deadline_s=deadline,
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        max_body_bytes=max_body * 2**20,
        cors_origins=tuple(cors or ()),
        hosts=((*_LOOPBACK,) if host in _LOOPBACK else ()) + tuple(name.lower() for name in allow_host or ()),
        log_prompts=log_prompts,
    )
    keys, presets = read_keys(api_keys), presets_from(with_)
    socket = bind(host, port)
    if ray:
        port = socket.getsockname()[1]
        socket.close()  # it was free: Ray's proxy binds it
        gpus = float((device or "").startswith("cuda")) if replica_gpus is None else replica_gpus
        choice = EngineChoice(model, engine, device, dtype, compile_, quantize)
        _serve_on_ray(
            choice, settings, chosen, name, keys, presets, host, port, (replicas, autoscale), replica_cpus, gpus
        )
        return
    loaded = load_engine(model, engine, device, dtype, compile_, quantize)
    if chosen is not None:
        chosen.check(loaded)
    app = create_app(loaded, settings, default=chosen, name=name, keys=keys, presets=presets)
    address = f"http://{host}:{socket.getsockname()[1]}"
    note(f"{name or loaded.name} at {address}/v1, the page at {address}/{'' if keys else _OPEN_TO_ALL}")
    run(app, socket)


def _serve_on_ray(
    choice: EngineChoice,
    settings: ServerSettings,
    default: Method | None,
    name: str | None,
    keys: Keys,
    presets: dict[str, dict[str, Any]],
    host: str,
    port: int,
    count: tuple[int | None, str | None],
    cpus: float,
    gpus: float,
) -> None:
    fewest, most = scale_from(*count)
    choice.check()
    if default is not None:
        default.check()
    from szilard.server.ray_serve import ReplicaSpec, Scale, run

    def ready() -> None:
        many = f"{fewest} to {most} replicas" if most else f"{fewest} replica{'s' if fewest > 1 else ''}"
        note(f"{many} at http://{host}:{port}/v1, the page at http://{host}:{port}/{'' if keys else _OPEN_TO_ALL}")

    run(ReplicaSpec(choice, settings, default, name, keys, presets), Scale(fewest, most, cpus, gpus), host, port, ready)


def scale_from(replicas: int | None, autoscale: str | None) -> tuple[int, int | None]:
    """The fewest replicas and the most; None: as many as said.

    Raises:
        ValueError: both are given, or a range that is none.
    """
    if autoscale is None:
        return replicas or 1, None
    if replicas is not None:
        raise ValueError("--replicas says how many there are and --autoscale between which numbers: give one.")
    low, colon, high = autoscale.partition(":")
    if not (
        colon and low.isascii() and low.isdigit() and high.isascii() and high.isdigit() and 1 <= int(low) <= int(high)
    ):
        raise ValueError(f"--autoscale is written MIN:MAX with 1 <= MIN <= MAX, as in 1:4, not {autoscale!r}.")
    return int(low), int(high)


def presets_from(assignments: list[str] | None) -> dict[str, dict[str, Any]]:
    """Hyperparameters by method.

    Raises:
        ValueError: an unknown method or option, or another form than METHOD.NAME=VALUE.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in assignments or ():
        slug, dot, rest = text.partition(".")
        if not dot:
            raise ValueError(f"--with is written METHOD.NAME=VALUE, not {text!r}.")
        cls = method_class(slug)
        name, value = parse_option(cls, rest)
        found.setdefault(cls.slug, {})[name] = value
    return found
