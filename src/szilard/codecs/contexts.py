"""The references from which MLIC++ and MLICv2 predict a slice of y.

Jiang, Yang, Zhai, Ning, Gao, Wang, "MLIC: Multi-Reference Entropy Model for Learned Image Compression", ACM MM 2023,
arXiv:2211.07273; Jiang, Wang, "MLIC++: Linear Complexity Multi-Reference Entropy Modeling for Learned Image
Compression", arXiv:2307.15421; Jiang, Zhai, Yang, Gao, Wang, "MLICv2: Enhanced Multi-Reference Entropy Modeling for
Learned Image Compression", arXiv:2504.19119.

All inputs are decoded already. C: channels of a slice, L = h w positions. Linear attention, per head of d channels:

    K~ = softmax of K over positions,  Q~ = softmax of Q over channels,  G = K~ V^T [d, d],  out = G^T Q~ [d, L]

Names of parameters are those of the official MLIC++.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.checkerboard import anchors, only, squeezed, unsqueezed
from szilard.codecs.layers import ChannelNorm, Gate, conv1x1, conv3x3, relative_position_index, zeroed

_OUTSIDE = -100.0  # added where an attention is not wanted


class RotaryPositions(nn.Module):
    """2D RoPE: channels (2j, 2j+1) at (row r, column c) turn by c theta_x^(-2j/d) + r theta_y^(-2j/d).

    theta_x and theta_y are learned (MLICv2's equations 9 and 10).
    """

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        self.log_theta = nn.Parameter(torch.full((2,), math.log(base)))  # of columns and of rows

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """x [..., d, h w], turned."""
        *others, channels, _ = x.shape
        angles = self.angles(channels, height, width, x)
        cos, sin = angles.cos(), angles.sin()
        even, odd = x.unflatten(-2, (channels // 2, 2)).unbind(-2)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-2)
        return turned.reshape(*others, channels, height * width)

    def angles(self, channels: int, height: int, width: int, like: Tensor) -> Tensor:
        """[d/2, h w]."""
        powers = torch.arange(0, channels, 2, device=like.device).to(like.dtype) / channels
        across, down = (-powers[:, None] * self.log_theta.to(like.dtype)).unbind(-1)
        columns = torch.arange(width, device=like.device).to(like.dtype).repeat(height)
        rows = torch.arange(height, device=like.device).to(like.dtype).repeat_interleave(width)
        return across.exp()[:, None] * columns + down.exp()[:, None] * rows


class MLP(nn.Module):
    """fc2(GELU(fc1(x))) of [..., channels]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return found


class LocalContext(nn.Module):
    """Decoded anchors around every position, by attention within overlapping windows.

    In the window of every position each of its w^2 places attends to all; pairs that are not both anchors get -100 (in
    the rows of other queries all of them, which changes nothing). The results are fused by a w x w convolution.

    Args:
        channels: C of x [B, C, h, w], 0 elsewhere than at anchors.
        window: odd.
        heads: of the attention.
        rope: rotate queries and keys, instead of a table of relative positions.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, window: int = 5, heads: int = 2, rope: bool = False) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.qkv_proj = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(2 * channels, 2 * channels)
        self.mlp = MLP(2 * channels, 4 * channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(2 * channels)
        self.fusion = nn.Conv2d(channels, 2 * channels, window)
        self.rope = RotaryPositions() if rope else None
        if not rope:
            table = torch.empty((2 * window - 1) ** 2, heads)
            self.relative_position_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
            self.register_buffer("relative_position_index", relative_position_index(window))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2C, h, w]."""
        batch, channels, height, width = x.shape
        size, places = height * width, self.window**2
        rows = self.norm1(x.flatten(2).transpose(1, 2))
        queries, keys, values = self.qkv_proj(rows).transpose(1, 2).chunk(3, dim=1)  # [B, C, L] each
        queries = queries * (channels // self.heads) ** -0.5
        if self.rope is not None:
            queries, keys = (self._turned(one, height, width) for one in (queries, keys))
        q, k, v = (self._windows(one, height, width) for one in (queries, keys, values))  # [B, L, heads, w^2, d]
        scores = q @ k.transpose(-2, -1)
        if self.rope is None:
            bias = self.relative_position_table[self.relative_position_index.reshape(-1)]
            scores = scores + bias.reshape(places, places, self.heads).permute(2, 0, 1)
        weights = F.softmax(scores + self._mask(height, width, x)[:, None], dim=-1)
        found = (weights @ v).permute(0, 1, 2, 4, 3).reshape(batch, size, channels * places)  # head, d, place
        found = self.proj(F.linear(found, self.fusion.weight.flatten(1), self.fusion.bias))
        found = found + self.mlp(self.norm2(found))
        return found.transpose(1, 2).reshape(batch, 2 * channels, height, width)

    def _turned(self, x: Tensor, height: int, width: int) -> Tensor:
        """Channels of a head are `heads` apart (see `_windows`)."""
        assert self.rope is not None
        by_head = x.unflatten(1, (-1, self.heads)).transpose(1, 2)
        found: Tensor = self.rope(by_head, height, width)
        return found.transpose(1, 2).flatten(1, 2)

    def _windows(self, x: Tensor, height: int, width: int) -> Tensor:
        """The window of each position. Channel c belongs to head c % heads, as in the official weights."""
        batch, channels, size = x.shape
        found = F.unfold(x.reshape(batch, channels, height, width), self.window, padding=self.window // 2)
        by_head = found.reshape(batch, channels // self.heads, self.heads, self.window**2, size)
        return by_head.permute(0, 4, 2, 3, 1)

    def _mask(self, height: int, width: int, like: Tensor) -> Tensor:
        """[L, w^2, w^2]: 0 where query and key are anchors inside, else -100."""
        board = anchors(height, width, like.device).to(like.dtype)[None, None]
        inside = F.unfold(board, self.window, padding=self.window // 2)[0].T  # [L, w^2]
        return (1 - inside[:, :, None] * inside[:, None, :]) * _OUTSIDE


class ChannelContext(nn.Module):
    """Earlier slices at the same place, by three convolutions; 4C channels."""

    def __init__(self, inner: int, channels: int, hidden: tuple[int, int] = (192, 128)) -> None:
        super().__init__()
        first, second = hidden
        self.fushion = nn.Sequential(  # the official spelling
            conv3x3(inner, first), nn.GELU(), conv3x3(first, second), nn.GELU(), conv3x3(second, 4 * channels)
        )

    def forward(self, earlier: Tensor) -> Tensor:
        found: Tensor = self.fushion(earlier)
        return found


def _branch(channels: int) -> nn.Sequential:
    return nn.Sequential(conv1x1(channels, channels), nn.Conv2d(channels, channels, 3, padding=1, groups=channels))


def _mixer(inner: int, hidden: int, outer: int) -> nn.Sequential:
    depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    return nn.Sequential(conv1x1(inner, hidden), nn.GELU(), depthwise, nn.GELU(), conv1x1(hidden, outer))


def linear_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """G^T Q~ with G = K~ V^T: all of [B, heads, d, L] (keys and values may be at other positions than queries)."""
    return (keys @ values.transpose(-2, -1)).transpose(-2, -1) @ queries


class InterSliceContext(nn.Module):
    """Places far away that look alike in earlier slices: linear attention over P [B, iC, h, w]; 2C channels."""

    def __init__(self, inner: int, channels: int, heads: int, rope: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.keys, self.queries, self.values = _branch(inner), _branch(inner), _branch(inner)
        self.reprojection = nn.Conv2d(inner, 3 * channels, 5, padding=2)
        self.mlp = _mixer(3 * channels, 4 * channels, 2 * channels)
        self.skip = conv1x1(3 * channels, 2 * channels)
        self.rope = RotaryPositions() if rope else None

    def forward(self, earlier: Tensor) -> Tensor:
        height, width = earlier.shape[-2:]
        branches = (self.queries, self.keys, self.values)
        q, k, v = (part(earlier).flatten(2).unflatten(1, (self.heads, -1)) for part in branches)
        q, k = F.softmax(q, dim=-2), F.softmax(k, dim=-1)
        if self.rope is not None:
            # Paper: does not say where; here after the softmaxes, so that <q, k> depends on the distance (inferred).
            q, k = self.rope(q, height, width), self.rope(k, height, width)
        found = linear_attention(q, k, v).flatten(1, 2).reshape(earlier.shape)
        found = self.reprojection(found)
        skip: Tensor = self.skip(found)
        return skip + self.mlp(found)


class IntraSliceContext(nn.Module):
    """Decoded anchors of this slice from places that look alike in a guide: the previous slice, or the hyperprior.

    Queries are the guide at non-anchors, keys the guide at anchors, values the anchors of this slice.

    Args:
        channels: C.
        heads: of the attention.
        rope: rotate queries and keys after their softmaxes.
    """

    def __init__(self, channels: int, heads: int = 2, rope: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.keys, self.queries, self.values = _branch(channels), _branch(channels), _branch(channels)
        self.reprojection = nn.Conv2d(channels, 2 * channels, 5, padding=2)
        self.mlp = _mixer(2 * channels, 4 * channels, 2 * channels)
        self.rope = RotaryPositions() if rope else None

    def forward(self, guide: Tensor, known: Tensor, where: Tensor) -> Tensor:
        """[B, 2C, h, w].

        Args:
            guide: [B, C, h, w].
            known: [B, C, h, w], 0 elsewhere than at `where`.
            where: bool [h, w], the half that is known.
        """
        found = self.reprojection(self.attended(guide, known, where))
        mixed: Tensor = self.mlp(found)
        return found + mixed

    def attended(self, guide: Tensor, known: Tensor, where: Tensor) -> Tensor:
        """The attention's result [B, C, h, w], 0 at `where`."""
        height, width = guide.shape[-2:]
        q = self._half(self.queries(only(guide, ~where)), ~where)
        k = self._half(self.keys(only(guide, where)), where)
        v = self._half(self.values(known), where)
        q, k = F.softmax(q, dim=-2), F.softmax(k, dim=-1)
        if self.rope is not None:
            q, k = self._turned(q, ~where), self._turned(k, where)
        found = linear_attention(q, k, v).flatten(1, 2)
        return unsqueezed(found.reshape(*guide.shape[:2], height, width // 2), ~where)

    def _half(self, x: Tensor, where: Tensor) -> Tensor:
        return squeezed(x, where).flatten(2).unflatten(1, (self.heads, -1))

    def _turned(self, x: Tensor, where: Tensor) -> Tensor:
        """Rotated by where each of the half's positions is."""
        assert self.rope is not None
        height, width = where.shape
        batch, heads, channels, _ = x.shape
        whole = unsqueezed(x.reshape(batch, heads * channels, height, width // 2), where)
        turned = self.rope(whole.reshape(batch, heads, channels, height * width), height, width)
        return squeezed(turned.reshape(batch, -1, height, width), where).reshape(x.shape)


class ChannelReweighting(nn.Module):
    """MLICv2's reweighting of a global context c [B, C', h, w] by attention between its channels (equation 8).

    a = softmax(q k^T / sqrt(L)) over channels, o = LN(Conv1x1(a v)), c + o + Gate(o); q, k, v: Conv1x1(LN(c)).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.out_norm = ChannelNorm(channels), ChannelNorm(channels)
        self.qkv, self.out = conv1x1(channels, 3 * channels), conv1x1(channels, channels)
        self.gate = Gate(channels)

    def weights(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """a [B, C', C'], whose rows add up to 1, and v [B, C', L]."""
        q, k, v = self.qkv(self.norm(context)).flatten(2).chunk(3, dim=1)
        return F.softmax((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5, dim=-1), v

    def forward(self, context: Tensor) -> Tensor:
        weights, values = self.weights(context)
        found = self.out_norm(self.out((weights @ values).reshape(context.shape)))
        gated: Tensor = self.gate(found)
        return context + found + gated


class EntropyParameters(nn.Module):
    """Contexts [B, inner, h, w] to scales and means, [B, 2C, h, w]."""

    def __init__(self, inner: int, channels: int, hidden: tuple[int, int, int] = (320, 256, 128)) -> None:
        super().__init__()
        first, second, third = hidden
        self.fusion = nn.Sequential(
            conv1x1(inner, first),
            nn.GELU(),
            conv1x1(first, second),
            nn.GELU(),
            conv1x1(second, third),
            nn.GELU(),
            conv1x1(third, 2 * channels),
        )

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = self.fusion(contexts).chunk(2, dim=1)
        return scales, means


class LatentResidualPrediction(nn.Module):
    """What rounding took away, as far as it can be guessed: 1/2 tanh of three convolutions; a new one says 0."""

    def __init__(self, inner: int, channels: int, hidden: tuple[int, int] = (224, 128)) -> None:
        super().__init__()
        first, second = hidden
        self.lrp_transform = nn.Sequential(
            conv3x3(inner, first), nn.GELU(), conv3x3(first, second), nn.GELU(), zeroed(conv3x3(second, channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * torch.tanh(self.lrp_transform(x))
