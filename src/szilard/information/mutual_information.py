"""Mutual information between contexts and the texts made of them, from log-likelihoods alone.

He, Narayan, Khare, Linderman, Re, Biderman, "An Information Theoretic Perspective on Agentic System Design", 2025,
arXiv 2512.21720.

    (1) I(X;Z) = E[log p(z|x) - log p(z)]
    (2) I^ = 1/(N M) sum_ij [log p(z_ij|x_i) - log (1/N sum_l p(z_ij|x_l))]

The intractable p(z) is the mean over the same N contexts, the text's own included: no term exceeds log N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_NEAR_THE_CEILING = 0.01  # nats below log N at which a term counts as saturated
_DRAWS_AT_ONCE = 2**22  # numbers that the bootstrap holds at a time


@dataclass(frozen=True)
class MutualInformation:
    """An estimate of I(X;Z) in nats.

    Attributes:
        nats: the estimate, clipped at 0.
        raw: the mean of the terms. Clearly below 0: what scored the texts is not what wrote them.
        terms: log p(z_ij|x_i) - log p(z_ij), float64 [N, M].
        ceiling: log of the number of contexts that compete; nothing above it can be measured.
        saturation: share of the terms within 0.01 nats of the ceiling. Near 1 the estimate is a lower bound and says
            little else: more contexts, or contexts that are more alike, tell compressors apart.
        standard_error: of `raw`, by bootstrap over the contexts.
    """

    nats: float
    raw: float
    terms: torch.Tensor
    ceiling: float
    saturation: float
    standard_error: float

    @property
    def bits(self) -> float:
        """The estimate in bits, clipped at 0."""
        return self.nats / math.log(2)

    @property
    def ceiling_bits(self) -> float:
        """The ceiling in bits."""
        return self.ceiling / math.log(2)


def mutual_information_from_log_likelihood(
    matrix: torch.Tensor, *, own: Sequence[int] | None = None, resamples: int = 2000, seed: int = 0
) -> MutualInformation:
    """Equation (2) on a matrix of log-likelihoods.

    Args:
        matrix: log p(z_ij | x_l), nats, [N, M, L]: text j of context i under context l. -inf is allowed but in the
            text's own column.
        own: for each context its own column, N whole numbers; None: column i, for L = N. (Ours: with columns of its
            own for each context, the others are its hard negatives, and the ceiling is log L.)
        resamples: of the bootstrap. The contexts' means are drawn anew; the competitors of each stay as they are.
        seed: of the bootstrap's own random stream.

    Returns:
        The estimate. It is computed in float64; the final mean is clipped at 0, the terms are not.

    Raises:
        ValueError: another shape, NaN or +inf, a text that is impossible under its own context.
    """
    if not isinstance(matrix, torch.Tensor) or matrix.dim() != 3 or 0 in matrix.shape:
        shape = list(matrix.shape) if isinstance(matrix, torch.Tensor) else type(matrix).__name__
        raise ValueError(f"log-likelihoods are a tensor [contexts, samples, contexts], none of them 0, not {shape}.")
    contexts, samples, columns = matrix.shape
    if own is None and columns != contexts:
        raise ValueError(
            f"{contexts} contexts were scored under {columns}: name each context's own column (own=...), or score "
            "every text under every context."
        )
    at = torch.arange(contexts) if own is None else torch.as_tensor(list(own), dtype=torch.long)
    if at.shape != (contexts,) or bool(((at < 0) | (at >= columns)).any()):
        raise ValueError(f"own must name a column (0 to {columns - 1}) for each of the {contexts} contexts.")
    scores = matrix.detach().to("cpu", torch.float64)
    if bool(torch.isnan(scores).any()) or bool((scores == math.inf).any()):
        raise ValueError("log-likelihoods must be numbers or -inf, but some are NaN or +inf.")
    mine = scores.gather(2, at[:, None, None].expand(contexts, samples, 1))[..., 0]  # [N, M]
    if bool((mine == -math.inf).any()):
        raise ValueError("a text has the probability 0 under its own context: the scorer cannot have it written.")
    ceiling = math.log(columns)
    # Subtracted first: the terms are O(1) nat, the log-likelihoods O(1000). A term is at most the ceiling, but for
    # rounding.
    terms = (ceiling - torch.logsumexp(scores - mine[..., None], dim=2)).clamp(max=ceiling)
    means = terms.mean(1).numpy()  # [N]
    raw = float(means.mean())
    return MutualInformation(
        nats=max(0.0, raw),
        raw=raw,
        terms=terms,
        ceiling=ceiling,
        saturation=float((terms > ceiling - _NEAR_THE_CEILING).double().mean()),
        standard_error=_standard_error(means, resamples, seed),
    )


def _standard_error(means: np.ndarray, resamples: int, seed: int) -> float:
    """Spread of the mean of `means` when they are drawn anew, with replacement."""
    count = len(means)
    if count == 1 or resamples < 2:
        return math.nan
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // count)
    blocks = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    drawn = np.concatenate([means[random.integers(0, count, (block, count))].mean(1) for block in blocks])
    return float(drawn.std(ddof=1))
