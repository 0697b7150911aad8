"""A job: one answer that is wanted, and what is told of it while it is made."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from szilard.decoding.method import Method

_LOG = logging.getLogger("szilard.server")


@dataclass(frozen=True)
class Step:
    """One step of a row: a token, and what was measured.

    Attributes:
        token: its id; None: a latent step, which says nothing.
        text: what can be said now.
        logprob: of the token, in nats; None where it is not wanted or not known.
        top: the likeliest tokens and their log-probabilities.
        record: columns of the trace.
    """

    token: int | None
    text: str = ""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    record: dict[str, Any] | None = None


@dataclass(frozen=True)
class Finished:
    """The end of a job.

    Attributes:
        reason: "stop" or "length".
        text: what was still held back.
        tokens: how many were generated.
        cost: counts of the run that the job was part of, or of its row where rows come and go, where a trace is wanted.
    """

    reason: str
    text: str
    tokens: int
    cost: dict[str, Any] | None = None


@dataclass(frozen=True)
class Failed:
    """A job that could not be done.

    Attributes:
        message: one sentence.
        status: of HTTP: 400 where the request is at fault.
    """

    message: str
    status: int = 400


Event = Step | Finished | Failed


def failure_of_ours() -> Failed:
    """Log the error that is being handled; what clients are told of it."""
    _LOG.exception("a batch failed")
    return Failed("the server failed while it decoded; its log says more.", 500)


@dataclass(eq=False)
class Job:
    """One answer.

    Attributes:
        ids: the prompt's tokens, those in the place of images among them.
        prompt: what the engine reads where there are images: a chat.
        images: of the prompt.
        raw: the answer continues the prompt's text, so that its first space counts.
        method: what chooses the tokens.
        max_new_tokens: at most so many.
        sampling: settings of `generate` for methods that draw as they are told (do_sample, temperature, ...).
        stop: texts that end the answer.
        seed: of the draws; None: they are not repeatable.
        logprobs: how many of the likeliest tokens to tell, beside the chosen one; None: none.
        trace: whether records are wanted.
        deadline: when it ends, on the monotonic clock.
        tell: gets every event, from the thread that decodes; must not block.
        cancelled: nobody waits for it any more.
        entered: when it came, on the monotonic clock.
    """

    ids: list[int]
    method: Method
    max_new_tokens: int
    tell: Callable[[Event], None]
    deadline: float
    prompt: Any = None
    images: list[Any] = field(default_factory=list)
    raw: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    trace: bool = False
    cancelled: bool = False
    entered: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        """Nobody waits for it, or its time is up."""
        return self.cancelled or time.monotonic() > self.deadline

    def forgotten(self) -> bool:
        """Whether it is over before it began; then that is told."""
        over = self.is_over
        if over:
            self.tell(Failed("nothing was written until the deadline, or until the server closed: ask again.", 503))
        return over

    @property
    def is_plain(self) -> bool:
        """One token a step, by the logits alone: such jobs join and leave a batch at every step."""
        return self.method.slug in ("greedy", "sampling") and not self.images

    @property
    def group(self) -> tuple[Any, ...]:
        """Jobs of one group are decoded together."""
        if self.is_plain:
            return ("plain",)
        alone = (id(self),) if self.seed is not None or self.images else ()
        drawn = tuple(sorted(self.sampling.items()))
        return (str(self.method), self.method.slug, drawn, self.trace, self.max_new_tokens, *alone)
