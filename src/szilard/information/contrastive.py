"""Losses between predicted and true embeddings: InfoNCE in both directions, and regressions that can collapse.

    van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748.
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021 (both directions).
    Wang, Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity", ICML 2020.

With unit vectors p_i (predicted) and t_i (true), and logits l_ij = s p_i . t_j, s = 1 / temperature:

    L = 1/2 [ mean_i -log softmax_j(l_ij)[i]  +  mean_i -log softmax_j(l_ji)[i] ]        nats

log B - L bounds the mutual information of p and t from below, and never exceeds log B: small batches ask less.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from szilard.options import check_choice

Vectors = Tensor | NDArray[np.floating]
DUPLICATES = ("ignored", "positives", "negatives")
REGRESSIONS = ("cosine", "l1", "l2")
LOSSES = ("info_nce", *REGRESSIONS)


def info_nce(
    predicted: Vectors,
    target: Vectors,
    logit_scale: float | Tensor,
    *,
    groups: Tensor | None = None,
    duplicates: str = "ignored",
    gather: bool = True,
) -> Tensor:
    """InfoNCE in both directions, in nats; over the batches of all processes where several train.

    Args:
        predicted, target: [B, D], of any length: they are brought to length 1.
        logit_scale: s, the inverse temperature.
        groups: int64 [B]; equal numbers mark equal targets ("yes", "yes"), which are no negatives of each other.
        duplicates: what becomes of those: "ignored": out of the sum below; "positives": the mean of their log
            probabilities counts; "negatives": as if they differed, which is the loss as published.
        gather: take in the embeddings of other processes, with their gradients. Averaged over processes, as DDP does,
            gradients are those of one process with the whole batch.

    Returns:
        A scalar; 0 for B = 1.

    Raises:
        ValueError: shapes that do not belong together, no row, or a scale that is not above 0.
    """
    predicted, target = _checked(predicted, target)
    check_choice("duplicates", duplicates, DUPLICATES)
    scale = torch.as_tensor(logit_scale, dtype=predicted.dtype, device=predicted.device)
    if scale.numel() != 1 or not bool(scale.detach() > 0):  # a NaN, too
        raise ValueError(f"logit_scale must be one number above 0, not {scale.detach().tolist()!r}.")
    if groups is not None and groups.shape != predicted.shape[:1]:
        raise ValueError(f"groups must hold one number for each of {len(predicted)} rows, not {tuple(groups.shape)}.")
    p, t = F.normalize(predicted, dim=-1), F.normalize(target, dim=-1)
    if gather:
        p, t = gathered(p), gathered(t)
        groups = None if groups is None else gathered(groups)
    with torch.autocast(p.device.type, enabled=False):  # 1 / 0.01 times the error of bfloat16 would be a whole nat
        logits = scale * (p @ t.T)  # [B, B]
    own = torch.arange(len(p), device=p.device)
    if groups is None or duplicates == "negatives":
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    same = groups.to(p.device)[:, None] == groups.to(p.device)[None, :]
    if duplicates == "ignored":
        others = same & ~torch.eye(len(p), dtype=torch.bool, device=p.device)
        logits = logits.masked_fill(others, -math.inf)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    share = same.to(p.dtype) / same.sum(-1, keepdim=True)  # symmetric: each row of a group has the same sum
    return (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)) / 2


def regression_loss(predicted: Vectors, target: Vectors, kind: str) -> Tensor:
    """Losses without negatives, between unit vectors; with a target that learns they end in a point (collapse).

    Args:
        predicted, target: [B, D], of any length.
        kind: "cosine": mean of 1 - p . t; "l1": mean of sum |p - t|; "l2": mean of |p - t|^2, twice the cosine loss.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: shapes that do not belong together, or another kind.
    """
    check_choice("kind", kind, REGRESSIONS)
    predicted, target = _checked(predicted, target)
    p, t = F.normalize(predicted, dim=-1), F.normalize(target, dim=-1)
    if kind == "cosine":
        return (1 - (p * t).sum(-1)).mean()
    difference = p - t
    return (difference.abs() if kind == "l1" else difference.square()).sum(-1).mean()


def alignment(predicted: Vectors, target: Vectors) -> Tensor:
    """Mean |p - t|^2 of pairs of unit vectors: 0 where they meet, 2 where they are unrelated."""
    return regression_loss(predicted, target, "l2")


def uniformity(vectors: Vectors, *, t: float = 2.0) -> Tensor:
    """log mean over pairs i != j of exp(-t |v_i - v_j|^2): 0 where all unit vectors are one, lower when spread.

    Raises:
        ValueError: fewer than two vectors.
    """
    v = F.normalize(_tensor(vectors), dim=-1)
    if v.dim() != 2 or len(v) < 2:
        raise ValueError(f"uniformity is of pairs: give two vectors or more [n, D], not {tuple(v.shape)}.")
    return torch.pdist(v).square().mul(-t).exp().mean().log()


def mean_pairwise_cosine(vectors: Vectors) -> float:
    """The mean cosine of pairs i != j: 1 where everything has collapsed into one direction.

    Raises:
        ValueError: fewer than two vectors.
    """
    v = F.normalize(_tensor(vectors).double(), dim=-1)
    if v.dim() != 2 or len(v) < 2:
        raise ValueError(f"pairs are compared: give two vectors or more [n, D], not {tuple(v.shape)}.")
    count = len(v)
    return float((v.sum(0).square().sum() - count) / (count * (count - 1)))


def gathered(rows: Tensor) -> Tensor:
    """[B, ...] of every process, in the order of their ranks, with gradients; alone: as given."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    if not rows.requires_grad:
        found = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(found, rows.contiguous())
        return torch.cat(found)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows.contiguous()))


def _tensor(vectors: Vectors) -> Tensor:
    if not isinstance(vectors, (Tensor, np.ndarray)):
        raise TypeError(f"embeddings are a tensor or a numpy array, not a {type(vectors).__name__}.")
    found = torch.as_tensor(vectors)
    if not found.is_floating_point():
        raise TypeError(f"embeddings are floating-point numbers, not {found.dtype}.")
    return found


def _checked(predicted: Vectors, target: Vectors) -> tuple[Tensor, Tensor]:
    one, other = _tensor(predicted), _tensor(target)
    if one.shape != other.shape or one.dim() != 2 or not len(one):
        raise ValueError(
            f"predicted and target must both be [rows, D] with a row at least, not {tuple(one.shape)} and "
            f"{tuple(other.shape)}."
        )
    # Halves have too few digits for logits, and two precisions do not multiply.
    kind = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    return one.to(kind), other.to(kind)
