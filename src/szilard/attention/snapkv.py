"""SnapKV: what the last tokens of the prompt attend to stays.

Li et al. 2024, "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS 2024, arXiv 2404.14469.

    score_j = pool_k( sum over the last w queries t of P_{t,j} )                             [batch, kv heads, slots]

The last w slots stay. Query heads of a group are averaged (with grouped heads the paper repeats the keys instead).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from szilard.attention.eviction import Eviction, Slots
from szilard.options import check_choice, check_number


@dataclass(frozen=True)
class SnapKv(Eviction):
    """Attention of an observation window.

    Attributes:
        window: w, last tokens of the prompt whose attention is looked at; they stay.
        kernel: width of the pooling over neighbouring slots; 1: none.
        pool: "max" (paper) or "avg".
    """

    slug: ClassVar[str] = "snapkv"
    paper: ClassVar[str] = "Li et al., NeurIPS 2024, arXiv 2404.14469"
    phases: ClassVar[tuple[str, ...]] = ("prefill",)

    sinks: int = 0
    recent: int = 0
    window: int = 32
    kernel: int = 7
    pool: str = "max"

    def __post_init__(self) -> None:
        check_number("window", self.window, low=1, integer=True)
        check_number("kernel", self.kernel, low=1, integer=True)
        check_choice("pool", self.pool, ("max", "avg"))
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a slot lies in the middle of it, not {self.kernel}.")
        super().__post_init__()

    @property
    def protected(self) -> int:
        return self.sinks + self.newest(0)

    def newest(self, budget: Any) -> Any:
        return max(self.recent, self.window)

    def score(self, slots: Slots) -> torch.Tensor:
        return observed(slots, self.window, self.kernel, self.pool)


def observed(slots: Slots, window: int, kernel: int, pool: str) -> torch.Tensor:
    """Pooled attention of the last `window` tokens, float32 [batch, kv heads, slots]."""
    first = max(0, slots.call.new - window)
    return pooled(slots, slots.probabilities(slice(first, None)).sum(3).mean(2), window, kernel, pool)


def pooled(slots: Slots, mass: torch.Tensor, window: int, kernel: int, pool: str) -> torch.Tensor:
    """What fell on every slot, and on its neighbours, [batch, kv heads, slots]; the last `window` slots, which stay
    anyway, lend their neighbours nothing."""
    newest = slots.order >= slots.real.sum(-1, keepdim=True) - window
    mass = mass.masked_fill(newest | ~slots.real, 0.0)
    if kernel == 1:
        return mass
    if pool == "max":
        return F.max_pool1d(mass, kernel, stride=1, padding=kernel // 2)
    return F.avg_pool1d(mass, kernel, stride=1, padding=kernel // 2)  # beyond the ends there is nothing, as in padding
