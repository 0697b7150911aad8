"""LocalLeap: near a column that is sure, a looser threshold will do.

Kong et al. 2025, "Accelerating Diffusion LLM Inference via Local Determinism Propagation", arXiv 2510.07081. With
anchors A = {i masked : c_i >= kappa} of this round,

    commit A and {j masked : c_j >= tau, |j - a| <= W for some a in A}; without an anchor the most confident column.

Only columns that are still open are anchors, and what is committed beside one is none before the next round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from szilard.diffusion.look import Look
from szilard.diffusion.method import DiffusionMethod
from szilard.options import check_number

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState


@dataclass(frozen=True)
class LocalLeap(DiffusionMethod):
    """Anchors by a strict threshold, their neighbours by a looser one.

    Attributes:
        anchor: kappa, confidence of an anchor. Above 1: one column per round.
        relaxed: tau, confidence that is enough near an anchor; None: as much as an anchor's, a plain threshold.
        radius: W, columns to either side; 0: a plain threshold.
    """

    slug: ClassVar[str] = "localleap"
    paper: ClassVar[str] = "Kong et al. 2025, arXiv 2510.07081"

    anchor: float = 0.9
    relaxed: float | None = 0.75
    radius: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("anchor", self.anchor, low=0)
        check_number("relaxed", self.relaxed, low=0, optional=True)
        check_number("radius", self.radius, low=0, integer=True)
        if self.relaxed is not None and self.relaxed > self.anchor:
            raise ValueError(
                f"relaxed={self.relaxed} is stricter than anchor={self.anchor}, so neighbours would be held back: give "
                "at most the anchor's confidence."
            )

    @classmethod
    def neutral(cls) -> LocalLeap:
        """No anchors: one column per round."""
        return cls(anchor=2.0, relaxed=None)

    def select(self, look: Look) -> torch.Tensor:
        anchors = look.open & (look.sure >= self.anchor)
        if self.relaxed is None or not self.radius:
            return anchors
        return anchors | (look.open & (look.sure >= self.relaxed) & near(anchors, look.columns, self.radius))

    def chosen(self, state: DenoisingState, look: Look) -> torch.Tensor:
        chosen = super().chosen(state, look)
        anchors = look.open & (look.sure >= self.anchor)
        state.cost.count("anchors", int(anchors.sum()))
        state.cost.count("neighbours", int((chosen & ~anchors & anchors.any(1, keepdim=True)).sum()))
        return chosen


def near(anchors: torch.Tensor, columns: torch.Tensor, radius: int) -> torch.Tensor:
    """Whether an anchor lies within `radius` columns, bool [rows, n].

    Args:
        anchors: bool [rows, n].
        columns: of the canvas, int64 [rows, n], ascending; they may have gaps.
        radius: columns to either side.
    """
    if columns.shape[1] < 2 or bool((columns.diff(dim=1) <= 1).all()):
        pooled = F.max_pool1d(anchors[:, None].float(), 2 * radius + 1, stride=1, padding=radius)
        return pooled[:, 0] > 0
    distance = (columns[:, :, None] - columns[:, None]).abs()
    return ((distance <= radius) & anchors[:, None]).any(2)
