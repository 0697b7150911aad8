"""The discriminator of RAE: small heads on the token maps of a frozen vision model.

Zheng, Ma, Tong, Xie, "Diffusion Transformers with Representation Autoencoders", arXiv:2510.11690; after Sauer et al.,
"StyleGAN-T", ICML 2023; augmentation after Zhao et al., "Differentiable Augmentation", NeurIPS 2020.

    heads on blocks 2, 5, 8, 11 (of 12) and on the last block once more:
    spectral Conv1d 1 -> BatchNorm -> LeakyReLU;  residual: Conv1d 9 over tokens -> the same;  Conv1d 1: a logit a token

RAE's trunk is DINO ViT-S/8; any vision model that `backbone` reads is taken here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from szilard.options import check_bool, check_number
from szilard.representation.lv_rae.backbone import VisionBackbone, open_backbone

_WIDTH = 9  # of the convolution over tokens
_SLOPE = 0.2


class Augmentation(nn.Module):
    """What both real and decoded pictures go through before they are judged; gradients pass.

    Args:
        translate: up to this share of the side, with zeros from outside.
        colour: brightness, saturation and contrast.
        crop: side of a random crop of larger pictures, in pixels; None: none.
    """

    def __init__(self, translate: float = 0.125, colour: bool = True, crop: int | None = 224) -> None:
        super().__init__()
        check_number("translate", translate, low=0, high=0.5)
        check_bool("colour", colour)
        check_number("crop", crop, low=8, integer=True, optional=True)
        self.translate, self.colour, self.crop = translate, colour, crop

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> the same, or [B, 3, crop, crop]; draws per picture from torch's own generator."""
        if self.crop is not None and min(x.shape[-2:]) > self.crop:
            top, left = (int(torch.randint(side - self.crop + 1, ())) for side in x.shape[-2:])
            x = x[..., top : top + self.crop, left : left + self.crop]
        if self.colour:
            bright, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device)
            x = x + bright - 0.5
            grey = x.mean(1, keepdim=True)
            x = (x - grey) * (2 * saturation) + grey
            level = x.mean((1, 2, 3), keepdim=True)
            x = (x - level) * (contrast + 0.5) + level
        if self.translate:
            x = _shifted(x, self.translate)
        return x


def _shifted(x: Tensor, share: float) -> Tensor:
    batch, _, height, width = x.shape
    down, right = (round(side * share) for side in (height, width))
    padded = F.pad(x, (right, right, down, down))
    tops = torch.randint(2 * down + 1, (batch, 1), device=x.device) + torch.arange(height, device=x.device)
    lefts = torch.randint(2 * right + 1, (batch, 1), device=x.device) + torch.arange(width, device=x.device)
    index = torch.arange(batch, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, tops[:, :, None], lefts[:, None, :]].permute(0, 3, 1, 2)


class _Convolved(nn.Sequential):
    def __init__(self, channels: int, width: int) -> None:
        convolution = nn.Conv1d(channels, channels, width, padding=width // 2, padding_mode="circular")
        super().__init__(spectral_norm(convolution), nn.BatchNorm1d(channels), nn.LeakyReLU(_SLOPE))


class _Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _Convolved(channels, 1), _Convolved(channels, _WIDTH)
        self.out = spectral_norm(nn.Conv1d(channels, 1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [B, N]."""
        x = self.first(tokens.transpose(1, 2))
        x = (x + self.second(x)) / math.sqrt(2)
        logits: Tensor = self.out(x)[:, 0]
        return logits


class Discriminator(nn.Module):
    """Judges pictures; the trunk is frozen.

    Args:
        vfm: the trunk, as `open_backbone` takes it.
        blocks: whose outputs are judged, from 0; None: the ends of the four quarters (2, 5, 8, 11 of 12).
        augmentation: None: `Augmentation()`.
        seed: of the heads' first weights.

    Raises:
        ValueError: a trunk without a list of blocks, or blocks that it has not.
    """

    def __init__(
        self,
        vfm: Any,
        blocks: Sequence[int] | None = None,
        augmentation: Augmentation | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.trunk: VisionBackbone = open_backbone(vfm)
        lists = [part for part in self.trunk.model.modules() if isinstance(part, nn.ModuleList)]
        self._layers: tuple[nn.Module, ...] = max((tuple(part) for part in lists), key=len, default=())
        depth = len(self._layers)
        if not depth:
            raise ValueError(f"{type(self.trunk.model).__name__} has no list of blocks to judge pictures by.")
        quarters = sorted({max(0, (part + 1) * depth // 4 - 1) for part in range(4)})
        self.blocks = tuple(quarters if blocks is None else blocks)
        for block in self.blocks:
            check_number("blocks", block, low=0, high=depth - 1, integer=True)
        # The last block is judged twice, as in the published code.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList([_Head(self.trunk.width) for _ in range(len(self.blocks) + 1)])
        self.augmentation = Augmentation() if augmentation is None else augmentation

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] -> logits [B, tokens of all heads]."""
        seen = self.augmentation(pixels) * 0.5 + 0.5
        patch = self.trunk.patch
        height, width = (max(1, round(side / patch)) for side in seen.shape[-2:])
        grid = (height, width)
        caught: dict[int, Tensor] = {}

        def keep(number: int) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                caught[number] = (output[0] if isinstance(output, tuple) else output)[:, -grid[0] * grid[1] :]

            return hook

        hooks = [self._layers[number].register_forward_hook(keep(number)) for number in self.blocks]
        try:
            last = self.trunk(seen, grid)
        finally:
            for hook in hooks:
                hook.remove()
        maps = [*(caught[number] for number in self.blocks), last]
        return torch.cat([head(tokens) for head, tokens in zip(self.heads, maps, strict=True)], dim=1)

    @contextmanager
    def as_judge(self) -> Iterator[Discriminator]:
        """Inside, gradients reach the pictures and not the heads, which stay in evaluation mode."""
        wanted, mode = [one.requires_grad for one in self.heads.parameters()], self.training
        self.heads.requires_grad_(False)
        self.eval()
        try:
            yield self
        finally:
            self.train(mode)
            for one, flag in zip(self.heads.parameters(), wanted, strict=True):
                one.requires_grad_(flag)


def as_bytes(pixels: Tensor) -> Tensor:
    """Decoded pictures in [-1, 1], clamped and rounded to 8 bits: real ones have no finer steps either."""
    return ((pixels.clamp(-1, 1) * 0.5 + 0.5) * 255).round() / 255 * 2 - 1
