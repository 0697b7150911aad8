"""Clients of a server that speaks OpenAI's API: one request and what came of it, and loads of many."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

PROMPTS = (
    "Why is the sky blue?",
    "A train travels 60 miles in 1.5 hours. What is its speed?",
    "Name three uses of copper.",
    "What is the difference between a virus and a bacterium?",
    "Write a short poem about rain.",
    "How many minutes are there in a week?",
    "Explain what a hash table is.",
    "List the planets from the sun outwards.",
)
# What requests of a mixed load ask for beside prompt and length; seeds make the draws repeatable.
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampling": {"temperature": 0.8, "top_p": 0.95, "seed": 7},
    "lead": {"szilard": {"method": "lead"}},
    "prompt-lookup": {"szilard": {"method": "prompt-lookup"}},
}
NEVER = httpx.Timeout(None, connect=30.0)


@dataclass(frozen=True)
class Question:
    """A request.

    Attributes:
        prompt: its one message.
        kind: a key of `KINDS`.
        tokens: at most so many new ones.
        stream: whether pieces are wanted.
        leave_after: pieces after which the client goes away; None: it stays.
    """

    prompt: str
    kind: str = "greedy"
    tokens: int = 48
    stream: bool = True
    leave_after: int | None = None

    def body(self, model: str) -> dict[str, Any]:
        """The request's JSON."""
        said: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.tokens,
            "stream": self.stream,
        }
        if self.stream:
            said["stream_options"] = {"include_usage": True}
        return said | KINDS[self.kind]


@dataclass
class Reply:
    """What came back. Times are seconds on the clock of `time.monotonic`.

    Attributes:
        error: what went wrong, as "HTTP 429 ..." or an exception's name; None: nothing.
        left: the client went away, as it had planned.
        pieces: when each piece of text came.
        tokens: by the server's count; of a reply that was left, the number of pieces.
        worker: which replica said it, where the server tells.
        attempts: how many replicas were asked for it.
    """

    question: Question
    began: float
    ended: float = 0.0
    text: str = ""
    error: str | None = None
    left: bool = False
    pieces: list[float] = field(default_factory=list)
    tokens: int = 0
    worker: str = ""
    attempts: int = 1

    @property
    def whole(self) -> bool:
        """It came to its end."""
        return self.error is None and not self.left


async def ask(client: httpx.AsyncClient, question: Question, model: str) -> Reply:
    """Send a request and read the reply; nothing is raised."""
    reply = Reply(question, time.monotonic())
    try:
        if question.stream:
            await _streamed(client, question, model, reply)
        else:
            response = await client.post("/v1/chat/completions", json=question.body(model))
            _read_headers(reply, response)
            if response.status_code != 200:
                reply.error = _told(response.status_code, response.text)
            else:
                said = response.json()
                reply.text = said["choices"][0]["message"]["content"]
                reply.tokens = said["usage"]["completion_tokens"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        reply.error = f"{type(error).__name__}: {error}"
    reply.ended = time.monotonic()
    return reply


async def _streamed(client: httpx.AsyncClient, question: Question, model: str, reply: Reply) -> None:
    ended = False
    async with client.stream("POST", "/v1/chat/completions", json=question.body(model)) as response:
        _read_headers(reply, response)
        if response.status_code != 200:
            reply.error = _told(response.status_code, (await response.aread()).decode())
            return
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                ended = True
                break
            chunk = json.loads(data)
            if "error" in chunk:
                reply.error = f"in the stream: {chunk['error']['message']}"
                return
            if chunk.get("usage"):
                reply.tokens = chunk["usage"]["completion_tokens"]
            for choice in chunk["choices"]:
                text = choice["delta"].get("content")
                if text:
                    reply.text += text
                    reply.pieces.append(time.monotonic())
                ended = ended or choice.get("finish_reason") is not None
            if question.leave_after is not None and len(reply.pieces) >= question.leave_after:
                reply.left, reply.tokens = True, len(reply.pieces)
                return
    if not ended:
        reply.error = "the stream broke off"


def _read_headers(reply: Reply, response: httpx.Response) -> None:
    reply.worker = response.headers.get("x-szilard-replica", "")
    reply.attempts = int(response.headers.get("x-szilard-attempts", "1"))


def _told(status: int, body: str) -> str:
    try:
        return f"HTTP {status}: {json.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}, not in OpenAI's format: {body[:200]!r}"


async def closed_loop(
    client: httpx.AsyncClient, model: str, questions: Iterator[Question], clients: int, until: float
) -> list[Reply]:
    """So many clients, each of which asks again when its answer has ended, until a time or the questions' end."""
    replies: list[Reply] = []

    async def one() -> None:
        while time.monotonic() < until:
            question = next(questions, None)
            if question is None:
                return
            replies.append(await ask(client, question, model))

    await asyncio.gather(*(one() for _ in range(clients)))
    return replies


async def open_loop(
    client: httpx.AsyncClient,
    model: str,
    questions: Iterator[Question],
    rate: float,
    until: float,
    chance: random.Random,
) -> list[Reply]:
    """Requests that come as a Poisson process of `rate` a second, whether others are answered or not."""
    tasks = []
    while time.monotonic() < until:
        question = next(questions, None)
        if question is None:
            break
        tasks.append(asyncio.create_task(ask(client, question, model)))
        await asyncio.sleep(chance.expovariate(rate))
    return list(await asyncio.gather(*tasks))


def questions_of(
    prompts: tuple[str, ...],
    tokens: int,
    kinds: dict[str, float],
    chance: random.Random,
    *,
    streamed: float,
    leaving: float,
) -> Iterator[Question]:
    """Questions without end: kinds by their weights, a share streamed, a share of those left in mid-stream."""
    while True:
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        stream = chance.random() < streamed
        leave = chance.randint(1, max(1, tokens // 2)) if stream and chance.random() < leaving else None
        yield Question(chance.choice(prompts), kind, tokens, stream, leave)


async def answers_alone(
    client: httpx.AsyncClient, model: str, prompts: tuple[str, ...], tokens: int, kinds: dict[str, float]
) -> dict[tuple[str, str], str]:
    """What every prompt gets by every kind when nobody else asks.

    Raises:
        RuntimeError: the server refuses one.
    """
    found = {}
    for kind in kinds:
        for prompt in prompts:
            reply = await ask(client, Question(prompt, kind, tokens, stream=False), model)
            if reply.error is not None:
                raise RuntimeError(f"{kind} alone: {reply.error}")
            found[prompt, kind] = reply.text
    return found


def differing(replies: list[Reply], alone: dict[tuple[str, str], str]) -> dict[str, list[int]]:
    """By kind: replies that are not what the same request got alone, and all that were compared.

    A reply that was left must be the beginning of it.
    """
    found: dict[str, list[int]] = {}
    for reply in replies:
        if reply.error is not None:
            continue
        expected = alone[reply.question.prompt, reply.question.kind]
        same = expected.startswith(reply.text) if reply.left else expected == reply.text
        counts = found.setdefault(reply.question.kind, [0, 0])
        counts[0] += not same
        counts[1] += 1
    return found


def figures(replies: list[Reply], seconds: float) -> dict[str, Any]:
    """Requests, errors, quantiles of the waiting times and tokens a second of a load."""
    streamed = [reply for reply in replies if reply.error is None and reply.question.stream and reply.pieces]
    first = [reply.pieces[0] - reply.began for reply in streamed]
    each = [
        (reply.pieces[-1] - reply.pieces[0]) / (len(reply.pieces) - 1) for reply in streamed if len(reply.pieces) > 1
    ]
    whole = [reply.ended - reply.began for reply in replies if reply.whole]
    errors: dict[str, int] = {}
    for reply in replies:
        if reply.error is not None:
            errors[reply.error] = errors.get(reply.error, 0) + 1
    return {
        "requests": len(replies),
        "whole": len(whole),
        "left": sum(reply.left for reply in replies),
        "errors": sum(errors.values()),
        "error_texts": errors,
        "first_token_ms": _quantiles(first, 1e3),
        "per_token_ms": _quantiles(each, 1e3),
        "request_s": _quantiles(whole, 1.0),
        "tokens_per_s": round(sum(reply.tokens for reply in replies) / seconds, 2),
        "seconds": round(seconds, 1),
    }


def _quantiles(values: list[float], unit: float) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    at: Callable[[float], float] = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return {"p50": round(at(0.5) * unit, 2), "p95": round(at(0.95) * unit, 2)}
