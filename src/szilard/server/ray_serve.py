"""The server on Ray Serve: replicas of the application, each with a model and a scheduler of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from szilard.engines.choice import EngineChoice
from szilard.options import check_number
from szilard.ray_cluster import joined
from szilard.server.access import Keys
from szilard.server.ray_front import Front, Message
from szilard.server.run import log_to_stderr
from szilard.server.settings import ServerSettings

if TYPE_CHECKING:
    from szilard.decoding.method import Method
    from szilard.server.methods import Presets

APPLICATION = "szilard"
_DRAIN_SECONDS = 30.0
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica serves; as `create_app` takes it.

    Attributes:
        engine: the model that it loads.
        settings: limits, per replica.
        default, name, keys, presets: as in `create_app`.
    """

    engine: EngineChoice
    settings: ServerSettings = field(default_factory=ServerSettings)
    default: Method | None = None
    name: str | None = None
    keys: Keys | None = None
    presets: Presets | None = None


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each is given.

    Attributes:
        replicas: how many; with `most`, at least so many.
        most: with this, replicas come and go with the load, between `replicas` and so many; None: as many as said.
        cpus: cores that each reserves; its arithmetic uses so many threads.
        gpus: GPUs that each reserves.
    """

    replicas: int = 1
    most: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        check_number("replicas", self.replicas, low=1, integer=True)
        check_number("most", self.most, low=self.replicas, integer=True, optional=True)
        check_number("cpus", self.cpus, low=0)
        check_number("gpus", self.gpus, low=0)


class Replica:
    """The application on a model, called through Ray instead of through a socket."""

    def __init__(self, spec: ReplicaSpec) -> None:
        from szilard.server.app import create_app

        log_to_stderr()
        engine = spec.engine.load()
        if spec.default is not None:
            spec.default.check(engine)
        self._app = create_app(
            engine, spec.settings, default=spec.default, name=spec.name, keys=spec.keys, presets=spec.presets
        )
        self._scheduler = self._app.state.server.scheduler
        self._name = serve.get_replica_context().replica_id.unique_id

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        """Run one HTTP request; the messages that the application sends, as they come.

        When nobody reads them any more, the application learns that its client went away.
        """
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        gone = asyncio.Event()
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if unread:
                return unread.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.put_nowait(dict(message))

        async def run() -> None:
            try:
                await self._app(scope, receive, send)
            finally:
                messages.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"x-szilard-replica", self._name.encode())]
                yield message
            await running
        finally:
            gone.set()
            if not running.done():
                running.cancel()

    async def told(self, scope: dict[str, Any]) -> tuple[str, int, list[tuple[bytes, bytes]], bytes]:
        """Who it is, and the whole reply to a request without a body: status, headers, body."""
        status, headers, body = 500, [], b""
        async for message in self.answer(scope, b""):
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
            body += message.get("body", b"")
        return self._name, status, headers, body

    def check_health(self) -> None:
        """Asked by Ray now and then; a replica that fails is replaced.

        Raises:
            RuntimeError: the thread that decodes has ended.
        """
        if not self._scheduler.is_alive:
            raise RuntimeError("the thread that decodes has ended.")

    def __del__(self) -> None:  # called by Ray when the replica is let go, after its last request
        if hasattr(self, "_scheduler"):
            self._scheduler.close(_DRAIN_SECONDS)


def application(spec: ReplicaSpec, scale: Scale) -> serve.Application:
    """The front and its replicas, to be run by `serve.run`.

    A replica takes as many requests as its batch and its queue hold; with `scale.most`, another replica comes where
    there are more than a batch for each.
    """
    settings = spec.settings
    options: dict[str, Any] = {
        "max_ongoing_requests": settings.max_batch + settings.max_queue,
        "max_queued_requests": settings.max_queue,
        "ray_actor_options": {"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        "graceful_shutdown_timeout_s": _DRAIN_SECONDS + 15,
        "health_check_period_s": 5,
    }
    if scale.most is None:
        options["num_replicas"] = scale.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": scale.replicas,
            "max_replicas": scale.most,
            "target_ongoing_requests": settings.max_batch,
        }
    replicas: Any = serve.deployment(name="replica", **options)(Replica)
    front: Any = serve.deployment(
        name="front",
        max_ongoing_requests=100_000,  # it only hands on; limits are the replicas'
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=_DRAIN_SECONDS + 15,
    )(Front)
    return front.bind(replicas.bind(spec), settings.max_body_bytes, spec.keys)


def run(spec: ReplicaSpec, scale: Scale, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; answers that are under way are finished first.

    Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine and ends it again.

    Args:
        spec: of every replica.
        scale: how many.
        host, port: of Ray's HTTP proxies. Where a cluster's Ray Serve runs already, they stay as they are.
        ready: called when the replicas answer.

    Raises:
        ValueError: this machine has less than the replicas reserve.
    """
    with joined() as own:
        if own:
            _check_room(scale)
        try:
            serve.start(http_options={"host": host, "port": port}, logging_config=_LOGGING)
            serve.run(application(spec, scale), name=APPLICATION, route_prefix="/", logging_config=_LOGGING)
            ready()
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
            serve.delete(APPLICATION)  # which waits until the replicas have answered what they had begun
        finally:
            if own:
                serve.shutdown()


def _check_room(scale: Scale) -> None:
    there = ray.cluster_resources()
    for name, each, option in (("CPU", scale.cpus, "cpus"), ("GPU", scale.gpus, "gpus")):
        if scale.replicas * each > there.get(name, 0):
            raise ValueError(
                f"{scale.replicas} replicas of {each:g} {name} do not fit on this machine, which has "
                f"{there.get(name, 0):g}: lower --replicas or --replica-{option}, or join a cluster with RAY_ADDRESS."
            )
