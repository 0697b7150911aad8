"""SwiReasoning: switch between explicit and latent thinking at the entropy's turns.

Shi et al., ICLR 2026, arXiv 2510.05069; reference code sdc17/SwiReasoning (BSD-3). LEAD's nearest relative: the same
loop without absolute gates, with the thinking marker in the place of the visual anchor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from szilard.decoding.lead import Lead


@dataclass(frozen=True)
class SwiReasoning(Lead):
    """The fields and equations are `Lead`'s; these defaults differ.

    Attributes:
        window: W = 512 (text models with budgets of 32k tokens; set it lower for short answers).
        anchor: the thinking marker: entering latent thinking feeds alpha_t e~_t + (1 - alpha_t) e(<think>).
        anchor_strength: 1 - alpha_0; alpha_0 is tuned per model in 0.1..1.0, 0.5 is typical. It decays to 0.
        closing_mix: beta_0 = 0.7.
        structural_tokens: "math".
        max_switches: C_max as the code counts it (half of the paper's); off unless set.
    """

    slug: ClassVar[str] = "swi-reasoning"
    paper: ClassVar[str] = "Shi et al., ICLR 2026, arXiv 2510.05069"

    anchor_strength: float = 0.5
    window: int | float = 512
    max_switches: int | None = None
    anchor: str | Sequence[int] | torch.Tensor | None = "<think>"
    anchor_decay: bool = True
    closing_mix: float = 0.7
    structural_tokens: str | Sequence[int] | frozenset[int] | None = "math"

    @classmethod
    def released(cls) -> SwiReasoning:
        """The defaults: they are the released code's, but for its mix of the token backslash-n into step 0."""
        return cls()
