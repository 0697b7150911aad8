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

import torch
from torch import Tensor

from szilard.options import check_number


def pullback_metric(head: Tensor, hidden: Tensor, directions: Tensor | None = None) -> Tensor:
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
        if directions.dim() != 2 or directions.shape[1] != u.shape[1]:
            raise ValueError(f"directions must be [k, {u.shape[1]}], not {list(directions.shape)}.")
        scores = u @ directions.to(u.dtype).T  # [V, k]
        return p @ scores.square() - (p @ scores).square()
    mean = p @ u
    second = torch.einsum("...v,vi,vj->...ij", p, u, u) if p.dim() == 1 else _second_moments(p, u)
    return second - mean.unsqueeze(-1) * mean.unsqueeze(-2)


def mean_pullback_metric(head: Tensor, hidden: Tensor, *, chunk: int = 256) -> Tensor:
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


def symmetrised_divergence(head: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """KL(p_x || p_x') + KL(p_x' || p_x) = sum (p_x - p_x') (U (h_x - h_x')), [...], nats."""
    u, h = _matched(head, one)
    _, h_other = _matched(head, other)
    first, second = h @ u.T, h_other @ u.T
    return ((torch.softmax(first, -1) - torch.softmax(second, -1)) * (first - second)).sum(-1)


def spectrum_numbers(metric: Tensor, *, top: int = 10) -> dict[str, float]:
    """Trace, participation ratio tr^2 / tr(g^2), effective rank exp(entropy), and the share of the `top` largest.

    Raises:
        ValueError: no square matrix, or one without any direction.
    """
    if metric.dim() != 2 or metric.shape[0] != metric.shape[1]:
        raise ValueError(f"a metric must be [d, d], not {list(metric.shape)}.")
    values = torch.linalg.eigvalsh(metric.double()).clamp(min=0).flip(0)
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


def _matched(head: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    if head.dim() != 2 or hidden.dim() < 1 or hidden.shape[-1] != head.shape[1]:
        raise ValueError(f"head must be [V, d] and hidden [..., d], not {list(head.shape)} and {list(hidden.shape)}.")
    wide = torch.float64 if head.dtype == torch.float64 or hidden.dtype == torch.float64 else torch.float32
    return head.to(wide), hidden.to(wide)
