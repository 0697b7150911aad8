"""Tiny codecs and pictures, the same in every run."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.mlicv2 import MLICv2, MLICv2Config
from szilard.codecs.training import CodecConfig, train_codec


def awake(codec: nn.Module, seed: int = 4) -> None:
    """Gives small random values to what starts at 0, as if a little had been learned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in codec.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@cache
def tiny_codec(**changes: Any) -> MLICv2:
    """An untrained codec whose latents are large enough to be worth coding; not to be changed."""
    sizes: dict[str, Any] = {"N": 8, "M": 16, "slices": 2, "window": 3, "hidden": 0.05, "transform": "residual"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        codec = MLICv2(MLICv2Config(**sizes | changes)).eval()
    awake(codec)
    with torch.no_grad():
        [part for part in codec.g_a.analysis_transform if isinstance(part, nn.Conv2d)][-1].weight.mul_(20)
        codec.h_a.reduction[-1].weight.mul_(60)
        for heads in (codec.entropy_parameters_anchor, codec.entropy_parameters_nonanchor):
            for head in heads:
                head.fusion[-1].weight.mul_(8)
                head.fusion[-1].bias[: codec.settings.width] += 1  # scales
    codec.update(force=True, update_quantiles=True)
    return codec


@cache
def pixels(batch: int = 1, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth pictures [B, 3, H, W] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, height // 8, width // 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


def samples(height: int, width: int, kind: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """A smooth picture [H, W, 3]."""
    found = pixels(1, -(-height // 8) * 8, -(-width // 8) * 8, seed)[0, :, :height, :width]
    return (found.permute(1, 2, 0).numpy() * np.iinfo(kind).max).astype(kind)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> MeanScaleHyperprior:
    """A codec that has been trained for a moment."""
    torch.manual_seed(5)
    codec = MeanScaleHyperprior(HyperpriorConfig(12, 16))
    pictures = {str(seed): samples(160, 160, seed=seed) for seed in range(4)}
    settings = CodecConfig(
        steps=150, batch_size=4, crop=64, learning_rate=2e-3, lmbda=0.01, save_every=150, log_every=50, seed=1
    )
    train_codec(codec, pictures, settings, tmp_path_factory.mktemp("trained"), device="cpu")
    return codec
