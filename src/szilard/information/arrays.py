"""What the measures take: numpy arrays and tensors of finite numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def as_numbers(name: str, given: Any) -> Tensor:
    """A numpy array or a tensor with its gradient, in at least float32; whole numbers become float64.

    Raises:
        TypeError: something else.
        ValueError: numbers that are none.
    """
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be an array of numbers, not {type(given).__name__}.") from None
    if found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"{name} must be real numbers, not {found.dtype}.")
    if not bool(torch.isfinite(found.detach()).all()):
        raise ValueError(f"{name} must be finite: it holds numbers that are none.")
    if found.dtype in (torch.float32, torch.float64):
        return found
    return found.float() if found.is_floating_point() else found.double()


def as_floats(name: str, given: Any) -> Tensor:
    """The same as float64."""
    return as_numbers(name, given).double()
