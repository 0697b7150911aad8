"""How well one feature, or each of many, follows a posterior or a label; and features of a random dictionary.

Pearson's correlation of exp(z) and p is that of exp(z - max z) and p: the shift changes nothing, and nothing overflows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from szilard.options import check_choice

METRICS = ("exp_pearson", "log_pearson")


def posterior_correlations(
    codes: Tensor, log_posterior: Tensor, metric: str = "exp_pearson", scaling: str = "none"
) -> Tensor:
    """Correlation of every feature with a posterior, float64 [m]; 0 for a feature or a posterior that does not move.

    Args:
        codes: z [N, m].
        log_posterior: log p(c_k|x) [N].
        metric: exp_pearson: of exp(z) and p; log_pearson: of z and log p.
        scaling: none, or max: z is divided by its largest absolute value over N.

    Raises:
        ValueError: shapes that do not match, values that are not finite, or an option that is none.
    """
    check_choice("metric", metric, METRICS)
    check_choice("scaling", scaling, ("none", "max"))
    if codes.dim() != 2 or log_posterior.shape != codes.shape[:1] or not codes.numel():
        raise ValueError(
            f"codes [N, m] and log_posterior [N] must be of the same N samples, not {list(codes.shape)} and "
            f"{list(log_posterior.shape)}."
        )
    z, target = codes.double(), log_posterior.double()
    if not bool(torch.isfinite(z).all()) or not bool(torch.isfinite(target).all()):
        raise ValueError("codes and log-posteriors must be finite.")
    if scaling == "max":
        z = z / z.abs().amax(0).clamp(min=1e-300)
    if metric == "exp_pearson":
        z, target = (z - z.amax(0)).exp(), target.exp()
    moved = z - z.mean(0)
    aim = target - target.mean()
    spread, width = moved.norm(dim=0), aim.norm()
    # What is constant differs from its mean by rounding only.
    still = spread <= 1e-12 * z.abs().amax(0) * len(z) ** 0.5
    if float(width) <= 1e-12 * float(target.abs().max()) * len(z) ** 0.5:
        return torch.zeros_like(spread)
    return torch.where(still, 0.0, (aim @ moved) / (spread * width).masked_fill(still, 1.0)).clamp(-1.0, 1.0)


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Probability that a positive one of [N] scores above a negative one; ties count one half."""
    order = scores.double().unique(return_inverse=True)[1]
    positive = torch.bincount(order[labels], minlength=int(order.max()) + 1).double()
    negative = torch.bincount(order[~labels], minlength=len(positive)).double()
    below = negative.cumsum(0) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def random_codes(x: Tensor, dictionary_size: int, active: int, generator: torch.Generator) -> Tensor:
    """Codes [N, m] of a random dictionary: the `active` largest of ReLU(W (x - mean)), rows of W of norm 1."""
    columns = F.normalize(torch.randn(x.shape[1], dictionary_size, generator=generator, dtype=torch.float32), dim=0)
    before = ((x - x.mean(0)).float() @ columns).relu()
    if active >= dictionary_size:
        return before
    values, places = before.topk(active, dim=1)
    return torch.zeros_like(before).scatter_(1, places, values)
