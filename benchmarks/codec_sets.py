"""What the codec benchmarks have in common: pictures, codecs under test, and what one of them makes of the pictures.

CompressAI's models come in where the package can be imported; `peers` says so.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from szilard.codecs.coding import decode, encode, padded_pixels
from szilard.codecs.container import Bitstream
from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.images import Picture, read_picture
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.mlicv2 import MLICv2, preset
from szilard.codecs.photographs import files_of
from szilard.codecs.training import bits_per_pixel

SMALL = preset("mlicv2-small", N=32, M=48, slices=4, hidden=0.15)  # 1.46 M parameters


def peers() -> Any:
    """CompressAI's models, None where the package is missing (or its torchvision fits no CPU build of torch)."""
    try:
        from compressai import models
    except (ImportError, RuntimeError):
        return None
    return models


def _peer(name: str, **sizes: Any) -> nn.Module:
    models = peers()
    if models is None:
        raise ValueError(f"{name} needs the package compressai, which cannot be imported here.")
    model: nn.Module = getattr(models, name)(**sizes)
    return model


CODECS: Mapping[str, Callable[[], nn.Module]] = {
    "mlicv2": lambda: MLICv2(SMALL),
    "mean-scale": lambda: MeanScaleHyperprior(HyperpriorConfig(N=60, M=80)),
    "compressai-mean-scale": lambda: _peer("MeanScaleHyperprior", N=60, M=80),
    "compressai-cheng2020-anchor": lambda: _peer("Cheng2020Anchor", N=44),
}


@dataclass(frozen=True)
class Photograph:
    """A picture to measure on."""

    name: str
    samples: np.ndarray

    @property
    def pixels(self) -> int:
        """How many."""
        return self.samples.shape[0] * self.samples.shape[1]


def photographs(folder: Path, crop: int = 0, limit: int = 0) -> list[Photograph]:
    """Of a folder.

    Args:
        folder: with pictures.
        crop: side of the centre that is taken; 0: all of it.
        limit: how many; 0: all.
    """
    found = []
    for file in files_of(folder)[: limit or None]:
        samples = read_picture(file, alpha="drop").samples
        if crop:
            top, left = (samples.shape[0] - crop) // 2, (samples.shape[1] - crop) // 2
            samples = np.ascontiguousarray(samples[top : top + crop, left : left + crop])
        found.append(Photograph(file.stem, samples))
    return found


@dataclass
class Score:
    """Means over pictures, and every picture's own numbers."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def means(self) -> dict[str, float]:
        """Rounded means of what the rows hold."""
        return {name: round(statistics.fmean(row[name] for row in self.rows), 5) for name in self.rows[0]}


def psnr(samples: np.ndarray, found: np.ndarray) -> float:
    """Of 8-bit samples."""
    error = np.mean((samples.astype(np.float64) - found) ** 2)
    return 10 * math.log10(255**2 / max(error, 1e-10))


@torch.no_grad()
def score(codec: nn.Module, pictures: list[Photograph]) -> Score:
    """Estimated and real bits per pixel, PSNR of what is decoded, seconds; of trained codecs with tables.

    Codecs of ours write files in float32 arithmetic, as CompressAI's do, and payloads are compared; `file_bpp` is the
    whole file of ours.
    """
    codec.eval()
    found = Score()
    for picture in pictures:
        pixels, _ = padded_pixels(picture.samples, 64)
        if isinstance(codec, LearnedCodec):
            codec.arithmetic = "float32"
        estimated = bits_per_pixel(codec(pixels)["likelihoods"], pixels) * pixels[0, 0].numel() / picture.pixels
        row = {"estimated_bpp": float(estimated)}
        start = time.process_time()
        if isinstance(codec, LearnedCodec):
            file = encode(codec, Picture(picture.samples))
            middle = time.process_time()
            decoded = decode(codec, Bitstream.from_bytes(file.to_bytes())).samples
            row |= {"bpp": file.payload_bpp, "file_bpp": file.bpp}
        else:
            coded: Any = codec.compress(pixels)  # type: ignore[operator]
            middle = time.process_time()
            decoded = _samples(codec.decompress(coded["strings"], coded["shape"])["x_hat"], picture)  # type: ignore[operator]
            row["bpp"] = 8 * sum(len(stream[0]) for stream in coded["strings"]) / picture.pixels
        row |= {"encode_seconds": middle - start, "decode_seconds": time.process_time() - middle}
        row["psnr"] = psnr(picture.samples, decoded)
        found.rows.append(row)
    return found


def _samples(x_hat: Tensor, picture: Photograph) -> np.ndarray:
    height, width = picture.samples.shape[:2]
    return (x_hat[0, :, :height, :width].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()


def count(module: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
