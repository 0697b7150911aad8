"""Blocks of the transforms are their equations, written once more without the blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.contexts import ChannelReweighting
from szilard.codecs.layers import ChannelNorm, Gate, TokenMixing


def drawn(block: nn.Module) -> nn.Module:
    """With random weights everywhere, norms among them."""
    generator = torch.Generator().manual_seed(0)
    block = block.double()
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
    return block


def picture() -> Tensor:
    return torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def norm(part: nn.LayerNorm, v: Tensor) -> Tensor:
    return F.layer_norm(v.movedim(1, -1), (4,), part.weight, part.bias).movedim(-1, 1)


def conv(part: nn.Conv2d, v: Tensor) -> Tensor:
    """Of the same size; in as many groups as channels where the weights are of one channel."""
    return F.conv2d(v, part.weight, part.bias, padding=part.weight.shape[-1] // 2, groups=4 // part.weight.shape[1])


def gate(part: Gate, v: Tensor) -> Tensor:
    return v * torch.sigmoid(
        conv(part.outward, F.gelu(conv(part.depthwise, F.gelu(conv(part.inward, norm(part.norm, v))))))
    )


def test_the_norm_is_over_the_channels_of_each_position() -> None:
    part = drawn(ChannelNorm(4))
    assert torch.allclose(part(picture()), norm(part, picture()))


def test_token_mixing() -> None:
    block, x = drawn(TokenMixing(4)), picture()
    v = norm(block.norm, x)
    depth = v + F.gelu(conv(block.pointwise, F.gelu(conv(block.depthwise, v))))
    u = x + conv(block.out, conv(block.mix, depth))
    assert block.mix.kernel_size == (5, 5) and block.depthwise.kernel_size == (3, 3)
    assert torch.allclose(block(x), u + gate(block.gate, norm(block.gate_norm, u)))


def test_channel_reweighting() -> None:
    block, c = drawn(ChannelReweighting(4)), picture()
    q, k, v = conv(block.qkv, norm(block.norm, c)).flatten(2).split(4, dim=1)
    a = F.softmax(torch.einsum("bil,bjl->bij", q, k) / 30**0.5, dim=-1)
    o = norm(block.out_norm, conv(block.out, torch.einsum("bij,bjl->bil", a, v).reshape(c.shape)))
    assert torch.allclose(block(c), c + o + gate(block.gate, o))
