"""Entropy-regularised optimal transport: the cheapest way to move masses, blurred so that it can be differentiated.

Cuturi 2013, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", arXiv 1306.0895. For a cost C [n, m] and
masses a [n], b [m] of equal sum, the plan P >= 0 with row sums a and column sums b that minimises

    sum_tk P_tk C_tk  -  epsilon H(P)             =>   P_tk = exp(-C_tk / epsilon + u_t + v_k)
    u_t = log a_t - logsumexp_k(-C_tk / epsilon + v_k),   v_k = log b_k - logsumexp_t(-C_tk / epsilon + u_t)

found by turns. Our own, in a few lines, and measured against the library POT in the tests: POT 0.9.7 has the same turns
for batches and differentiates through them (`ot.batch.bregman_log_projection_batch`), but gives NaN for a problem
without mass (a window that is all padding) and NaN gradients of a mass of zero, tests for convergence meanwhile, and
takes three dimensions only.
"""

from __future__ import annotations

import torch

from szilard.options import check_number

_NOTHING = -1e9  # log of no mass: finite, since infinities make NaN of gradients


def sinkhorn(
    cost: torch.Tensor,
    row_mass: torch.Tensor,
    column_mass: torch.Tensor,
    epsilon: float,
    iterations: int,
) -> torch.Tensor:
    """A transport plan after so many turns of Sinkhorn's algorithm, in the log domain; gradients flow through them all.

    The columns are adjusted last: their sums are exact, those of the rows approach their masses as turns are added.
    Rows and columns without mass, and problems without any, get zeros and gradients of zero.

    Args:
        cost: C, [..., n, m], any floating dtype; finite (also where there is no mass).
        row_mass: a, [..., n], at least 0.
        column_mass: b, [..., m], at least 0; it adds up to what `row_mass` adds up to.
        epsilon: weight of the entropy, in units of the cost, above 0; inf gives a b^T (for masses of sum 1).
        iterations: turns, at least 1.

    Returns:
        P, [..., n, m], float32 (float64 for a float64 cost).

    Raises:
        TypeError: a tensor that is not floating.
        ValueError: shapes that do not fit, or a number out of range.
    """
    for name, tensor in (("cost", cost), ("row_mass", row_mass), ("column_mass", column_mass)):
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, not {tensor!r}.")
    rows, columns = (*cost.shape[:-2], *cost.shape[-2:-1]), (*cost.shape[:-2], *cost.shape[-1:])
    if cost.dim() < 2 or row_mass.shape != rows or column_mass.shape != columns:
        raise ValueError(
            f"a cost of shape {list(cost.shape)} needs masses of shape {list(rows)} and {list(columns)}, not "
            f"{list(row_mass.shape)} and {list(column_mass.shape)}."
        )
    check_number("epsilon", epsilon, low=0)
    if epsilon == 0:
        raise ValueError("epsilon must be above 0; without entropy the plan is a linear programme (POT: ot.emd).")
    check_number("iterations", iterations, low=1, integer=True)

    exact = torch.float64 if cost.dtype == torch.float64 else torch.float32
    kernel = -cost.to(exact) / epsilon  # log K, [..., n, m]
    a, b = _log(row_mass.to(exact)), _log(column_mass.to(exact))
    some_a, some_b = row_mass > 0, column_mass > 0
    v = torch.where(some_b, 0.0, _NOTHING).to(exact)  # columns without mass take part in no turn
    for _ in range(iterations):
        u = torch.where(some_a, a - (kernel + v[..., None, :]).logsumexp(-1), _NOTHING)  # [..., n]
        v = torch.where(some_b, b - (kernel + u[..., None]).logsumexp(-2), _NOTHING)  # [..., m]
    both = some_a[..., None] & some_b[..., None, :]
    exponent = torch.where(both, kernel + u[..., None] + v[..., None, :], _NOTHING)
    return exponent.exp() * both


def _log(mass: torch.Tensor) -> torch.Tensor:
    """log, and 0 where it is not looked at: the gradient of log at 0 would be NaN behind a mask."""
    return torch.where(mass > 0, mass, 1.0).log()
