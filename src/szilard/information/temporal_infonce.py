"""InfoNCE over time: neighbours in time against what lies further away.

Cheng et al., "Information Shapes Koopman Representation", ICLR 2026, arXiv:2510.13025. For an anchor z_n with all of
its 2k neighbours P_n = {z_{n-k}, .., z_{n-1}, z_{n+1}, .., z_{n+k}} in the sequence, and scores s = z_n . z_j / tau:

    positives="sum_inside"     logsumexp over candidates - logsumexp over P_n        (the published code)
    positives="mean_outside"   mean over P_n of (logsumexp over candidates - s_p)    (the paper's text)

Candidates are all other positions of the same sequence (the code), or of the whole batch (the text). The
mutual information of neighbours is at least log(candidates / positives) minus the loss; it is no estimate of it. Nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from szilard.information.arrays import as_floats
from szilard.options import check_choice, check_number


def temporal_infonce(
    z: Any,
    neighbors: int = 3,
    temperature: float = 0.1,
    *,
    negatives: str = "sequence",
    positives: str = "sum_inside",
    cosine: bool = True,
) -> Tensor:
    """The mean loss over anchors.

    Args:
        z: [B, T, d] sequences, numpy or torch.
        neighbors: k; anchors are k .. T - k - 1.
        temperature: tau.
        negatives: "sequence" or "batch".
        positives: "sum_inside" or "mean_outside".
        cosine: bring every z to length 1 first.

    Returns:
        A scalar, nats; 0 where T <= 2k, since no anchor has all of its neighbours.

    Raises:
        TypeError: no array of numbers.
        ValueError: another shape, or a setting out of range.
    """
    check_number("neighbors", neighbors, low=1, integer=True)
    check_number("temperature", temperature, low=1e-8)
    check_choice("negatives", negatives, ("sequence", "batch"))
    check_choice("positives", positives, ("sum_inside", "mean_outside"))
    z = z if isinstance(z, Tensor) and z.is_floating_point() else as_floats("sequences", z)
    if z.dim() != 3 or not z.numel():
        raise ValueError(f"sequences must be [batch, time, dimensions], not {list(z.shape)}.")
    batch, length, _ = z.shape
    if length <= 2 * neighbors:
        return z.sum() * 0.0
    z = functional.normalize(z, dim=-1) if cosine else z
    anchors = torch.arange(neighbors, length - neighbors, device=z.device)
    apart = (anchors.unsqueeze(1) - torch.arange(length, device=z.device)).abs()  # [anchors, T]
    own = z[:, anchors] @ z.transpose(1, 2) / temperature  # [B, anchors, T]
    near = own.masked_fill((apart == 0) | (apart > neighbors), -torch.inf)
    if negatives == "sequence":
        everything = own.masked_fill(apart == 0, -torch.inf).logsumexp(-1)
    else:
        scores = torch.einsum("bad,cjd->bacj", z[:, anchors], z) / temperature
        itself = torch.eye(batch, dtype=torch.bool, device=z.device)[:, None, :, None] & (apart == 0)[None, :, None, :]
        everything = scores.masked_fill(itself, -torch.inf).flatten(2).logsumexp(-1)
    if positives == "sum_inside":
        return (everything - near.logsumexp(-1)).mean()
    mean = near.masked_fill(near.isinf(), 0.0).sum(-1) / (2 * neighbors)
    return (everything - mean).mean()
