"""The residual encoder E and the pixel decoder D.

x_in = Conv(3 -> width, patch, stride patch)(2 X - 1)
r = W_0 (Blocks([x_in ; u]))[: N],   W_0 = 0 at the start          (equation 1)
D: z -> Blocks -> patch patch 3 numbers per token -> pixels

Between the last block and the last linear layer of both is a LayerNorm, as pre-norm Transformers have one (inferred).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from szilard.representation.lv_rae.blocks import Block, rotary_angles
from szilard.representation.lv_rae.patches import unpatchify


def _lead(inner: int, outer: int) -> nn.Module:
    return nn.Identity() if inner == outer else nn.Linear(inner, outer)


class ResidualEncoder(nn.Module):
    """E: what the vision model's tokens lack.

    Args:
        token: D, width of the vision model's tokens.
        width, heads, depth: of the blocks.
        patch: in pixels.
    """

    def __init__(self, token: int, width: int, heads: int, depth: int, patch: int) -> None:
        super().__init__()
        self.head = width // heads
        self.stem = nn.Conv2d(3, width, patch, stride=patch)
        self.inward = _lead(token, width)
        # Rotary positions are the same for token i of both streams; this tells the streams apart (inferred).
        self.kind = nn.Parameter(torch.randn(2, 1, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, token)
        nn.init.zeros_(self.out.weight)  # the last layer alone: zeros further down would stop all gradients
        nn.init.zeros_(self.out.bias)

    def forward(self, pixels: Tensor, u: Tensor, grid: tuple[int, int]) -> Tensor:
        """r [B, N, D] of pixels [B, 3, H, W] in [0, 1] and u [B, N, D]."""
        seen = self.stem(2 * pixels - 1).flatten(2).transpose(1, 2)  # [-1, 1]: (inferred)
        x = torch.cat([seen + self.kind[0], self.inward(u) + self.kind[1]], dim=1)  # [B, 2 N, width]
        cos, sin = rotary_angles(grid, self.head, x.device)
        angles = cos.repeat(2, 1), sin.repeat(2, 1)
        for block in self.blocks:
            x = block(x, angles)
        found: Tensor = self.out(self.norm(x[:, : u.shape[1]]))
        return found


class PixelDecoder(nn.Module):
    """D: pixels of latents; arguments as of `ResidualEncoder`."""

    def __init__(self, token: int, width: int, heads: int, depth: int, patch: int) -> None:
        super().__init__()
        self.patch, self.head = patch, width // heads
        self.inward = _lead(token, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, patch * patch * 3)

    def forward(self, z: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, N, D] -> [B, 3, h patch, w patch], around [0, 1], not clamped."""
        x = self.inward(z)
        angles = rotary_angles(grid, self.head, x.device)
        for block in self.blocks:
            x = block(x, angles)
        return unpatchify(self.out(self.norm(x)), self.patch, grid) * 0.5 + 0.5  # [-1, 1] inside: (inferred)
