"""What the codec benchmarks have in common: codecs under test, those of CompressAI among them, and what one makes of pictures.

CompressAI's models come in where the package can be imported; `peers` says so.
"""

from __future__ import annotations

import statistics
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from szilard.codecs.coding import padded_pixels
from szilard.codecs.evaluation import centre, measure
from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.images import Picture, read_picture
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.mlicv2 import MLICv2, preset
from szilard.codecs.photographs import files_of
from szilard.codecs.picture_codec import CodedPicture, LearnedPictureCodec, PictureCodec

SMALL = preset("mlicv2-small", N=32, M=48, slices=4, hidden=0.15)  # 1.46 M parameters
SHOWN = ("bpp", "payload_bpp", "estimated_bpp", "psnr", "ms_ssim", "encode_seconds", "decode_seconds")
_LENGTHS = struct.Struct("<5H")  # height and width, of the latent, length of z's stream


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


class PeerCodec:
    """A model of CompressAI as a codec of an evaluation: its streams behind ten bytes of lengths."""

    def __init__(self, model: Any, name: str, point: str) -> None:
        self.model, self.name, self.point = model.eval(), name, point
        self.parameters = count(model)

    def identity(self) -> str:
        """Of its name."""
        return f"{self.name} {self.point}"

    @torch.no_grad()
    def encode(self, picture: Picture) -> CodedPicture:
        """Lengths and streams."""
        pixels, _ = padded_pixels(picture.samples, 64)
        found = self.model.compress(pixels)
        y, z = (stream[0] for stream in found["strings"])
        return CodedPicture(_LENGTHS.pack(*picture.size, *found["shape"], len(z)) + z + y, len(y) + len(z))

    @torch.no_grad()
    def decode(self, data: bytes) -> Picture:
        """The picture."""
        height, width, rows, columns, length = _LENGTHS.unpack(data[: _LENGTHS.size])
        z, y = data[_LENGTHS.size :][:length], data[_LENGTHS.size + length :]
        x_hat = self.model.decompress([[y], [z]], (rows, columns))["x_hat"][0, :, :height, :width].clamp(0, 1)
        return Picture((x_hat * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))

    @torch.no_grad()
    def estimated_bits(self, picture: Picture) -> float:
        """Of the padded picture."""
        pixels, _ = padded_pixels(picture.samples, 64)
        return float(-sum(one.log2().sum() for one in self.model(pixels)["likelihoods"].values()))


def contestant(codec: nn.Module, name: str, point: str, arithmetic: str = "float32") -> PictureCodec:
    """A trained codec with tables, of ours or of CompressAI, for `evaluation`."""
    if not isinstance(codec, LearnedCodec):
        return PeerCodec(codec, name, point)
    codec.eval()
    codec.arithmetic = arithmetic
    return LearnedPictureCodec(codec, name, point)


def photographs(folder: Path, crop: int = 0, limit: int = 0) -> list[Picture]:
    """Of a folder.

    Args:
        folder: with pictures.
        crop: side of the centre that is taken; 0: all of it.
        limit: how many; 0: all.
    """
    return [centre(read_picture(file, alpha="drop"), crop, file.name) for file in files_of(folder)[: limit or None]]


def score(codec: PictureCodec, pictures: Sequence[Picture]) -> dict[str, float]:
    """Means over pictures, rounded. Rates are of whole files, and of the streams alone, which compare across containers."""
    rows = [measure(codec, picture) for picture in pictures]
    known = [name for name in SHOWN if rows[0][name] is not None]
    return {name: round(statistics.fmean(row[name] for row in rows), 5) for name in known}


def count(module: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
