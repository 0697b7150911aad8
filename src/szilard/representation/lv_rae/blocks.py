"""Transformer blocks with rotary positions on two axes and T5's gated MLP.

The paper says "RoPE" and "T5-style"; the rest is (inferred): half of a head's pairs turn with the row, half with the
column (base 100, as positions on a grid are few); the MLP is T5 v1.1's, W_o (GELU(W_0 x) * W_1 x) without biases, of
8/3 the width; norms are LayerNorms before each part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BASE = 100.0


def rotary_angles(grid: tuple[int, int], head: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [h w, head / 2] of positions on a grid."""
    pairs = head // 4
    frequencies = _BASE ** -(torch.arange(pairs, device=device, dtype=torch.float32) / pairs)
    rows = torch.arange(grid[0], device=device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=device).repeat(grid[0])
    angles = torch.cat([rows[:, None] * frequencies, columns[:, None] * frequencies], dim=-1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """[..., tokens, head], its pairs (i, i + head / 2) turned by the tokens' angles."""
    cos, sin = (one.to(x.dtype) for one in angles)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Attention(nn.Module):
    """Self-attention of all tokens, with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """[B, tokens, width] -> the same."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, tokens, head]
        found = F.scaled_dot_product_attention(rotated(q, angles), rotated(k, angles), v)
        attended: Tensor = self.out(found.transpose(1, 2).flatten(-2))
        return attended


class GatedMlp(nn.Module):
    """T5 v1.1's: W_o (GELU(W_0 x) * W_1 x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = round(width * 8 / 3)
        self.inward, self.out = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same."""
        gate, value = self.inward(x).chunk(2, dim=-1)
        found: Tensor = self.out(F.gelu(gate, approximate="tanh") * value)
        return found


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads), GatedMlp(width)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """[B, tokens, width] -> the same."""
        x = x + self.attention(self.norm1(x), angles)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
