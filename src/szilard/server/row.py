"""A job that is being decoded: what it is told of every token, and why it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from szilard.server.jobs import Finished, Job, Step
from szilard.server.row_text import RowText

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


class Row:
    """One row of a batch.

    Args:
        job: whose row it is.
        engine: on which it is decoded.
        ends: ids at which an answer of the model ends.

    Attributes:
        tokens: how many have been told.
        reason: why the row is over; None: it goes on.
    """

    def __init__(self, job: Job, engine: Engine, ends: frozenset[int]) -> None:
        self.job = job
        self.tokens = 0
        self.reason: str | None = None
        self._ended = False  # and its end has been told
        self._ends = ends
        self._text = RowText(engine.decode_text, job.stop, engine.read_before(job.ids) if job.raw else ())

    def say(self, token: int, **found: Any) -> None:
        """Tell of a token, with what was measured (fields of `Step`)."""
        self.tokens += 1
        ends = token in self._ends
        self.job.tell(Step(token, "" if ends else self._text.add(token), **found))
        if ends or self._text.stopped:
            self.reason = "stop"
        elif self.tokens >= self.job.max_new_tokens:
            self.reason = "length"

    def give_up(self) -> bool:
        """Whether the row is over, or nobody waits for it any more."""
        if self.reason is None and self.job.is_over:
            self.reason = "length"
        return self.reason is not None

    def finish(self, cost: dict[str, Any] | None) -> None:
        """Tell of the end, once; the cost only where a trace is wanted."""
        if self._ended:
            return
        self._ended = True
        self.job.tell(Finished(self.reason or "stop", self._text.end(), self.tokens, cost if self.job.trace else None))
