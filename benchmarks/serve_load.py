"""What `szilard serve` does under load: throughput, waiting times, equal answers, memory, and nothing left behind.

    python benchmarks/serve_load.py --part throughput|soak|mixed|open|peer [--seconds 60] [--save] [--url URL --pid PID]

Starts the server itself (`--model`, `--serve` for further options of `szilard serve`), or asks the one at --url, whose
memory is watched where --pid says which process it is. Every answer is compared with what the same request got alone,
before the load.

throughput  one client and eight clients, greedy, the same prompts in turn: the ratio of tokens per second
soak        32 streaming clients, of whom a fifth goes away in mid-stream; every method; give --seconds 300 or more
mixed       eight clients, every method alike, half of them streaming, a tenth of those going away
open        requests that come at random (a Poisson process of --rate a second), greedy and sampled
peer        one and eight clients against szilard and against `transformers serve` (with and without its continuous
            batching), the same weights in float32, in turn

With --save a line per load goes to results/serve.jsonl, and a load that is there already is not repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from results_store import Store
from serve_client import (
    KINDS,
    NEVER,
    PROMPTS,
    Question,
    Reply,
    answers_alone,
    closed_loop,
    differing,
    figures,
    open_loop,
    questions_of,
)
from serve_process import Memory, ServerProcess, left_over, threads

ALIKE = dict.fromkeys(KINDS, 1.0)
MOSTLY_PLAIN = {"greedy": 5.0, "sampling": 3.0, "lead": 1.0, "prompt-lookup": 1.0}
PLAIN = {"greedy": 1.0, "sampling": 1.0}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", required=True, choices=("throughput", "soak", "mixed", "open", "peer"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second of `open`")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="of the server that is started; default: the embedded one")
    parser.add_argument("--serve", default="", help="further options of `szilard serve`, as in '--max-batch 32'")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--pid", type=int, help="its process")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    if given.part == "peer":
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(peer(given, Path(folder)))
        return
    with contextlib.ExitStack() as stack:
        if given.url is None:
            server = stack.enter_context(ServerProcess(serve_command(given.model, given.serve.split())))
            url, pid = server.url, server.pid
        else:
            url, pid = given.url.rstrip("/").removesuffix("/v1"), given.pid
        asyncio.run(one_server(given, url, pid))


def serve_command(model: str | None, options: list[str]) -> list[str]:
    """`szilard serve`, with a place for the port."""
    chosen = [] if model is None else ["--model", model]
    return [sys.executable, "-m", "szilard", "serve", "--port", "{port}", *chosen, *options]


async def one_server(given: argparse.Namespace, url: str, pid: int | None) -> None:
    """A part against one server."""
    async with connected(url) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        prompts = PROMPTS[: given.prompts]
        kinds = {"throughput": {"greedy": 1.0}, "soak": MOSTLY_PLAIN, "mixed": ALIKE, "open": PLAIN}[given.part]
        key = {"part": given.part, "model": model, "tokens": given.tokens, "prompts": len(prompts)}
        key |= {"seconds": given.seconds, "serve": given.serve, "threads": threads(), "seed": given.seed}
        if given.part == "open":
            key["rate"] = given.rate
        if given.save and key in Store("serve"):
            print("measured already:", json.dumps(key))
            return
        alone = await answers_alone(client, model, prompts, given.tokens, kinds)
        async with Memory(pid) as memory:
            if given.part == "throughput":
                found, replies = await throughput(client, model, prompts, given.tokens, given.seconds)
            else:
                found, replies = await load(given, client, model, prompts, kinds)
        found |= compared(replies, alone) | memory.figures() | {"left_over": await left_over(client)}
    finish(key, found, save=given.save)


async def load(
    given: argparse.Namespace, client: httpx.AsyncClient, model: str, prompts: tuple[str, ...], kinds: dict[str, float]
) -> tuple[dict[str, Any], list[Reply]]:
    """The parts `soak`, `mixed` and `open`."""
    chance = random.Random(given.seed)
    streamed, leaving, clients = {"soak": (1.0, 0.2, 32), "mixed": (0.5, 0.1, 8), "open": (0.5, 0.1, 0)}[given.part]
    questions = questions_of(prompts, given.tokens, kinds, chance, streamed=streamed, leaving=leaving)
    began = time.monotonic()
    if clients:
        replies = await closed_loop(client, model, questions, clients, began + given.seconds)
    else:
        replies = await open_loop(client, model, questions, given.rate, began + given.seconds, chance)
    return {"clients": clients or None} | figures(replies, time.monotonic() - began), replies


async def throughput(
    client: httpx.AsyncClient,
    model: str,
    prompts: tuple[str, ...],
    tokens: int,
    seconds: float,
    counts: tuple[int, ...] = (1, 8),
) -> tuple[dict[str, Any], list[Reply]]:
    """Rounds of the same prompts by one client and by eight, in turn, for so long; medians over the rounds."""
    speeds: dict[int, list[float]] = {count: [] for count in counts}
    replies: dict[int, list[Reply]] = {count: [] for count in counts}
    spent = dict.fromkeys(counts, 0.0)
    asked = [Question(prompt, "greedy", tokens) for prompt in prompts]
    await closed_loop(client, model, iter(asked[:2]), 2, float("inf"))  # warm
    began = time.monotonic()
    while not speeds[counts[-1]] or time.monotonic() - began < seconds:
        for count in counts:
            start = time.monotonic()
            own = await closed_loop(client, model, rounds_of(asked, count), count, float("inf"))
            took = time.monotonic() - start
            speeds[count].append(sum(reply.tokens for reply in own) / took)
            replies[count] += own
            spent[count] += took
    medians = {count: round(statistics.median(values), 2) for count, values in speeds.items()}
    found: dict[str, Any] = {"tokens_per_s_by_clients": {str(count): value for count, value in medians.items()}}
    found["ratio"] = round(medians[counts[-1]] / medians[counts[0]], 3)
    found["rounds"] = len(speeds[counts[-1]])
    for count in counts:
        own_figures = figures(replies[count], spent[count])
        for name in ("first_token_ms", "per_token_ms"):
            found[f"{name}, clients {count}"] = own_figures[name]
    every = [reply for own in replies.values() for reply in own]
    found |= {
        name: value for name, value in figures(every, 1.0).items() if name in ("requests", "errors", "error_texts")
    }
    return found, every


def rounds_of(asked: list[Question], clients: int) -> Iterator[Question]:
    """The questions, as often as gives every client one."""
    return itertools.islice(itertools.cycle(asked), max(len(asked), clients))


def compared(replies: list[Reply], alone: dict[tuple[str, str], str]) -> dict[str, Any]:
    """How many replies differ from the answer alone, by kind, as "0 of 12"."""
    return {"not_as_alone": {kind: f"{off} of {count}" for kind, (off, count) in differing(replies, alone).items()}}


async def peer(given: argparse.Namespace, folder: Path) -> None:
    """The same prompts to szilard and to transformers' own server, one server working at a time, in turn."""
    weights = str(folder / "model")
    save_model(given.model, weights)
    theirs = [sys.executable, "-m", "transformers.cli.transformers", "serve", weights, "--device", "cpu", "--dtype"]
    theirs += ["float32", "--host", "127.0.0.1", "--port", "{port}"]
    ours = serve_command(weights, ["--name", weights, "--dtype", "float32", *given.serve.split()])
    commands = {"szilard": ours, "transformers serve": theirs}
    commands["transformers serve, continuous batching"] = [*theirs, "--continuous-batching"]
    prompts = PROMPTS[: given.prompts]
    texts: dict[str, dict[str, str]] = {}
    for name, command in commands.items():
        key = {"part": "peer", "server": name, "tokens": given.tokens, "prompts": len(prompts)}
        key |= {"seconds": given.seconds, "serve": given.serve, "threads": threads()}
        with ServerProcess(command, "/healthz" if name == "szilard" else "/health") as server:
            async with connected(server.url) as client, Memory(server.pid) as memory:
                found, replies = await throughput(client, weights, prompts, given.tokens, given.seconds)
            texts[name] = {reply.question.prompt: reply.text for reply in replies if reply.whole}
            same = sum(texts[name].get(prompt) == text for prompt, text in texts["szilard"].items())
            found |= memory.figures() | {"answers_as_szilard": f"{same} of {len(texts['szilard'])}"}
        finish(key, found, save=given.save)


def save_model(model: str | None, folder: str) -> None:
    """Weights and tokenizer as a folder that both servers load."""
    import szilard

    engine: Any = szilard.load(model, engine="transformers", device="cpu", dtype="float32")
    engine.model.save_pretrained(folder)
    engine.tokenizer.save_pretrained(folder)


def connected(url: str) -> httpx.AsyncClient:
    """A client that waits as long as it takes, over as many connections as there are requests."""
    return httpx.AsyncClient(base_url=url, timeout=NEVER, limits=httpx.Limits(max_connections=None))


def finish(key: dict[str, Any], found: dict[str, Any], *, save: bool) -> None:
    """Print a load, and keep it."""
    print(json.dumps({"key": key, **found}, indent=1, ensure_ascii=False), flush=True)
    if save:
        Store("serve").add(key, found)


if __name__ == "__main__":
    main()
