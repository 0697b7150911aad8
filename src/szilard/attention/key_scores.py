"""Scores of keys alone: small norms (Knorm), unusual directions (KeyDiff), and the control that rolls dice.

Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression", EMNLP 2024, arXiv
2406.11430: score_j = -||k_j||. Park et al. 2025, "KeyDiff", arXiv 2504.15364: score_j = -cos(k_j, mean of the keys'
directions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from szilard.attention.eviction import Eviction, Slots
from szilard.options import check_number


@dataclass(frozen=True)
class Knorm(Eviction):
    """Keys with small norms stay."""

    slug: ClassVar[str] = "knorm"
    paper: ClassVar[str] = "Devoto et al., EMNLP 2024, arXiv 2406.11430"

    def score(self, slots: Slots) -> torch.Tensor:
        return -slots.keys.float().norm(dim=-1)


@dataclass(frozen=True)
class KeyDiff(Eviction):
    """Keys that point elsewhere than the others stay."""

    slug: ClassVar[str] = "keydiff"
    paper: ClassVar[str] = "Park et al. 2025, arXiv 2504.15364"

    def score(self, slots: Slots) -> torch.Tensor:
        direction = F.normalize(slots.keys.float(), dim=-1)
        real = slots.real[..., None]
        mean = (direction * real).sum(2, keepdim=True) / real.sum(2, keepdim=True).clamp(min=1)
        return -F.cosine_similarity(direction, mean, dim=-1)


@dataclass(frozen=True)
class RandomEviction(Eviction):
    """The control: slots stay by chance.

    Attributes:
        seed: of the dice; a text's slots fall alike in every batch.
    """

    slug: ClassVar[str] = "random-eviction"
    paper: ClassVar[str] = "a control of szilard's"

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("seed", self.seed, low=0, high=2**31 - 1, integer=True)

    def score(self, slots: Slots) -> torch.Tensor:
        heads = torch.arange(slots.keys.shape[1], device=slots.keys.device)[:, None]
        place = slots.columns - slots.columns.masked_fill(~slots.real, 2**31).amin(-1, keepdim=True)
        mixed = (place + 1) * 2654435761 + (heads + 1) * 40503 + (slots.index + 1) * 69069 + self.seed * 22695477
        for _ in range(3):  # xorshift, on 32 bits
            mixed = (mixed ^ (mixed << 13)) & 0xFFFFFFFF
            mixed = mixed ^ (mixed >> 17)
            mixed = (mixed ^ (mixed << 5)) & 0xFFFFFFFF
        return mixed.float()
