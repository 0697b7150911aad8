"""Blocks of the transforms. Parameters have the names of CompressAI and of the official MLIC++."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.bounds import GDN


def conv3x3(inner: int, outer: int, stride: int = 1) -> nn.Conv2d:
    """Same size at stride 1, half of it at stride 2."""
    return nn.Conv2d(inner, outer, 3, stride=stride, padding=1)


def conv1x1(inner: int, outer: int, stride: int = 1) -> nn.Conv2d:
    """Of each position alone."""
    return nn.Conv2d(inner, outer, 1, stride=stride)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """With weights and bias 0: the last layer of a branch that shall add nothing before it has learned to."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def subpel_conv3x3(inner: int, outer: int, factor: int = 1) -> nn.Sequential:
    """A convolution whose channels become `factor` times `factor` positions."""
    return nn.Sequential(conv3x3(inner, outer * factor**2), nn.PixelShuffle(factor))


def relative_position_index(window: int) -> Tensor:
    """Where the offset of two places in a window stands in a table of all (2 w - 1)^2: int64 [w^2, w^2]."""
    place = torch.arange(window)
    apart = place[:, None] - place + window - 1
    index = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]
    return index.reshape(window**2, window**2)


class ResidualBlockWithStride(nn.Module):
    """Half of the size: two convolutions and GDN, beside a 1x1 convolution."""

    def __init__(self, inner: int, outer: int, stride: int = 2) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3x3(inner, outer, stride), conv3x3(outer, outer)
        self.gdn = GDN(outer)
        self.skip = conv1x1(inner, outer, stride) if stride != 1 or inner != outer else None

    def forward(self, x: Tensor) -> Tensor:
        found = self.gdn(self.conv2(F.gelu(self.conv1(x))))
        skip: Tensor = x if self.skip is None else self.skip(x)
        return found + skip


class ResidualBlockUpsample(nn.Module):
    """Twice the size: a sub-pixel convolution, a convolution and inverse GDN, beside a sub-pixel convolution."""

    def __init__(self, inner: int, outer: int, factor: int = 2) -> None:
        super().__init__()
        self.subpel_conv = subpel_conv3x3(inner, outer, factor)
        self.conv = conv3x3(outer, outer)
        self.igdn = GDN(outer, inverse=True)
        self.upsample = subpel_conv3x3(inner, outer, factor)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.igdn(self.conv(F.gelu(self.subpel_conv(x))))
        return found + self.upsample(x)


class ResidualBlock(nn.Module):
    """Two convolutions with GELU beside x; new ones add nothing."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3x3(inner, outer), zeroed(conv3x3(outer, outer))
        self.skip = conv1x1(inner, outer) if inner != outer else None

    def forward(self, x: Tensor) -> Tensor:
        found = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        skip: Tensor = x if self.skip is None else self.skip(x)
        return found + skip


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every position of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        # by its formula: moving the channels to the end and back copies twice
        centred = x - x.mean(dim=1, keepdim=True)
        spread = (centred * centred).mean(dim=1, keepdim=True)
        scaled = centred / (spread + self.eps).sqrt()
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


class Gate(nn.Module):
    """v * sigmoid(Conv1x1(GELU(DWConv3x3(GELU(Conv1x1(LN(v)))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.inward, self.outward = conv1x1(channels, channels), conv1x1(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, v: Tensor) -> Tensor:
        gate = self.outward(F.gelu(self.depthwise(F.gelu(self.inward(self.norm(v))))))
        return v * torch.sigmoid(gate)


class TokenMixing(nn.Module):
    """MLICv2's simple token mixing (its equation 6), what the residual blocks of MLIC++ become.

    u = x + Conv1x1(DWConv5x5(DepthRB(LN(x)))), DepthRB(v) = v + GELU(Conv1x1(GELU(DWConv3x3(v)))); u + Gate(LN(u)).

    New blocks are the identity (inferred: the last 1x1 convolution and the second norm's weights start at 0), so that a
    deep transform begins as its few strided convolutions; a small codec then learns several times faster.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.gate_norm = ChannelNorm(channels), ChannelNorm(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = conv1x1(channels, channels)
        self.mix = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.out = zeroed(conv1x1(channels, channels))
        self.gate = Gate(channels)
        nn.init.zeros_(self.gate_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        v = self.norm(x)
        v = v + F.gelu(self.pointwise(F.gelu(self.depthwise(v))))
        u: Tensor = x + self.out(self.mix(v))
        gated: Tensor = self.gate(self.gate_norm(u))
        return u + gated
