"""PyramidKV: SnapKV with more room in the lower layers than in the upper ones.

Cai et al. 2024, "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", arXiv 2406.02069.

    m = budget - w;   least = m / beta;   most = 2 m - least;   layer l has w + most - l (most - least) / (L - 1)

If `most` exceeds n - w for a prompt of n tokens, it is n - w and least = 2 m - most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from szilard.attention.snapkv import SnapKv
from szilard.options import check_number


@dataclass(frozen=True)
class PyramidKv(SnapKv):
    """SnapKV under budgets that fall from layer to layer.

    Attributes:
        beta: how steep: the last layer has a beta-th of the average beside its window.
    """

    slug: ClassVar[str] = "pyramidkv"
    paper: ClassVar[str] = "Cai et al. 2024, arXiv 2406.02069"

    beta: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, low=1)

    def budgets(self, prompt: int, layers: int) -> list[int]:
        even = super().budgets(prompt, layers)
        window = self.protected
        room = even[0] - window
        least = room / self.beta
        most = 2 * room - least
        if most > prompt - window:
            most = prompt - window
            least = 2 * room - most
        if layers == 1 or not most >= least >= 0:
            return even
        step = (most - least) / (layers - 1)
        return [window + round(most - step * layer) for layer in range(layers)]
