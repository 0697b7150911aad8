"""Tables of samples [N, columns], of numbers or of classes, as measures of representations take them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

Array: TypeAlias = "np.ndarray | torch.Tensor"


def source_labels(sources: Array, name: str = "sources") -> np.ndarray:
    """Each column's values as whole numbers from 0.

    Args:
        sources: [N, n_s], numbers or words.
        name: of them, in errors.

    Returns:
        int64 [N, n_s].

    Raises:
        TypeError, ValueError: no table, a column with one value, or one in which no value occurs twice.
    """
    table = sample_table(name, sources)
    columns = [class_labels(column) for column in table.T]
    for place, column in enumerate(columns):
        counts = np.bincount(column)
        if len(counts) == 1:
            raise ValueError(f"source {place} has one value only, so nothing can tell about it: leave it out.")
        if counts.max() == 1:
            raise ValueError(
                f"no value of source {place} occurs twice in {len(column)} samples: sources are classes; bin numbers "
                "first, or give more samples."
            )
    return np.stack(columns, axis=1)


def number_table(name: str, given: Array) -> np.ndarray:
    """float64 [N, columns]."""
    array = sample_table(name, given)
    if array.dtype.kind in "US":
        raise TypeError(f"{name} must be a table of numbers, not of words.")
    return array.astype(float)


def sample_table(name: str, given: Any) -> np.ndarray:
    """[N, columns] of finite numbers or of words."""
    try:
        array = _array(given)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a table [samples, columns], not {type(given).__name__}.") from error
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must be [samples, columns] with at least one of each, not {list(array.shape)}.")
    if array.dtype.kind not in "biufUS":
        raise TypeError(f"{name} must be a table of numbers, not of {array.dtype}.")
    if len(array) < 2:
        raise ValueError(f"{name} has one sample: nothing can be measured on it.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).any(0).argmax())
        raise ValueError(f"{name} must be finite; column {bad} is not: leave those samples out.")
    return array


def _array(given: Any) -> np.ndarray:
    if isinstance(given, torch.Tensor):
        there = given.detach().cpu()
        return (there.double() if there.is_floating_point() else there).numpy()
    array = np.asarray(given)
    return array.astype(float) if array.dtype.kind == "O" else array  # None becomes NaN


def as_columns(given: Array) -> Any:
    """[N] as [N, 1]; tables as they are."""
    array = given if isinstance(given, torch.Tensor) else _array(given)
    return array[:, None] if array.ndim == 1 else array


def class_labels(column: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 for the values of a column."""
    return np.unique(column, return_inverse=True)[1].reshape(-1)
