"""CKNNA: how alike two sets of features are, among neighbours that both agree on.

Huh, Cheung, Wang, Isola, "The Platonic Representation Hypothesis", ICML 2024, appendix A. With K = X X^T, L = Y Y^T,
and a mask M that keeps pairs (i, j), i != j, where j is one of i's k nearest in X and in Y:

    align(K, L) = sum over M of the doubly centred K~_ij L~_ij
    CKNNA = align(K, L) / sqrt(align(K, K) align(L, L))

align(K, K) keeps the k nearest of X alone. With k = n - 1 every pair counts.

# Paper: the appendix takes from K its rows' means alone, and the authors' code masks K and L first and takes an
# unbiased HSIC of what is left; here: K is centred on both sides, as CKA's, before the mask, because then features that
# differ by a rotation and a scale agree to 1 and k = n - 1 is CKA without its diagonal. The three give different
# numbers: compare only those of one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.options import check_number


def cknna(x: Any, y: Any, k: int = 10) -> float:
    """Centred kernel alignment over mutual nearest neighbours.

    Args:
        x, y: [n, d] and [n, e] features of the same n things, tensors or arrays.
        k: neighbours; 10 is customary.

    Returns:
        At most 1; 1 for equal features, whatever their rotation or scale; about 0 for unrelated ones.

    Raises:
        TypeError, ValueError: other shapes, numbers that are none, k not between 1 and n - 1, or no shared neighbours'
            variation to compare.
    """
    first, second = (_features(name, value) for name, value in (("x", x), ("y", y)))
    count = len(first)
    if len(second) != count:
        raise ValueError(f"x and y must be features of the same things, not of {count} and {len(second)}.")
    check_number("k", k, low=1, high=count - 1, integer=True)
    kernels, near = zip(*(_kernel(one, k) for one in (first, second)), strict=True)
    shared = _align(kernels[0], kernels[1], near[0] & near[1])
    own = [_align(kernel, kernel, mask) for kernel, mask in zip(kernels, near, strict=True)]
    if min(own) <= 0:
        raise ValueError("features that are all the same have no neighbours to compare: give others.")
    return float(shared / (own[0] * own[1]) ** 0.5)


def _features(name: str, value: Any) -> Tensor:
    found = torch.as_tensor(value)
    if found.dim() != 2 or len(found) < 3:
        raise ValueError(f"{name} must be [n, d] with n at least 3, not {list(found.shape)}.")
    found = found.detach().double()
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name} holds numbers that are not finite.")
    return found


def _kernel(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The doubly centred kernel, and who is near whom, both [n, n]."""
    kernel = features @ features.T
    centred = kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()
    # Nearest by the uncentred inner product, as published; nobody is a neighbour of itself.
    ranked = kernel.clone().fill_diagonal_(float("-inf"))
    near = torch.zeros_like(kernel, dtype=torch.bool).scatter_(1, ranked.topk(k, dim=1).indices, True)
    return centred, near


def _align(first: Tensor, second: Tensor, mask: Tensor) -> float:
    return float((first * second * mask).sum())
