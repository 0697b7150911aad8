"""Matrix entropy: how many directions a set of vectors really uses.

The vectors of a set are centred and brought to length 1; Sigma = (1/n) sum x x^T then has trace 1, and its eigenvalues
are a distribution whose Shannon entropy is the (von Neumann) entropy of the set. X^T X (d x d) and X X^T (n x n) have
the same non-zero eigenvalues: the smaller one is diagonalised. All in float64, in nats.
"""

from __future__ import annotations

import math

import torch

_TINY = 1e-12


def spectrum(
    vectors: torch.Tensor, *, mask: torch.Tensor | None = None, center: bool = True, unit_rows: bool = True
) -> torch.Tensor:
    """Eigenvalues of the normalised covariance of a set of vectors, descending.

    Args:
        vectors: [..., n, d].
        mask: bool [..., n], False: not of the set.
        center: subtract the set's mean.
        unit_rows: bring every vector to length 1 (a vector equal to the mean counts as nothing).

    Returns:
        float64 [..., min(n, d)], non-negative, adding up to 1 (to 0 for a set without any direction).

    Raises:
        ValueError: fewer than two dimensions.
    """
    if vectors.dim() < 2:
        raise ValueError(f"a set of vectors has a shape [..., n, d], not {list(vectors.shape)}.")
    x = vectors.double()
    count: torch.Tensor | int = x.shape[-2]
    if mask is not None:
        weight = mask.double()[..., None]
        count = weight.sum(-2, keepdim=True).clamp(min=1)
        x = x * weight
        if center:
            x = (x - x.sum(-2, keepdim=True) / count) * weight
    elif center:
        x = x - x.mean(-2, keepdim=True)
    if unit_rows:
        length = x.norm(dim=-1, keepdim=True)
        scale = length.amax(-2, keepdim=True).clamp(min=_TINY)
        x = torch.where(length > _TINY * scale, x / length.clamp(min=_TINY * scale), 0.0)
    n, d = x.shape[-2:]
    gram = x.transpose(-1, -2) @ x if d <= n else x @ x.transpose(-1, -2)
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    values = torch.linalg.eigvalsh(gram / trace.clamp(min=_TINY)).clamp(min=0.0)
    return values.flip(-1)


def matrix_entropy(
    vectors: torch.Tensor,
    *,
    top: int | None = None,
    mask: torch.Tensor | None = None,
    center: bool = True,
    unit_rows: bool = True,
    normalize: bool = False,
) -> torch.Tensor:
    """-sum over the `top` largest eigenvalues of lambda log lambda, 0 log 0 = 0; see `spectrum`.

    Args:
        vectors: [..., n, d].
        top: how many eigenvalues count; None: all.
        mask, center, unit_rows: as in `spectrum`.
        normalize: divide by log d, whatever `top` is, so that all directions used alike give 1.

    Returns:
        float64 [...], nats (or a share of log d), at least 0.

    Raises:
        ValueError: `top` below 1.
    """
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, not {top!r}.")
    values = spectrum(vectors, mask=mask, center=center, unit_rows=unit_rows)[..., :top]
    found = -torch.xlogy(values, values).sum(-1)
    found = found.clamp(min=0.0)
    return found / math.log(vectors.shape[-1]) if normalize and vectors.shape[-1] > 1 else found


def effective_rank(vectors: torch.Tensor, *, top: int | None = None, mask: torch.Tensor | None = None) -> torch.Tensor:
    """exp(matrix entropy), float64 [...]: between 1 and the number of directions."""
    return matrix_entropy(vectors, top=top, mask=mask).exp()
