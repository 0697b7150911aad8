"""What every clever way of dropping words must beat: chance, and the scissors.

Random dropping and truncation at an equal budget are the baselines of Pan et al. 2024 (LLMLingua-2), arXiv 2403.12968,
and of Li et al. 2023 (Selective Context), arXiv 2310.06201.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from szilard.compression.dropping import ScoredText, WordDropping
from szilard.options import check_choice, check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class RandomDropping(WordDropping):
    """Drops words by chance.

    Attributes:
        seed: with the text itself it decides what goes: a text is always shortened alike, whatever stands beside it in
            the batch, and a smaller budget keeps a subset of what a larger one keeps.
    """

    slug: ClassVar[str] = "random-dropping"
    paper: ClassVar[str] = "baseline of Pan et al. 2024, arXiv 2403.12968"
    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("seed", self.seed, low=0, integer=True)

    def scored(self, contexts: Sequence[str], engine: Engine | None) -> list[ScoredText]:
        found = []
        for text in contexts:
            spans, forced = self.regex_segmented(text)
            digest = hashlib.sha256(f"{self.seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
            chance = np.random.default_rng(int.from_bytes(digest[:16], "big"))
            found.append(ScoredText(text, spans, chance.random(len(spans)), forced))
        return found


@dataclass(frozen=True)
class Truncation(WordDropping):
    """Cuts the text off.

    Attributes:
        side: what goes: "tail": the end; "head": the beginning; "middle": the middle, so that as many words of the
            beginning as of the end stay.
    """

    slug: ClassVar[str] = "truncation"
    paper: ClassVar[str] = "baseline, without a source"
    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)
    passes_over: ClassVar[bool] = False

    side: str = "tail"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("side", self.side, ("head", "tail", "middle"))

    def scored(self, contexts: Sequence[str], engine: Engine | None) -> list[ScoredText]:
        found = []
        for text in contexts:
            spans, forced = self.regex_segmented(text)
            place = np.linspace(1.0, 0.0, len(spans))  # 1 at the beginning
            scores = {"tail": place, "head": 1 - place, "middle": np.abs(2 * place - 1)}[self.side]
            found.append(ScoredText(text, spans, scores, forced))
        return found
