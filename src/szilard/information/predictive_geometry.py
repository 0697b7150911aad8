"""Which directions of a hidden state matter for the next token: the Fisher-Rao metric pulled back through the head.

Zhang, "A Markov Categorical Framework for Language Modeling", arXiv:2507.19247, section 6. With p_h = softmax(U h),
rows u_w of U:

    g*(h) = Cov_{w ~ p_h}(u_w) = U^T (diag(p_h) - p_h p_h^T) U        [d, d], of rank at most min(d, V - 1)
    KL(p_{h + e v} || p_h) = e^2 / 2  v^T g* v + O(e^3)                                     (theorem 6.1)
    KL(p_x || p_x') + KL(p_x' || p_x) = integral_0^1 (g*(h_x' + t D) D, D) dt,  D = h_x - h_x'   (derived; exact)
    E[g*] = U^T diag(E p) U - E[u_bar u_bar^T]                                              (one product of V x d x d)

Adding one vector to all rows of U changes nothing. Nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.information.arrays import as_floats, as_numbers
from szilard.options import check_number


def pullback_metric(head: Any, hidden: Any, directions: Any = None) -> Tensor:
    """g*(h), or v^T g* v for directions v without building it.

    Args:
        head: U, [V, d].
        hidden: h, [..., d].
        directions: v, [k, d]; None: the whole matrix.

    Returns:
        [..., d, d], or [..., k]: the variance of U v under p_h.

    Raises:
        ValueError: shapes that do not match.
    """
    u, h = _matched(head, hidden)
    p = torch.softmax(h @ u.T, -1)  # [..., V]
    if directions is not None:
        v = as_numbers("directions", directions)
        if v.dim() != 2 or v.shape[1] != u.shape[1]:
            raise ValueError(f"directions must be [k, {u.shape[1]}], not {list(v.shape)}.")
        scores = u @ v.to(u).T  # [V, k]
        scores = scores - scores.mean(0)  # the metric does not see it, and squares of large numbers lose digits
        return (p @ scores.square() - (p @ scores).square()).clamp(min=0)
    mean = p @ u
    second = torch.einsum("...v,vi,vj->...ij", p, u, u) if p.dim() == 1 else _second_moments(p, u)
    return second - mean.unsqueeze(-1) * mean.unsqueeze(-2)


def mean_pullback_metric(head: Any, hidden: Any, *, chunk: int = 256) -> Tensor:
    """E[g*] over hidden states: exactly, with one product of V x d x d.

    Args:
        head: U, [V, d].
        hidden: [n, d].
        chunk: states whose probabilities are held at once.

    Returns:
        [d, d].
    """
    check_number("chunk", chunk, low=1, integer=True)
    u, h = _matched(head, hidden)
    if h.dim() != 2 or not len(h):
        raise ValueError(f"hidden must be [n, d] with at least one state, not {list(h.shape)}.")
    mass = torch.zeros(len(u), dtype=u.dtype, device=u.device)
    outer = torch.zeros(u.shape[1], u.shape[1], dtype=u.dtype, device=u.device)
    for part in h.split(chunk):
        p = torch.softmax(part @ u.T, -1)
        mass += p.sum(0)
        mean = p @ u
        outer += mean.T @ mean
    return (u.T * (mass / len(h))) @ u - outer / len(h)


def symmetrised_divergence(head: Any, one: Any, other: Any) -> Tensor:
    """KL(p_x || p_x') + KL(p_x' || p_x) = sum (p_x - p_x') (U (h_x - h_x')), [...], nats."""
    u, h = _matched(head, one)
    _, h_other = _matched(head, other)
    first, second = h @ u.T, h_other @ u.T
    return ((torch.softmax(first, -1) - torch.softmax(second, -1)) * (first - second)).sum(-1)


def spectrum_numbers(metric: Any, *, top: int = 10) -> dict[str, float]:
    """Trace, participation ratio tr^2 / tr(g^2), effective rank exp(entropy), and the share of the `top` largest.

    Raises:
        ValueError: no square matrix, or one without any direction.
    """
    check_number("top", top, low=1, integer=True)
    g = as_floats("metric", metric)
    if g.dim() != 2 or g.shape[0] != g.shape[1] or not g.numel():
        raise ValueError(f"a metric must be [d, d], not {list(g.shape)}.")
    values = torch.linalg.eigvalsh(g).clamp(min=0).flip(0)
    total = values.sum()
    if not float(total) > 0:
        raise ValueError("the metric is 0: every direction leaves the predictions as they are.")
    share = values / total
    return {
        "trace": float(total),
        "participation_ratio": float(total.square() / values.square().sum()),
        "effective_rank": float((-torch.xlogy(share, share).sum()).exp()),
        f"share_of_top_{top}": float(share[:top].sum()),
        "largest": float(values[0]),
    }


def _second_moments(p: Tensor, u: Tensor) -> Tensor:
    lead, size = p.shape[:-1], u.shape[1]
    flat = torch.stack([(u.T * row) @ u for row in p.reshape(-1, p.shape[-1])])
    return flat.view(*lead, size, size)


def _matched(head: Any, hidden: Any) -> tuple[Tensor, Tensor]:
    u, h = as_numbers("head", head), as_numbers("hidden", hidden)
    if u.dim() != 2 or not u.numel() or h.dim() < 1 or h.shape[-1] != u.shape[1]:
        raise ValueError(f"head must be [V, d] and hidden [..., d], not {list(u.shape)} and {list(h.shape)}.")
    wide = torch.promote_types(u.dtype, h.dtype)
    return u.to(wide), h.to(wide)
