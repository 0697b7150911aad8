"""What an autoencoder keeps of activations, and with how many features.

mse = mean ||x - x^||_2^2,   explained variance = 1 - sum ||x - x^||_2^2 / sum ||x - mean||_2^2
L0 = mean number of S_i != 0,   dead = share of features that are active in no row
rank = singular values of R / sqrt(N) above 1 % of the root mean squared norm of z
    share = ||D R||^2 / (||D S||^2 + ||D R||^2)
"""

from __future__ import annotations

import math
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
        TypeError: no autoencoder, no activations, or rows that are no slice.
        ValueError: no rows, of another width, or numbers that are none.
    """
    check_number("batch_size", batch_size, low=1, integer=True)
    if not isinstance(sae, SparseCoder):
        raise TypeError(f"sae must be one of the autoencoders of this package, not {type(sae).__name__}.")
    if not isinstance(activations, (ActivationStore, Tensor)):
        raise TypeError(f"activations must be an ActivationStore or a tensor, not {type(activations).__name__}.")
    if not (rows is None or (isinstance(rows, slice) and rows.step in (None, 1))):
        raise TypeError(f"rows must be a slice without a step, or None, not {rows!r:.60}.")
    first, last, _ = (rows or slice(None)).indices(len(activations))
    if last <= first:
        raise ValueError("there are no activations to measure an autoencoder on.")
    device, d = sae.dictionary.device, sae.input_dim
    wide: dict[str, Any] = {"device": device, "dtype": torch.float64}
    total, squares = torch.zeros(d, **wide), torch.zeros((), **wide)
    gram: Tensor | None = None
    right = torch.empty(0)
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
        if (factors := sae.rank_factors(x)) is not None:  # R = X W^T: its singular values need X^T X alone
            left, right = factors[0].double(), factors[1].double()
            gram = left.T @ left if gram is None else gram.addmm_(left.T, left)
    count = last - first
    spread = float(squares - total.square().sum() / count)
    found = {
        "mse": float(error) / count,
        "explained_variance": 1 - float(error) / spread if spread > 0 else 0.0,
        "l0": float(active) / count,
        "dead": 1 - float(fired.float().mean()),
    }
    if not all(map(math.isfinite, found.values())):
        raise ValueError("the activations, or the autoencoder's weights, are not finite: there is nothing to measure.")
    if gram is not None:
        values, vectors = torch.linalg.eigh(gram)
        root = vectors * values.clamp(min=0).sqrt()  # X^T X = root root^T
        squared = torch.linalg.eigvalsh(root.T @ (right.T @ right) @ root)
        found["rank"] = float((squared > _RANK**2 * codes).sum())
        both = float(by_sparse + by_dense)
        found["low_rank_share"] = float(by_dense) / both if both > 0 else 0.0
    return found
