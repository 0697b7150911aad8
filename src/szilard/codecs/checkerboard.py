"""The two halves of a checkerboard: anchors, which are coded first, have an odd sum of row and column."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def anchors(height: int, width: int, device: torch.device) -> Tensor:
    """bool [h, w], where anchors are."""
    return _anchors(height, width, str(device))


@lru_cache(maxsize=32)
def _anchors(height: int, width: int, device: str) -> Tensor:
    rows, columns = torch.arange(height), torch.arange(width)
    return ((rows[:, None] + columns) % 2 == 1).to(device)


def only(x: Tensor, where: Tensor) -> Tensor:
    """x [B, C, h, w] with 0 elsewhere."""
    return torch.where(where, x, x.new_zeros(()))


def squeezed(x: Tensor, where: Tensor) -> Tensor:
    """The values at one half: [B, C, h, w] to [B, C, h, w/2], row by row.

    Args:
        x: of an even width.
        where: bool [h, w], one half of the checkerboard.
    """
    batch, channels, height, width = x.shape
    even, odd = x[..., 0::2], x[..., 1::2]
    first = where[:, :1]  # whether the half begins with the even columns, row by row
    return torch.where(first, even, odd).reshape(batch, channels, height, width // 2)


def unsqueezed(x: Tensor, where: Tensor) -> Tensor:
    """The inverse of `squeezed`, with 0 at the other half."""
    pairs = torch.stack([x, x], dim=-1).flatten(-2)
    return only(pairs, where)
