"""A shortened text, and the words it was made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from szilard.engines.prepared_context import PreparedContext


@dataclass(frozen=True)
class Word:
    """A stretch of the original that is kept or dropped as a whole.

    Attributes:
        start, end: characters of the original, end exclusive; white space before the word is not part of it.
        score: how much it is worth keeping: a probability, or nats of self-information.
        tokens: what it costs, in the tokens that the budget counts.
        kept: whether it stayed.
    """

    start: int
    end: int
    score: float
    tokens: int
    kept: bool


@dataclass(frozen=True)
class CompressedText(PreparedContext):
    """A shortened context.

    Attributes:
        text: what is left; kept words keep their spelling and order.
        original: the context as it was given.
        words: all words of the original, in order.
        original_tokens, compressed_tokens: counted with `counted_by`.
        method: slug of the compressor.
        counted_by: whose tokens were counted.
        cost: what the compression took: "forwards", "tokens" (through the scoring model), "seconds".
    """

    text: str
    original: str
    words: tuple[Word, ...]
    original_tokens: int
    compressed_tokens: int
    method: str
    counted_by: str
    cost: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    @property
    def content(self) -> str:
        """The text."""
        return self.text

    @property
    def rate(self) -> float:
        """Compressed over original tokens."""
        return self.compressed_tokens / self.original_tokens if self.original_tokens else 1.0

    @property
    def kept(self) -> tuple[bool, ...]:
        """Which words stayed."""
        return tuple(word.kept for word in self.words)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Characters of the original that stayed, (start, end) per kept word."""
        return tuple((word.start, word.end) for word in self.words if word.kept)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: text, counts and method; no words."""
        return {
            "text": self.text,
            "method": self.method,
            "original_tokens": self.original_tokens,
            "compressed_tokens": self.compressed_tokens,
            "rate": self.rate,
            "counted_by": self.counted_by,
        }
