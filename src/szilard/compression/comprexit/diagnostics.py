"""How many directions a transport plan and its slots use."""

from __future__ import annotations

import torch

from szilard.information.logits import entropy_of_probabilities
from szilard.information.matrix_entropy import spectrum


def plan_rank(plan: torch.Tensor) -> torch.Tensor:
    """Effective rank of plans [..., W, K_w], float64 [...]: exp of the entropy of the singular values, as shares.

    Between 1 (all slots take the same) and K_w (each from tokens of its own); 1 for a plan of zeros.
    """
    sizes = spectrum(plan, center=False, unit_rows=False).sqrt()
    return entropy_of_probabilities(sizes / sizes.sum(-1, keepdim=True).clamp(min=1e-12)).exp()


def slot_rank(slots: torch.Tensor) -> torch.Tensor:
    """Effective rank of a set of slots [..., K, d], float64 [...], likewise."""
    return plan_rank(slots)
