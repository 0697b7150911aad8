"""Greedy decoding: the most likely token, every step. The plain loop that every other method is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from szilard.decoding.method import Method
from szilard.decoding.plain import plain_decode
from szilard.decoding.state import DecodingState
from szilard.decoding.warpers import without_warpers


@dataclass(frozen=True)
class Greedy(Method):
    """x_t = argmax_v z_t[v], after the run's logits processors (repetition penalty, bans, ...) but not its warpers."""

    slug: ClassVar[str] = "greedy"
    paper: ClassVar[str] = "folklore"
    honours_do_sample: ClassVar[bool] = False

    @classmethod
    def neutral(cls) -> Greedy:
        """Greedy is plain decoding."""
        return cls()

    def decode(self, state: DecodingState) -> None:
        """The plain loop without a draw."""
        plain_decode(state, processors=without_warpers(state.logits_processor), do_sample=False)
