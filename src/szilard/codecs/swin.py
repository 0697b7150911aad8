"""SwinV2 attention for feature maps.

Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", arXiv:2111.09883.

    similarity = cos(q, k) / tau + B,  tau >= 0.01 per head,
    B = 16 sigmoid(MLP(sign(d) log(1 + |d|))) of the offset d between two positions of a window

LayerNorm comes after the attention and after the MLP, before each residual.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.layers import relative_position_index
from szilard.options import check_number


class SwinV2Attention2d(nn.Module):
    """Two SwinV2 blocks, the second one with shifted windows; any [B, C, H, W].

    Args:
        channels: C.
        window: side of a window.
        heads: None: one for every 16 channels, at least one.
    """

    def __init__(self, channels: int, window: int = 8, heads: int | None = None) -> None:
        super().__init__()
        check_number("channels", channels, low=1, integer=True)
        check_number("window", window, low=2, integer=True)
        check_number("heads", heads, low=1, integer=True, optional=True)
        number = max(1, channels // 16) if heads is None else heads
        while heads is None and channels % number:
            number -= 1
        if channels % number:
            raise ValueError(f"heads={number} must divide channels={channels}.")
        self.blocks = nn.ModuleList([_Block(channels, window, number, shift) for shift in (0, window // 2)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    def __init__(self, channels: int, window: int, heads: int, shift: int) -> None:
        super().__init__()
        self.window, self.heads, self.shift = window, heads, shift
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), 10.0).log())  # 1 / tau
        self.bias = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        apart = torch.arange(1.0 - window, window)
        offsets = torch.stack(torch.meshgrid(apart, apart, indexing="ij"), dim=-1).reshape(-1, 2)
        self.register_buffer("offsets", offsets.sign() * offsets.abs().log1p(), persistent=False)
        self.register_buffer("index", relative_position_index(window).reshape(-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.movedim(1, -1)
        tokens = tokens + self.norm1(self._attended(tokens))
        tokens = tokens + self.norm2(self.mlp(tokens))
        return tokens.movedim(-1, 1)

    def _attended(self, tokens: Tensor) -> Tensor:
        """[B, H, W, C]: windows of a padded, shifted map; padding and what the shift brought together are masked."""
        batch, height, width, channels = tokens.shape
        side = self.window
        padded = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
        rolled = torch.roll(padded, (-self.shift, -self.shift), dims=(1, 2))
        regions = self._regions(height, width, tokens.device)
        windows, marks = _windows(rolled, side), _windows(regions, side)[..., 0]  # [B, n, side^2, C], [1, n, side^2]
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        # cosines in float32, in mixed precision, too: they are multiplied by up to 100 before the softmax
        with torch.autocast(tokens.device.type, enabled=False):
            scores = F.normalize(q.float(), dim=-1) @ F.normalize(k.float(), dim=-1).transpose(-2, -1)
        scores = scores * self.log_scale.clamp(max=float(torch.tensor(100.0).log())).exp()
        bias = 16 * self.bias(self.offsets).sigmoid()
        scores = scores + bias[self.index].reshape(side**2, side**2, self.heads).permute(2, 0, 1)
        apart = marks[..., :, None] != marks[..., None, :]
        weights = scores.masked_fill(apart[:, :, None], float("-inf")).softmax(-1).to(v.dtype)
        found = self.proj((weights @ v).transpose(2, 3).flatten(-2))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        found = found.reshape(batch, rows, columns, side, side, channels).transpose(2, 3).reshape(padded.shape)
        return torch.roll(found, (self.shift, self.shift), dims=(1, 2))[:, :height, :width]

    def _regions(self, height: int, width: int, device: torch.device) -> Tensor:
        """[1, H', W', 1]: positions of equal numbers may see each other."""
        rows, columns = (self._stretches(size, device) for size in (height, width))
        return (rows[:, None] * 4 + columns).float()[None, :, :, None]

    def _stretches(self, size: int, device: torch.device) -> Tensor:
        """Of one axis after the roll: 0 usual, 1 in the last window before the seam, 2 beyond it, 3 padding."""
        whole = size + -size % self.window
        place = torch.arange(whole, device=device)
        found = (place >= whole - self.window).long() * (self.shift > 0) + (place >= whole - self.shift).long() * (
            self.shift > 0
        )
        original = (place + self.shift) % whole
        return torch.where(original >= size, 3, found)


def _windows(x: Tensor, side: int) -> Tensor:
    """[B, H, W, C] to [B, windows, side^2, C]."""
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height // side, side, width // side, side, channels).transpose(2, 3)
    return parts.reshape(batch, -1, side**2, channels)
