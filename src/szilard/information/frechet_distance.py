"""How far a set of samples is from another: the distance of two Gaussians, and of nearest neighbours.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017 (with an Inception network: FID; with DINO:
FDD). Of any features:

    d^2 = |mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def frechet_distance(x: Any, y: Any) -> float:
    """d^2 between Gaussians with the mean and the covariance of each set.

    Args:
        x, y: [n, d] and [m, d] features, tensors or arrays; more rows than d, or the covariance is poor.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        ValueError: other shapes, or numbers that are none.
    """
    first, second = _sets(x, y)
    mean_gap = float((first.mean(0) - second.mean(0)).square().sum())
    a, b = first - first.mean(0), second - second.mean(0)
    # tr (C_x C_y)^(1/2) is the sum of the singular values of A B^T / sqrt((n - 1) (m - 1)): no square root of a matrix
    # that rounding made indefinite. A factor of d x d is enough of each.
    factors = [torch.linalg.qr(one, mode="r").R / (len(one) - 1) ** 0.5 for one in (a, b)]
    overlap = float(torch.linalg.svdvals(factors[0] @ factors[1].T).sum())
    spread = sum(float(one.square().sum()) for one in factors)
    return max(0.0, mean_gap + spread - 2 * overlap)


def nearest_distance(samples: Any, reference: Any, chunk: int = 1024) -> Tensor:
    """The Euclidean distance of each sample to the nearest of the reference.

    Args:
        samples, reference: [n, d] and [m, d].
        chunk: samples at a time.

    Returns:
        float64 [n].

    Raises:
        ValueError: other shapes, or numbers that are none.
    """
    first, second = _sets(samples, reference)
    return torch.cat([torch.cdist(part, second).amin(1) for part in first.split(chunk)])


def energy_distance(x: Any, y: Any) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Szekely and Rizzo 2013): 0 for samples of one distribution.

    Args:
        x, y: [n, d] and [m, d].

    Raises:
        ValueError: other shapes, or numbers that are none.
    """
    first, second = _sets(x, y)
    n, m = len(first), len(second)
    between = float(torch.cdist(first, second).mean())
    inside = float(torch.cdist(first, first).sum()) / (n * (n - 1)) + float(torch.cdist(second, second).sum()) / (
        m * (m - 1)
    )
    return 2 * between - inside


def _sets(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    found = []
    for value in (x, y):
        one = torch.as_tensor(value).detach().double()
        if one.dim() != 2 or len(one) < 2:
            raise ValueError(f"a set of features must be [n, d] with n at least 2, not {list(one.shape)}.")
        if not bool(torch.isfinite(one).all()):
            raise ValueError("features must be finite numbers.")
        found.append(one)
    if found[0].shape[1] != found[1].shape[1]:
        raise ValueError(f"both sets must have the same d, not {found[0].shape[1]} and {found[1].shape[1]}.")
    return found[0], found[1]
