"""What an evaluation asks of any codec, learned or not: a picture to a file's bytes, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from szilard.codecs.coding import decode, encode, padded_pixels, tiling_of
from szilard.codecs.container import Bitstream
from szilard.codecs.images import Picture
from szilard.codecs.learned_codec import LearnedCodec


@dataclass(frozen=True)
class CodedPicture:
    """A file.

    Attributes:
        data: all of it.
        payload_bytes: of the streams without what surrounds them; the whole file where a format does not tell.
    """

    data: bytes
    payload_bytes: int


class PictureCodec(Protocol):
    """A codec under test.

    Attributes:
        name: of its curve: codecs of one name are points of one curve.
        point: which point it is: a quality, a lambda.
        parameters: learned numbers; 0 for the standards.
    """

    @property
    def name(self) -> str: ...
    @property
    def point(self) -> str: ...
    @property
    def parameters(self) -> int: ...

    def identity(self) -> str:
        """Another for whatever may write other files or pictures."""
        ...

    def encode(self, picture: Picture) -> CodedPicture:
        """The picture's file."""
        ...

    def decode(self, data: bytes) -> Picture:
        """The file's picture."""
        ...

    def estimated_bits(self, picture: Picture) -> float | None:
        """-log2 of the model's likelihoods; None: it has no model, or codes tiles."""
        ...


class LearnedPictureCodec:
    """A learned codec.

    Args:
        codec: with tables.
        name: of its curve; None: the codec's.
        point: None: the lambda it was trained with.
        tile: see `coding.tiling_of`.
    """

    def __init__(
        self, codec: LearnedCodec, name: str | None = None, point: str | None = None, tile: int | None = None
    ) -> None:
        self.codec, self.tile = codec, tile
        self.name = codec.name if name is None else name
        self.point = str(codec.trained_on.get("lambda", "")) if point is None else point
        self.parameters = sum(parameter.numel() for parameter in codec.parameters())

    def identity(self) -> str:
        """Weights, settings and arithmetic."""
        settings = json.dumps(self.codec.plain_settings(), sort_keys=True)
        return f"{self.codec.name} {self.codec.weights_id().hex()} {self.codec.arithmetic} {self.tile} {settings}"

    def encode(self, picture: Picture) -> CodedPicture:
        """The SZLC file."""
        found = encode(self.codec, picture, tile=self.tile)
        return CodedPicture(found.to_bytes(), found.payload_bytes)

    def decode(self, data: bytes) -> Picture:
        """Its picture."""
        return decode(self.codec, Bitstream.from_bytes(data), max_pixels=None)

    @torch.no_grad()
    def estimated_bits(self, picture: Picture) -> float | None:
        """Of the padded picture; None where it is cut into tiles."""
        if tiling_of(*picture.size, self.tile).tile:
            return None
        pixels, _ = padded_pixels(picture.samples, self.codec.stride)
        device = self.codec.entropy_bottleneck.quantiles.device
        likelihoods: dict[str, Any] = self.codec(pixels.to(device))["likelihoods"]
        return float(-sum(one.double().log2().sum() for one in likelihoods.values()))
