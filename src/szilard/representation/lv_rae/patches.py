"""Pictures as tokens and back."""

from __future__ import annotations

from torch import Tensor


def grid_of(pixels: Tensor, patch: int) -> tuple[int, int]:
    """h, w of pictures [B, 3, H, W] in patches.

    Raises:
        TypeError: no tensor of numbers.
        ValueError: another shape, or sides that are no multiples of the patch.
    """
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
        told = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise TypeError(f"pictures must be a tensor of numbers from 0 to 1, not {told}.")
    if pixels.dim() != 4 or pixels.shape[1] != 3 or not pixels.numel():
        raise ValueError(f"pictures must be [B, 3, H, W], not {list(pixels.shape)}.")
    height, width = pixels.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(
            f"height and width must be multiples of the patch of {patch} pixels, not {height} x {width}: crop them."
        )
    return height // patch, width // patch


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, h w, patch patch C], row by row."""
    parts = pixels.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # [B, C, h, p, w, p]
    return parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """[B, h w, patch patch C] -> [B, C, h patch, w patch]."""
    parts = tokens.unflatten(1, grid).unflatten(-1, (patch, patch, -1))  # [B, h, w, p, p, C]
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
