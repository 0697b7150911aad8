"""How stochastic a distribution over tokens is, by any divergence: copying one draw against drawing twice.

Zhang, "A Markov Categorical Framework for Language Modeling", arXiv:2507.19247, definition 4.1:

    H_D(p) = D(diag(p) || p (x) p)        on V x V, which is never built

    kl          -sum p log p                                       Shannon's entropy
    tv          1 - sum p^2                                        chance that two draws differ
    renyi       log(sum p^(2 - alpha)) / (alpha - 1)               Renyi's entropy of order 2 - alpha
    hellinger   2 (1 - sum p^(3/2))                                squared Hellinger distance
    chi_square  tokens with p > 0, minus 1

The closed forms beyond the first are derived. All are 0 for a point mass and only for it. Nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.information.arrays import as_numbers
from szilard.options import check_choice, check_number

DIVERGENCES = ("kl", "tv", "renyi", "hellinger", "chi_square")


def categorical_entropy(probabilities: Any, divergence: str = "kl", *, alpha: float = 0.5) -> Tensor:
    """H_D of each distribution.

    Args:
        probabilities: [..., V], numpy or torch, at least 0, adding up to 1.
        divergence: one of `DIVERGENCES`.
        alpha: order of the Renyi divergence, between 0 and 2, not 1.

    Returns:
        [...], at least float32.

    Raises:
        ValueError: no distributions, or a setting out of range. The reverse KL is infinite unless p is a point mass,
            so it is not offered.
    """
    check_choice("divergence", divergence, DIVERGENCES)
    p = checked_probabilities(probabilities)
    if divergence == "kl":
        return -torch.xlogy(p, p).sum(-1)
    if divergence == "tv":
        return 1 - p.square().sum(-1)
    if divergence == "hellinger":
        return 2 * (1 - p.pow(1.5).sum(-1))
    if divergence == "chi_square":
        return (p > 0).sum(-1).to(p.dtype) - 1
    check_number("alpha", alpha, low=1e-6, high=2 - 1e-6)
    if abs(alpha - 1) < 1e-6:
        raise ValueError("the Renyi divergence of order 1 is the KL divergence: take divergence='kl'.")
    return p.pow(2 - alpha).sum(-1).log() / (alpha - 1)


def checked_probabilities(given: Any) -> Tensor:
    """Distributions in at least float32.

    Raises:
        TypeError: no array of numbers.
        ValueError: negative numbers, or sums that are not 1.
    """
    p = as_numbers("distributions", given)
    if p.dim() < 1 or not p.numel():
        raise ValueError(f"distributions must be [..., V], not {list(p.shape)}.")
    total = p.sum(-1)
    if bool((p < 0).any()) or not bool(torch.allclose(total, torch.ones_like(total), atol=2e-3)):
        raise ValueError("distributions must be at least 0 and add up to 1: give probabilities, not logits.")
    return p
