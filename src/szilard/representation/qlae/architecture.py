"""The networks of "Disentanglement via Latent Quantization": a convolutional encoder and a style decoder.

    encoder  stages of convolutions (3x3, 3x3, 4x4 of stride 2) -> instance norm -> leaky ReLU, then dense layers
    decoder  w = dense layers of z; a learned constant map goes through the stages backwards:
             transposed convolution -> leaky ReLU -> instance norm without scale -> times s(w) plus b(w),
             (s, b) = ReLU(linear(w)) of each convolution's own; a last 3x3 convolution gives logits

so that z acts through scales and shifts of whole maps only. "large" is the paper's default, "small" has one 4x4
convolution a stage; that its norms and its decoder are those of "large" is inferred, and so is the number of stages for
other sizes than 64 pixels. Each stage halves the side of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from szilard.options import check_choice, check_number

_SLOPE = 0.2  # of the leaky ReLU
_EPS = 1e-6
ARCHITECTURES = ("large", "small")


@dataclass(frozen=True)
class Shape:
    """Sizes of encoder and decoder.

    Attributes:
        image_size: side of the pictures.
        channels: of the pictures.
        widths: channels of each stage, from the picture on.
        depth: convolutions in a stage: 3 ("large") or 1 ("small").
        dense: widths of the dense layers.
    """

    image_size: int
    channels: int
    widths: tuple[int, ...]
    depth: int
    dense: tuple[int, ...]

    @property
    def side(self) -> int:
        """Of the smallest map."""
        return self.image_size >> len(self.widths)


def make_shape(
    image_size: int,
    channels: int,
    architecture: str,
    widths: Sequence[int] | None = None,
    dense: Sequence[int] | None = None,
) -> Shape:
    """The paper's sizes, where none are given: as many stages as bring the picture to 4x4.

    Raises:
        TypeError, ValueError: no such architecture, or a picture that so many stages cannot halve.
    """
    check_choice("architecture", architecture, ARCHITECTURES)
    check_number("image_size", image_size, low=8, integer=True)
    check_number("channels", channels, low=1, integer=True)
    if widths is None:
        first = 32 if architecture == "large" else 64
        widths = [first * 2**stage for stage in range(max(1, (image_size // 4).bit_length() - 1))]
    if dense is None:
        dense = [256, 256] if architecture == "large" else [512]
    for name, sizes in (("widths", widths), ("dense", dense)):
        if not isinstance(sizes, (list, tuple)):
            raise TypeError(f"{name} must be a list of whole numbers or None, not {sizes!r}.")
        if not sizes:
            raise ValueError(f"{name} must list a width at least.")
        for size in sizes:
            check_number(name, size, low=1, integer=True)
    smallest = image_size / 2 ** len(widths)
    if smallest < 2 or smallest != int(smallest):
        raise ValueError(
            f"{len(widths)} stages cannot halve a picture of {image_size} pixels to a map of 2x2 or more: give "
            "fewer widths, or pictures whose side is a multiple of that power of two."
        )
    return Shape(image_size, channels, tuple(widths), 3 if architecture == "large" else 1, tuple(dense))


class Encoder(nn.Module):
    """Pictures [B, C, s, s] -> `features` [B, last of dense] -> [B, outputs]."""

    def __init__(self, shape: Shape, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = shape.channels
        for width in shape.widths:
            for place in range(shape.depth):
                halves = place == shape.depth - 1
                layers += [
                    nn.Conv2d(before, width, 4 if halves else 3, 2 if halves else 1, padding=1, bias=False),
                    nn.InstanceNorm2d(width, eps=_EPS, affine=True),
                    nn.LeakyReLU(_SLOPE),
                ]
                before = width
        layers.append(nn.Flatten())
        before *= shape.side**2
        self.trunk = nn.Sequential(*layers, *_dense(before, shape.dense))
        self.head = nn.Linear(shape.dense[-1], outputs)

    def features(self, pictures: Tensor) -> Tensor:
        """What the head reads."""
        return self.trunk(pictures)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.features(pictures))


class StyleDecoder(nn.Module):
    """Latents [B, inputs] -> logits [B, C, s, s]."""

    def __init__(self, shape: Shape, inputs: int) -> None:
        super().__init__()
        self.mapping = nn.Sequential(*_dense(inputs, shape.dense))
        widest = shape.widths[-1]
        self.constant = nn.Parameter(torch.full((widest, shape.side, shape.side), 0.1))
        blocks: list[nn.Module] = []
        before = widest
        for width in reversed(shape.widths):
            for place in range(shape.depth):
                blocks.append(_StyleBlock(before, width, shape.dense[-1], doubles=place == shape.depth - 1))
                before = width
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(before, shape.channels, 3, padding=1, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        style = self.mapping(latents)
        maps = self.constant.expand(len(latents), -1, -1, -1)
        for block in self.blocks:
            maps = block(maps, style)
        return self.last(maps)


class _StyleBlock(nn.Module):
    def __init__(self, before: int, width: int, style: int, *, doubles: bool) -> None:
        super().__init__()
        kernel, stride = (4, 2) if doubles else (3, 1)
        self.convolution = nn.ConvTranspose2d(before, width, kernel, stride, padding=1, bias=False)
        self.style = nn.Linear(style, 2 * width)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        normed = nn.functional.instance_norm(
            nn.functional.leaky_relu(self.convolution(maps), _SLOPE), eps=_EPS
        )  # [B, width, side, side]
        scale, shift = self.style(style).relu()[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, normed, scale)


def _dense(before: int, widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return layers
