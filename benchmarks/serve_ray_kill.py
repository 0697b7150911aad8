"""What a load sees of a replica's death: `szilard serve --ray --replicas 2`, and kill -9 of one of them in the middle.

    python benchmarks/serve_ray_kill.py [--seconds 60] [--clients 8] [--model NAME] [--save]

Clients ask without a pause, half of them streaming, greedy; every whole answer is compared with the one that it got before, with nobody
else there. Told are the requests that were under way when the replica was killed, those that began later, and how long it
took until two replicas answered again. With --save the result goes to results/serve.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from typing import Any

import httpx
import psutil
from markdown_table import table
from results_store import Store
from serve_client import PROMPTS, Reply, answers_alone, closed_loop, differing, questions_of
from serve_load import connected, finish, serve_command
from serve_process import ServerProcess, left_over, threads

OUTCOMES = ("whole", "whole, asked again", "error in OpenAI's format", "any other error")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--model")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    with ServerProcess(serve_command(given.model, ["--ray", "--replicas", "2"])) as server:
        asyncio.run(demonstrate(given, server))


async def demonstrate(given: argparse.Namespace, server: ServerProcess) -> None:
    """The load, the kill at a third of it, and what became of everything."""
    async with connected(server.url) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        prompts, kinds = PROMPTS[: given.prompts], {"greedy": 1.0}
        alone = await answers_alone(client, model, prompts, given.tokens, kinds)
        questions = questions_of(prompts, given.tokens, kinds, random.Random(0), streamed=0.5, leaving=0.0)
        end = time.monotonic() + given.seconds
        killing = asyncio.create_task(kill_one(server.pid, given.seconds / 3))
        replies = await closed_loop(client, model, questions, given.clients, end)
        killed = await killing
        back = await two_again(client, killed)
        found = outcomes(replies, killed) | {"seconds_until_two_again": back, "errors_told": errors(replies)}
        off = differing(replies, alone).get("greedy", [0, 0])
        found |= {"not_as_alone": f"{off[0]} of {off[1]}", "left_over": await left_over(client)}
    print(table(("requests", *OUTCOMES), [[name, *(str(found[name][one]) for one in OUTCOMES)] for name in SPANS]))
    key = {"part": "ray kill", "model": model, "clients": given.clients, "tokens": given.tokens}
    finish(key | {"seconds": given.seconds, "threads": threads()}, found, save=given.save and key not in Store("serve"))


SPANS = ("before the kill", "under way at the kill", "begun after it")


async def kill_one(pid: int, after: float) -> float:
    """Kill a replica's process with SIGKILL, so many seconds from now; when that was."""
    await asyncio.sleep(after)
    replicas = [one for one in psutil.Process(pid).children(recursive=True) if ":replica" in " ".join(one.cmdline())]
    print("replicas:", [one.pid for one in replicas], "killed:", replicas[0].pid, flush=True)
    os.kill(replicas[0].pid, signal.SIGKILL)
    return time.monotonic()


async def two_again(client: httpx.AsyncClient, killed: float, patience: float = 300.0) -> float | None:
    """Seconds from the kill until two replicas tell their counters; None: they do not."""
    while time.monotonic() < killed + patience:
        response = await client.get("/metrics")
        if response.status_code == 200 and len(set(re.findall(r'replica="(\w+)"', response.text))) >= 2:
            return round(time.monotonic() - killed, 1)
        await asyncio.sleep(0.5)
    return None


def outcomes(replies: list[Reply], killed: float) -> dict[str, Any]:
    """Counts by span and outcome."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPANS}
    for reply in replies:
        span = SPANS[0] if reply.ended < killed else SPANS[2] if reply.began > killed else SPANS[1]
        counts[span][outcome(reply)] += 1
    return {name: {one: counts[name][one] for one in OUTCOMES} for name in SPANS}


def outcome(reply: Reply) -> str:
    """One of `OUTCOMES`."""
    if reply.error is None:
        return OUTCOMES[0] if reply.attempts == 1 else OUTCOMES[1]
    clean = reply.error.startswith("in the stream:") or re.match(r"HTTP \d+: ", reply.error)
    return OUTCOMES[2] if clean else OUTCOMES[3]


def errors(replies: list[Reply]) -> dict[str, int]:
    """What was said, and how often."""
    return dict(Counter(reply.error for reply in replies if reply.error is not None))


if __name__ == "__main__":
    main()
