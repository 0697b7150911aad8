"""JPEG, WebP, AVIF and HEIC through Pillow, as codecs of an evaluation."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from szilard.codecs.images import Picture
from szilard.codecs.picture_codec import CodedPicture
from szilard.options import check_choice, check_number

KINDS = ("jpeg", "webp", "avif", "heic")
QUALITIES = (10, 25, 50, 75, 90)  # of a curve, unless told otherwise
_FORMATS = {"jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF", "heic": "HEIF"}
_GREY = ("jpeg", "avif")  # WebP stores three channels


@dataclass(frozen=True)
class PillowCodec:
    """A standard at one quality, otherwise as Pillow sets it (4:2:0 chroma).

    Attributes:
        kind: "jpeg", "webp", "avif" (Pillow 11.3 or later), or "heic" (HEVC, with the package pillow-heif).
        quality: 0 to 100 (JPEG: 1 to 100, above 95 it only gets larger).
    """

    kind: str
    quality: int = 75

    parameters: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_number("quality", self.quality, low=1 if self.kind == "jpeg" else 0, high=100, integer=True)
        _check_available(self.kind)

    @property
    def name(self) -> str:
        """The standard's."""
        return self.kind

    @property
    def point(self) -> str:
        """The quality."""
        return str(self.quality)

    def identity(self) -> str:
        """Kind, quality, and the library that writes."""
        import PIL

        return f"{self.kind} {self.quality} Pillow {PIL.__version__}"

    def encode(self, picture: Picture) -> CodedPicture:
        """The file.

        Raises:
            ValueError: 16 bits, or transparency, which this comparison leaves out.
        """
        from PIL import Image

        if picture.depth != 8:
            raise ValueError(
                f"{self.kind} is written with 8 bits a sample here, not {picture.depth}: convert the picture."
            )
        if picture.alpha is not None:
            raise ValueError("transparency is not compared: read the picture with alpha='drop'.")
        grey = picture.channels == 1 and self.kind in _GREY
        image = Image.fromarray(np.ascontiguousarray(picture.samples[..., 0]) if grey else picture.samples)
        buffer = io.BytesIO()
        image.save(buffer, format=_FORMATS[self.kind], quality=self.quality)
        data = buffer.getvalue()
        return CodedPicture(data, len(data))

    def decode(self, data: bytes) -> Picture:
        """The picture, grey ones as three equal channels.

        Raises:
            ValueError: no file of this kind.
        """
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data), formats=(_FORMATS[self.kind],)) as opened:
                channels = 1 if opened.mode == "L" else 3
                return Picture(np.asarray(opened.convert("RGB")), channels)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"these bytes are no whole {self.kind} file: {error}.") from None

    def estimated_bits(self, picture: Picture) -> float | None:
        """None: a standard has no likelihoods."""
        return None


def _check_available(kind: str) -> None:
    try:
        from PIL import features
    except ModuleNotFoundError:
        raise ValueError(f"{kind} needs Pillow: pip install 'szilard[codecs]'") from None
    if kind in ("webp", "avif") and not features.check(kind):
        raise ValueError(f"this Pillow was built without {kind}: pip install 'pillow>=11.3'.")
    if kind == "heic":
        _register_heif()


def _register_heif() -> None:
    try:
        import pillow_heif
    except ModuleNotFoundError:
        raise ValueError("heic needs the package pillow-heif: pip install pillow-heif") from None
    registered: Any = pillow_heif.register_heif_opener
    registered()
