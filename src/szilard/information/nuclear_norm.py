"""The nuclear norm, the sum of singular values: how much rank a batch of codes uses, as something to minimise.

    ||R||_nuc = sum_i sigma_i = sum_i sqrt(eig_i(G)),   G = R R^T or R^T R, the smaller of them

A full decomposition is slow, and the gradient of its vectors is singular where values repeat; that of eigenvalues alone
is not. Everything is float64, since a Gram matrix squares the spread of the values. Units: those of R.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.information.arrays import as_floats

_FLOOR = 1e-12  # of the largest eigenvalue; below it one is rounding


def nuclear_norm(matrix: Any) -> Tensor:
    """||R||_nuc of a matrix [N, m], numpy or torch; a float64 scalar with a gradient.

    Raises:
        ValueError: not a matrix, or numbers that are none.
    """
    return singular_values(matrix).sum()


def singular_values(matrix: Any) -> Tensor:
    """[min(N, m)] by rising size, from the smaller Gram matrix; exact zeros for what is rounding.

    Raises:
        ValueError: not a matrix, or numbers that are none.
    """
    found = _checked("matrix", matrix)
    return _roots(found @ found.T if len(found) <= found.shape[1] else found.T @ found)


def nuclear_norm_of_product(left: Any, right: Any) -> Tensor:
    """||X W^T||_nuc for X [N, d] and W [m, d], from matrices of d x d where d is the smallest.

    With X^T X = C C^T the squares of the singular values are the eigenvalues of C^T (W^T W) C.

    Returns:
        A float64 scalar with a gradient.

    Raises:
        ValueError: shapes that do not fit, or numbers that are none.
    """
    x, w = _checked("left", left), _checked("right", right)
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"left {list(x.shape)} and right {list(w.shape)} must have as many columns.")
    if min(len(x), len(w)) <= x.shape[1]:
        return _roots(_smaller(x @ w.T)).sum()
    gram = x.T @ x
    lift = _FLOOR * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny  # a direction that X never takes
    factor = torch.linalg.cholesky(gram + lift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return _roots(factor.T @ (w.T @ w) @ factor).sum()


def _smaller(matrix: Tensor) -> Tensor:
    return matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix


def _roots(gram: Tensor) -> Tensor:
    values = torch.linalg.eigvalsh(gram)
    floor = _FLOOR * values.detach().amax().clamp(min=1e-200)
    return torch.where(values > floor, values.clamp(min=floor).sqrt(), 0.0)  # no infinite slope at 0


def _checked(name: str, given: Any) -> Tensor:
    found = as_floats(name, given)
    if found.dim() != 2 or not found.numel():
        raise ValueError(f"{name} must be a matrix with rows and columns, not {list(found.shape)}.")
    return found
