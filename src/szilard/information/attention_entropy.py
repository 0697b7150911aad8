"""Entropy of attention: over how many tokens a query really looks.

Jha and Reagen 2025, "Entropy-Guided Attention for Private LLMs", arXiv 2501.03489. For a head with attention A, whose
rows are distributions over keys, and scores s = q k / sqrt(d_k) before the softmax:

    e_i = - sum_j a_ij log a_ij = logsumexp_j s_ij - sum_j a_ij s_ij     of a query i, nats
    E   = (1/T) sum_i e_i                                               of a head
    E   = log(T!) / T                                                    of a causal head that looks everywhere alike

The last is below log T, the E_max of the paper, since query i sees only i keys: 3.878 for T = 128 (log T is 4.852).
Unlike the measures of logits these are losses too: gradients flow.
"""

from __future__ import annotations

import math

import torch

from szilard.options import check_choice, check_number


def attention_entropy(
    attention: torch.Tensor, mask: torch.Tensor | None = None, eps: float = 1e-9, reduce: str = "none"
) -> torch.Tensor:
    """Entropy of attention probabilities.

    Args:
        attention: [..., queries, keys], rows that add up to 1; a row of zeros has the entropy 0.
        mask: bool, True: a real query (padding counts for nothing). [batch, queries] for attention [batch, heads,
            queries, keys]; otherwise [..., queries], which broadcasts.
        eps: added in the logarithm, as the authors' code does.
        reduce: "none": of every query; "mean": over the real queries.

    Returns:
        nats, [..., queries] (0 where masked) or [...]; float32 at least.

    Raises:
        ValueError: fewer than two dimensions, no keys, another `reduce`, a negative eps, a mask of another shape.
        TypeError: no tensor.
    """
    check_choice("reduce", reduce, ("none", "mean"))
    check_number("eps", eps, low=0)
    _check_rows("attention", attention)
    a = attention if attention.dtype == torch.float64 else attention.float()  # bfloat16 loses small probabilities
    within = a + eps if eps else torch.where(a > 0, a, 1.0)  # 0 log 0 = 0, and no infinite gradient there
    return _reduced(-(a * within.log()).sum(-1), mask, reduce)


def entropy_from_logits(scores: torch.Tensor, mask: torch.Tensor | None = None, reduce: str = "none") -> torch.Tensor:
    """Entropy of softmax(scores), without the probabilities.

    Args:
        scores: [..., queries, keys]; -inf, or the smallest number, for keys that are not seen.
        mask, reduce: as in `attention_entropy`.

    Returns:
        nats, as `attention_entropy`; 0 for a query that sees nothing (all -inf), NaN where scores are no numbers.

    Raises:
        ValueError, TypeError: as `attention_entropy`.
    """
    check_choice("reduce", reduce, ("none", "mean"))
    _check_rows("scores", scores)
    return _reduced(softmax_with_entropy(scores)[1], mask, reduce)


def softmax_with_entropy(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(scores) over the last axis and its entropy in nats, from one exponential; float32 at least."""
    s = scores if scores.dtype == torch.float64 else scores.float()
    top = s.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(s.dtype).min)  # a row of -inf stays one
    z = s - top
    weights = z.exp()
    total = weights.sum(-1, keepdim=True)
    seen = total != 0  # NaN is not seen nothing
    total = torch.where(seen, total, 1.0)
    a = weights / total
    rows = torch.where(seen, total.log() - (a * z.masked_fill(weights == 0, 0.0)).sum(-1, keepdim=True), 0.0)
    return a, rows[..., 0].clamp(min=0.0)


def uniform_causal_entropy(length: int) -> float:
    """log(T!) / T, nats: the entropy of a causal head over T tokens that looks at all tokens before it alike.

    Raises:
        ValueError: a length below 1; TypeError: no whole number.
    """
    check_number("length", length, low=1, integer=True)
    return math.lgamma(length + 1) / length


def _check_rows(name: str, given: torch.Tensor) -> None:
    if not isinstance(given, torch.Tensor):
        raise TypeError(f"{name} must be a tensor [..., queries, keys], not a {type(given).__name__}.")
    if given.dim() < 2 or not given.shape[-1]:
        raise ValueError(f"{name} must have a shape [..., queries, keys], not {list(given.shape)}.")


def _reduced(rows: torch.Tensor, mask: torch.Tensor | None, reduce: str) -> torch.Tensor:
    if mask is None:
        return rows if reduce == "none" else rows.mean(-1)
    of_batch = mask[:, None] if mask.dim() == 2 and rows.dim() == 3 else mask  # for all heads
    try:
        real = of_batch.to(rows.device).bool().expand(rows.shape)
    except RuntimeError:
        raise ValueError(f"mask must fit queries of the shape {list(rows.shape)}, and is {list(mask.shape)}.") from None
    rows = torch.where(real, rows, 0.0)
    return rows if reduce == "none" else rows.sum(-1) / real.sum(-1).clamp(min=1)
