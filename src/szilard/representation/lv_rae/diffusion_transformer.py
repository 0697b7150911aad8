"""A small transformer for flows on latents, in two parts: a narrow one that understands, a wide one that draws.

Zheng et al., arXiv:2510.11690 ("DiT-DH"), after Wang et al., "DDT: Decoupled Diffusion Transformer", arXiv:2504.05741.

    s = Blocks(x_t, t)  [B, N, width]            h = wide Blocks(x_t; conditioned token by token on s and t)
    v = Linear(h)

Blocks are conditioned by adaLN-Zero (Peebles and Xie, "DiT", ICCV 2023). The width should be at least the token's, or
the network cannot carry the noise it has to name.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.options import check_number
from szilard.representation.lv_rae.blocks import Attention, GatedMlp, rotary_angles

_FREQUENCIES = 128  # numbers of a time's sines


class _ConditionedBlock(nn.Module):
    """x + g1 attention(a1 LN(x) + b1), x + g2 MLP(a2 LN(x) + b2); a, b, g of the condition, zero at the start."""

    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width, heads), GatedMlp(width)
        self.modulation = nn.Linear(condition, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """[B, N, width], condition [B, N or 1, c] -> [B, N, width]."""
        a1, b1, g1, a2, b2, g2 = self.modulation(F.silu(condition)).chunk(6, dim=-1)
        x = x + g1 * self.attention(_plain_norm(x) * (1 + a1) + b1, angles)
        out: Tensor = x + g2 * self.mlp(_plain_norm(x) * (1 + a2) + b2)
        return out


def _plain_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


class LatentTransformer(nn.Module):
    """v of noisy latents.

    Args:
        token: D.
        width, depth, heads: of the part that understands.
        head_width, head_depth: of the part that draws; 2 layers of 2048 in the paper.
    """

    def __init__(
        self,
        token: int,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        head_width: int = 2048,
        head_depth: int = 2,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("head_width", head_width)):
            check_number(name, value, low=1, integer=True)
            if value % (4 * heads):
                raise ValueError(f"{name}={value} must be a multiple of 4 x heads={4 * heads}.")
        self.heads, self.width, self.head_width = heads, width, head_width
        self.inward, self.wide_inward = nn.Linear(token, width), nn.Linear(token, head_width)
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([_ConditionedBlock(width, heads, width) for _ in range(depth)])
        self.wide_blocks = nn.ModuleList([_ConditionedBlock(head_width, heads, width) for _ in range(head_depth)])
        self.last = nn.Linear(width, 2 * head_width)
        self.out = nn.Linear(head_width, token)
        for layer in (self.last, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """x_t [B, N, D] and t [B] in [0, 1] -> v [B, N, D]; N is a square unless a grid is given."""
        side = math.isqrt(x.shape[1])
        shape = (side, side) if grid is None else grid
        time = self.time(_sines(t).to(x.dtype)).unsqueeze(1)  # [B, 1, width]
        angles = rotary_angles(shape, self.width // self.heads, x.device)
        s = self.inward(x)
        for block in self.blocks:
            s = block(s, time, angles)
        condition = s + time
        angles = rotary_angles(shape, self.head_width // self.heads, x.device)
        h = self.wide_inward(x)
        for block in self.wide_blocks:
            h = block(h, condition, angles)
        scale, offset = self.last(F.silu(condition)).chunk(2, dim=-1)
        found: Tensor = self.out(_plain_norm(h) * (1 + scale) + offset)
        return found


def _sines(t: Tensor) -> Tensor:
    """[B] -> [B, 256]; t is scaled by 1000 as usual."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(_FREQUENCIES, device=t.device) / _FREQUENCIES)
    angles = 1000 * t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class PointNetwork(nn.Module):
    """v of points: five layers of ReLU, 512 wide, as in the toy model.

    Args:
        dimensions: D.
        width, layers: of the network.
    """

    def __init__(self, dimensions: int, width: int = 512, layers: int = 5) -> None:
        super().__init__()
        sizes = [dimensions + 1, *[width] * (layers - 1), dimensions]
        parts: list[nn.Module] = []
        for inner, outer in pairwise(sizes):
            parts += [nn.Linear(inner, outer), nn.ReLU()]
        self.net = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """[B, D] and [B] -> [B, D]."""
        found: Tensor = self.net(torch.cat([x, t[:, None]], dim=-1))
        return found
