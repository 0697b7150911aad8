"""The transforms of MLIC++ and MLICv2: picture to latent and back, latent to hyper latent and back.

With token mixing the blocks that change the size stay as they are in MLIC++, GDN among them (inferred).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from szilard.codecs.layers import (
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    TokenMixing,
    conv3x3,
    subpel_conv3x3,
)
from szilard.codecs.swin import SwinV2Attention2d


class Sizes(Protocol):
    """What the transforms read of a configuration."""

    @property
    def N(self) -> int: ...
    @property
    def M(self) -> int: ...
    @property
    def transform(self) -> str: ...
    @property
    def blocks(self) -> int: ...
    @property
    def attention(self) -> bool: ...


def _between(sizes: Sizes) -> Callable[[int], list[nn.Module]]:
    """What stands between two changes of size; with token mixing two blocks for each residual block."""

    def build(channels: int) -> list[nn.Module]:
        if sizes.transform == "stm":
            return [TokenMixing(channels) for _ in range(2 * sizes.blocks)]
        return [ResidualBlock(channels, channels) for _ in range(sizes.blocks)]

    return build


class Analysis(nn.Module):
    """g_a: pictures [B, 3, H, W] to y [B, M, H/16, W/16]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        N, between = sizes.N, _between(sizes)
        parts: list[nn.Module] = []
        for stage in range(3):
            parts += [ResidualBlockWithStride(N if stage else 3, N), *between(N)]
            if sizes.attention and stage == 1:
                parts.append(SwinV2Attention2d(N))
        parts.append(conv3x3(N, sizes.M, stride=2))
        if sizes.attention:
            parts.append(SwinV2Attention2d(sizes.M))
        self.analysis_transform = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.analysis_transform(x)
        return found


class Synthesis(nn.Module):
    """g_s: y^ to pictures."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        N, M, between = sizes.N, sizes.M, _between(sizes)
        parts: list[nn.Module] = [SwinV2Attention2d(M)] if sizes.attention else []
        parts += between(M)
        for stage in range(3):
            parts += [ResidualBlockUpsample(N if stage else M, N), *between(N)]
            if sizes.attention and stage == 0:
                parts.append(SwinV2Attention2d(N))
        last = subpel_conv3x3(N, 3, 2)
        nn.init.constant_(last[0].bias, 0.5)  # type: ignore[arg-type]  # the middle of what pixels can be
        parts.append(last)
        self.synthesis_transform = nn.Sequential(*parts)

    def forward(self, y: Tensor) -> Tensor:
        found: Tensor = self.synthesis_transform(y)
        return found


class HyperAnalysis(nn.Module):
    """h_a: y to z [B, N, H/64, W/64]."""

    def __init__(self, latent: int, hyper: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [conv3x3(latent, hyper)]
        for stride in (1, 2, 1, 2):
            parts += [nn.GELU(), conv3x3(hyper, hyper, stride)]
        self.reduction = nn.Sequential(*parts)

    def forward(self, y: Tensor) -> Tensor:
        found: Tensor = self.reduction(y)
        return found


class HyperSynthesis(nn.Module):
    """h_s: z^ to [B, 2M, H/16, W/16], scales and means."""

    def __init__(self, latent: int, hyper: int) -> None:
        super().__init__()
        wide = latent * 3 // 2
        self.increase = nn.Sequential(
            conv3x3(hyper, latent),
            nn.GELU(),
            subpel_conv3x3(latent, latent, 2),
            nn.GELU(),
            conv3x3(latent, wide),
            nn.GELU(),
            subpel_conv3x3(wide, wide, 2),
            nn.GELU(),
            conv3x3(wide, 2 * latent),
        )

    def forward(self, z: Tensor) -> Tensor:
        found: Tensor = self.increase(z)
        return found
