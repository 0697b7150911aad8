"""TOVA: at every step the slot that the newest token attends to least is dropped, in all heads alike.

Oren et al. 2024, "Transformers are Multi-State RNNs", EMNLP 2024, arXiv 2401.06104.

    score_j = mean over heads of P_{n,j}, n the newest token                                       [batch, 1, slots]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from szilard.attention.eviction import Eviction, Slots


@dataclass(frozen=True)
class Tova(Eviction):
    """Attention of the newest token.

    Attributes:
        recent: last tokens that always stay; the newest one attends to itself little and is protected by 1.
    """

    slug: ClassVar[str] = "tova"
    paper: ClassVar[str] = "Oren et al., EMNLP 2024, arXiv 2401.06104"

    sinks: int = 0
    recent: int = 1
    phase: str = "both"

    def score(self, slots: Slots) -> torch.Tensor:
        return slots.probabilities(slice(slots.call.new - 1, None)).mean((1, 2))[:, 0][:, None]
