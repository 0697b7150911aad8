"""H2O: heavy hitters, the slots that attention has fallen on most, and the recent ones.

Zhang et al. 2023, "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", NeurIPS 2023,
arXiv 2306.14048.

    score_j = sum over all queries t so far of P_{t,j}                                       [batch, kv heads, slots]

Half of the budget goes to the newest slots, half to the heaviest; one slot leaves at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from szilard.attention.eviction import Eviction, Slots
from szilard.options import check_bool, check_number

_MASS = "mass"


@dataclass(frozen=True)
class H2o(Eviction):
    """Accumulated attention.

    Attributes:
        recent_share: share of the budget that the newest slots have.
        average: divide a slot's mass by the number of queries that could see it, which takes away the advantage of
            early tokens (not in the paper).
    """

    slug: ClassVar[str] = "h2o"
    paper: ClassVar[str] = "Zhang et al., NeurIPS 2023, arXiv 2306.14048"

    sinks: int = 0
    recent: int = 0
    phase: str = "both"
    recent_share: float = 0.5
    average: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("recent_share", self.recent_share, low=0, high=0.99)
        check_bool("average", self.average)

    def newest(self, budget: Any) -> Any:
        share = budget * self.recent_share
        return share.long().clamp(min=self.recent) if isinstance(share, torch.Tensor) else max(self.recent, int(share))

    def watch(self, slots: Slots) -> None:
        marks, mass = slots.layer.marks, slots.attention_mass()
        marks[_MASS] = marks[_MASS] + mass if _MASS in marks else mass

    def score(self, slots: Slots) -> torch.Tensor:
        mass = slots.layer.marks[_MASS]
        if not self.average:
            return mass
        return mass / (slots.layer.seen - slots.columns).clamp(min=1)
