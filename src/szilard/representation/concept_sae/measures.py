"""What an autoencoder keeps of activations, and with how many features.

mse = mean ||x - x^||_2^2,   explained variance = 1 - sum ||x - x^||_2^2 / sum ||x - mean||_2^2
L0 = mean number of S_i != 0,   dead = share of features that are active in no row
rank = singular values of R / sqrt(N) above 1 % of the root mean squared norm of z
    share = ||D R||^2 / (||D S||^2 + ||D R||^2)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.options import check_number
from szilard.representation.concept_sae.coder import SparseCoder
from szilard.representation.concept_sae.store import ActivationStore

_RANK = 0.01  # of the norm of a code


@torch.no_grad()
def sae_measures(
    sae: SparseCoder, activations: ActivationStore | Tensor, *, rows: slice | None = None, batch_size: int = 2048
) -> dict[str, float]:
    """Measures of an autoencoder, in batches.

    Args:
        sae: in its present mode.
        activations: a store, or [N, d].
        rows: which of them; None: all.
        batch_size: rows at once.

    Returns:
        "mse" (in the activations' own units), "explained_variance", "l0", "dead"; of a code with a low-rank part
        "rank" and "low_rank_share", too.

    Raises:
        ValueError: no rows, or of another width.
    """
    check_number("batch_size", batch_size, low=1, integer=True)
    first, last, _ = (rows or slice(None)).indices(len(activations))
    if last <= first:
        raise ValueError("there are no activations to measure an autoencoder on.")
    device, d = sae.dictionary.device, sae.input_dim
    wide: dict[str, Any] = {"device": device, "dtype": torch.float64}
    total, squares = torch.zeros(d, **wide), torch.zeros((), **wide)
    kept: Tensor | None = None
    error, active = torch.zeros((), **wide), torch.zeros((), **wide)
    fired = torch.zeros(sae.dictionary_size, dtype=torch.bool, device=device)
    codes = torch.zeros((), **wide)
    by_sparse, by_dense = torch.zeros((), **wide), torch.zeros((), **wide)
    for start in range(first, last, batch_size):
        x = activations[start : min(start + batch_size, last)].to(device, torch.float32)
        sparse, dense = sae.parts(x)
        error += (x - sae.decode(sparse if dense is None else sparse + dense)).double().square().sum()
        total += x.double().sum(0)
        squares += x.double().square().sum()
        fired |= (sparse != 0).any(0)
        active += (sparse != 0).sum()
        if dense is not None:
            codes += (sparse + dense).double().square().sum()
            by_sparse += (sparse @ sae.dictionary.T).double().square().sum()
            by_dense += (dense @ sae.dictionary.T).double().square().sum()
            # What R's singular values need of the rows so far: d + 1 of them at most, since that bounds R's rank.
            kept = _condensed(dense if kept is None else torch.cat([kept, dense]), d + 1)
    count = last - first
    spread = float(squares - total.square().sum() / count)
    found = {
        "mse": float(error) / count,
        "explained_variance": 1 - float(error) / spread if spread > 0 else 0.0,
        "l0": float(active) / count,
        "dead": 1 - float(fired.float().mean()),
    }
    if kept is not None:
        values = torch.linalg.svdvals(kept)
        found["rank"] = float((values.double() > _RANK * codes.sqrt()).sum())
        both = float(by_sparse + by_dense)
        found["low_rank_share"] = float(by_dense) / both if both > 0 else 0.0
    return found


def _condensed(rows: Tensor, rank: int) -> Tensor:
    """At most `rank` rows with the singular values, and the right vectors, of rows [n, m] of at most that rank."""
    if len(rows) <= rank:
        return rows
    _values, vectors = torch.linalg.eigh((rows @ rows.T).double())
    return vectors[:, -rank:].T.to(rows.dtype) @ rows
