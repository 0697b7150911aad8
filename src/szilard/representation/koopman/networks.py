"""Encoders and decoders of states: vectors, and pictures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with GELU between them, [..., first] -> [..., last]."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class ConvEncoder(nn.Module):
    """[N, channels, size, size] -> [N, out]: four convolutions with average pooling, one more, a linear layer.

    Args:
        channels, size: of the pictures; the size is a multiple of 16.
        out: width of the result.
        width: channels of the first convolution; they double (16 to 256 in the paper).
        dropout: behind every convolution.
    """

    def __init__(self, channels: int, size: int, out: int, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [channels, *(width * 2**level for level in range(5))]
        for level, (before, after) in enumerate(itertools.pairwise(widths)):
            kernel = (7, 5, 3, 3, 3)[level]
            layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.ReLU(), nn.Dropout(dropout)]
            layers += [nn.AvgPool2d(2)] if level < 4 else []
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (size // 16) ** 2, out))

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, channels, size, size] -> [N, out]."""
        return self.layers(pictures)


class ConvDecoder(nn.Module):
    """[N, latent] -> [N, channels, size, size]: the encoder mirrored, and a refinement of 1 x 1 convolutions."""

    def __init__(self, channels: int, size: int, latent: int, width: int = 16) -> None:
        super().__init__()
        self.side = size // 16
        widths = [width * 2**level for level in range(4, -1, -1)]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
            layers += [nn.ConvTranspose2d(before, after, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(width, channels, 3, padding=1)]
        layers += [nn.Conv2d(channels, 64, 1), nn.ReLU(), nn.Conv2d(64, 32, 1), nn.ReLU(), nn.Conv2d(32, channels, 1)]
        self.first, self.widest = nn.Linear(latent, widths[0] * self.side**2), widths[0]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """[N, latent] -> [N, channels, size, size]."""
        return self.layers(self.first(latents).view(-1, self.widest, self.side, self.side))
