"""Who is nearest: candidates ranked by cosine, and how often two wordings are nearer than another meaning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from szilard.options import check_number


@dataclass(frozen=True)
class Ranked:
    """What was chosen.

    Attributes:
        indices: int64 [B, k], of candidates, the best first.
        scores: cosines [B, k].
        texts: of the chosen, k each; None where the candidates are no texts.
    """

    indices: Tensor
    scores: Tensor
    texts: list[list[str]] | None = None


def ranked(queries: Tensor, candidates: Tensor, top_k: int, texts: list[str] | None = None) -> Ranked:
    """The nearest of candidates [C, D], or of each query's own [B, C, D], to queries [B, D], all of any length.

    Raises:
        ValueError: shapes that do not belong together, or more wanted than there are.
    """
    own = F.normalize(candidates, dim=-1)
    shared = own.dim() == 2
    fits = queries.dim() == 2 and queries.shape[-1] == own.shape[-1] and (shared or len(own) == len(queries))
    if own.dim() not in (2, 3) or not fits:
        raise ValueError(
            f"embeddings must be [rows, {candidates.shape[-1]}], as the candidates {tuple(candidates.shape)}, not "
            f"{tuple(queries.shape)}."
        )
    check_number("top_k", top_k, low=1, high=own.shape[-2], integer=True)
    unit = F.normalize(queries.to(own), dim=-1)
    scores = unit @ own.T if shared else torch.einsum("bd,bcd->bc", unit, own)
    best = scores.topk(top_k, dim=-1)
    chosen = None if texts is None else [[texts[place] for place in row] for row in best.indices.tolist()]
    return Ranked(best.indices, best.values, chosen)


def triplet_accuracy(first: Tensor, second: Tensor, negative: Tensor) -> float:
    """The share of triplets whose two positives are nearer to each other than each is to the negative.

    cos(p1, p2) > cos(p1, n) and cos(p1, p2) > cos(p2, n), as SugarCrepe++ and VISLA count text hard negatives.

    Args:
        first, second, negative: [N, D].

    Raises:
        ValueError: other shapes.
    """
    if first.dim() != 2 or not len(first) or not first.shape == second.shape == negative.shape:
        shapes = ", ".join(str(tuple(one.shape)) for one in (first, second, negative))
        raise ValueError(f"first, second and negative must all be [N, D], not {shapes}.")
    p, q, n = (F.normalize(one, dim=-1) for one in (first, second, negative))
    pair = (p * q).sum(-1)
    return float(((pair > (p * n).sum(-1)) & (pair > (q * n).sum(-1))).double().mean())
