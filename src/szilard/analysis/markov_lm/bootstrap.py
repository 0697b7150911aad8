"""Means with standard errors over documents: tokens of a text are no independent draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error and its 95 % interval, by resampling documents."""

    mean: float
    error: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def by_document(values: Tensor, document: Tensor, *, resamples: int = 500, seed: int = 0) -> Estimate:
    """The mean of values [M] whose texts are `document` [M]; of one text the error is 0, since none can be told."""
    numbers, owner = document.unique(return_inverse=True)
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, owner, values.double())
    counts = torch.bincount(owner, minlength=len(numbers)).double()
    mean = float(sums.sum() / counts.sum())
    if len(numbers) < 2:
        return Estimate(mean, 0.0, mean, mean)
    drawn = torch.randint(len(numbers), (resamples, len(numbers)), generator=torch.Generator().manual_seed(seed))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(mean, float(means.std()), low, high)
