"""Pictures in and out: PNG, JPEG, WebP or TIFF, as samples that a codec can take.

A codec takes RGB in [0, 1]. Grey pictures are coded as three equal channels and come back grey; 16 bits are kept in the
file's header and come back as 16 bits (the codec itself is as exact as its reconstruction); rotations that a camera
noted are applied; alpha is refused, or carried without loss beside the picture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from szilard.codecs.container import MAX_PIXELS, MAX_SIDE

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
ALPHAS = ("refuse", "keep", "drop")


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        samples: uint8 or uint16 [H, W, 3].
        channels: 1 where it was grey, or 3.
        alpha: uint8 or uint16 [H, W], None where there is none.
    """

    samples: np.ndarray
    channels: int = 3
    alpha: np.ndarray | None = None

    @property
    def depth(self) -> int:
        """Bits of a sample."""
        return 16 if self.samples.dtype == np.uint16 else 8

    @property
    def size(self) -> tuple[int, int]:
        """Height, width."""
        height, width = self.samples.shape[:2]
        return height, width


def read_picture(source: Path | str | bytes, alpha: str = "refuse") -> Picture:
    """Read a picture.

    Args:
        source: a file, or its bytes.
        alpha: "refuse" pictures with transparency, "keep" it, or "drop" it.

    Raises:
        ValueError: no picture, of another format, too large, or with transparency where that is refused.
    """
    pillow = _pillow()
    named = "the picture" if isinstance(source, bytes) else repr(str(source))
    try:
        opened = pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except FileNotFoundError:
        raise ValueError(f"there is no file {named}.") from None
    except (OSError, ValueError, pillow.DecompressionBombError) as error:
        raise ValueError(f"{named} cannot be read as {', '.join(FORMATS)}: {error}.") from None
    with opened:
        width, height = opened.size
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise ValueError(f"{named} has {width} x {height} pixels; sides may be {MAX_SIDE}, pixels {MAX_PIXELS:,}.")
        try:
            return _picture(opened, alpha, named)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{named} is damaged: {error}.") from None


def _picture(opened: Any, alpha: str, named: str) -> Picture:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(opened)
    mode = upright.mode
    if mode == "P":
        upright = upright.convert("RGBA" if "transparency" in upright.info else "RGB")
    elif mode in ("1", "L", "LA") and "transparency" in upright.info:
        upright = upright.convert("LA")
    elif mode == "1":
        upright = upright.convert("L")
    elif mode == "RGB" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    mode = upright.mode
    if mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        values = np.asarray(upright)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{named} has samples that are no 16 bits.")
        grey = values.astype(np.uint16)
        return Picture(np.repeat(grey[..., None], 3, axis=2), 1)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise ValueError(f"{named} has mode {mode}; grey and RGB pictures can be coded: convert it first.")
    values = np.asarray(upright)
    transparent = None
    if mode in ("LA", "RGBA"):
        transparent = values[..., -1].copy()
        if alpha == "refuse" and (transparent < 255).any():
            raise ValueError(
                f"{named} has transparency, which the codec does not know: choose alpha='keep' (without loss, beside "
                "the picture) or alpha='drop'."
            )
        if alpha != "keep" or (transparent == 255).all():
            transparent = None
        values = values[..., :-1]
    grey = mode in ("L", "LA")
    values = values.reshape(*values.shape[:2], -1)
    return Picture(np.repeat(values, 3, axis=2) if grey else np.ascontiguousarray(values), 1 if grey else 3, transparent)


def write_picture(picture: Picture, target: Path) -> None:
    """Write a picture, whole or not at all; PNG, TIFF, WebP (without loss) or JPEG (quality 95) by its name.

    Raises:
        ValueError: another name, or what the format cannot hold.
    """
    import os
    import tempfile

    pillow = _pillow()
    kinds = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
    kind = kinds.get(target.suffix.lower())
    if kind is None:
        raise ValueError(f"pictures are written as {', '.join(kinds)}, not as {target.suffix or target.name!r}.")
    samples = picture.samples[..., 0] if picture.channels == 1 else picture.samples
    if picture.depth == 16 and (picture.channels == 3 or kind not in ("PNG", "TIFF")):
        raise ValueError("Pillow writes 16 bits of grey pictures only, as PNG or TIFF: choose depth=8.")
    if picture.alpha is not None:
        if kind == "JPEG":
            raise ValueError("JPEG has no transparency: name a PNG, a TIFF or a WebP.")
        samples = np.dstack([samples, picture.alpha])
    image = pillow.fromarray(samples)
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format=kind, **({"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}))
        os.chmod(scratch, 0o644)
        os.replace(scratch, target)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def coded_alpha(alpha: np.ndarray) -> bytes:
    """As a PNG."""
    buffer = io.BytesIO()
    _pillow().fromarray(alpha).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def decoded_alpha(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """From a PNG of this height and width.

    Raises:
        ValueError: anything else.
    """
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data), formats=("PNG",)) as opened:
            if opened.size != size[::-1] or opened.mode != "L":
                raise ValueError(f"it is {opened.mode} {opened.size}")
            return np.asarray(opened)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise ValueError(f"the file's alpha block is damaged: {error}.") from None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ValueError("pictures need Pillow: pip install 'szilard[codecs]'") from None
    return Image
