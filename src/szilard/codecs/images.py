"""Pictures in and out: PNG, JPEG, WebP or TIFF, as samples that a codec can take.

A codec takes RGB in [0, 1]. Grey pictures are coded as three equal channels and come back grey; pictures of 16 bits
come back with 16 bits (the codec itself is as exact as its reconstruction); rotations that a camera noted are
applied; alpha is refused, or carried without loss beside the picture.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from szilard.codecs.container import MAX_PIXELS, MAX_SIDE, CorruptFile
from szilard.codecs.deep_png import deep_png, deep_samples, is_deep
from szilard.options import check_choice
from szilard.whole_folder import whole_file

_DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", *_DEEP_GREY)
_DAMAGED = (OSError, SyntaxError, EOFError, struct.error, KeyError, IndexError, TypeError, OverflowError, zlib.error)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
ALPHAS = ("refuse", "keep", "drop")
_SAVED: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
_LONGEST = {"WEBP": 16_383, "JPEG": 65_500}  # of what libwebp and libjpeg write
_KINDS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}


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

    def opening() -> Any:
        return pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)

    check_choice("alpha", alpha, ALPHAS)
    with warnings.catch_warnings(), _opened(opening, named) as opened:
        warnings.simplefilter("ignore")  # Pillow's, of metadata: what cannot be read is an error
        try:
            return _picture(opened, opening, alpha, named)
        except _DAMAGED as error:
            raise ValueError(f"{named} is damaged: {_told(error)}.") from None


def picture_size(source: Path | str) -> tuple[int, int]:
    """Height and width as they are stored, of a picture that `read_picture` takes as far as its header tells.

    Raises:
        ValueError: no picture, of another format or mode, or too large.
    """
    named = repr(str(source))
    with warnings.catch_warnings(), _opened(lambda: _pillow().open(source, formats=FORMATS), named) as opened:
        warnings.simplefilter("ignore")
        if opened.mode not in _MODES:
            raise ValueError(_other_mode(named, opened.mode))
        width, height = opened.size
        return height, width


def left_out(source: Path | str) -> list[str]:
    """What a picture's file holds that a coded file does not keep, in words: further pictures, a colour profile.

    Raises:
        ValueError: no picture.
    """
    with (
        warnings.catch_warnings(),
        _opened(lambda: _pillow().open(source, formats=FORMATS), repr(str(source))) as found,
    ):
        warnings.simplefilter("ignore")
        try:
            count = getattr(found, "n_frames", 1)
        except _DAMAGED:
            count = 1
        told = [f"{count - 1} of its {count} pictures (the first is coded)"] if count > 1 else []
        profile = found.info.get("icc_profile")
        named = _profile_name(profile) if isinstance(profile, bytes) else "sRGB"
        return (
            told if "srgb" in named.lower() else [*told, f"its colour profile ({named}): decoders will take it as sRGB"]
        )


def _profile_name(profile: bytes) -> str:
    try:
        from PIL import ImageCms

        return " ".join(ImageCms.getProfileDescription(io.BytesIO(profile)).split())  # type: ignore[arg-type]
    except Exception:  # whatever its library finds wrong with it
        return "unreadable"


@contextlib.contextmanager
def _opened(opening: Callable[[], Any], named: str) -> Iterator[Any]:
    """The picture, whose header was read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = opening()
    except FileNotFoundError:
        raise ValueError(f"there is no file {named}.") from None
    except (*_DAMAGED, ValueError, _pillow().DecompressionBombError) as error:
        raise ValueError(f"{named} cannot be read as {', '.join(FORMATS)}: {_told(error)}.") from None
    with opened:
        width, height = opened.size
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise ValueError(f"{named} has {width} x {height} pixels; sides may be {MAX_SIDE}, pixels {MAX_PIXELS:,}.")
        yield opened


def _told(error: BaseException) -> str:
    if type(error).__name__ == "UnidentifiedImageError":  # its own words repeat the name
        return "its bytes are of none of them"
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")


def _other_mode(named: str, mode: str) -> str:
    return f"{named} has mode {mode}; grey and RGB pictures can be coded: convert it first."


def _picture(opened: Any, opening: Callable[[], Any], alpha: str, named: str) -> Picture:
    from PIL import ImageOps

    if is_deep(opened):
        try:
            deep = deep_samples(opening, ImageOps.exif_transpose)
        except ValueError as error:
            raise ValueError(f"{named}: {error}") from None
        return _apart(deep, alpha, named)
    upright = ImageOps.exif_transpose(opened)
    mode = upright.mode
    if mode == "P":
        upright = upright.convert("RGBA" if "transparency" in upright.info else "RGB")
    elif mode in ("1", "L") and "transparency" in upright.info:
        upright = upright.convert("LA")
    elif mode == "1":
        upright = upright.convert("L")
    elif mode == "RGB" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    mode = upright.mode
    if mode in _DEEP_GREY:
        values = np.asarray(upright)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{named} has samples that are no 16 bits.")
        grey = values.astype(np.uint16)
        key = upright.info.get("transparency")
        if isinstance(key, int):  # one shade is transparent
            return _apart(np.dstack([grey, np.where(grey == key, 0, 65535).astype(np.uint16)]), alpha, named)
        return _apart(grey[..., None], alpha, named)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise ValueError(_other_mode(named, mode))
    values = np.asarray(upright)
    return _apart(values.reshape(*values.shape[:2], -1), alpha, named)


def _apart(values: np.ndarray, alpha: str, named: str) -> Picture:
    """A picture of [H, W, C], C from 1 to 4: grey, grey and alpha, RGB, RGBA."""
    colours, transparent = values, None
    if values.shape[-1] in (2, 4):
        colours, transparent = values[..., :-1], values[..., -1].copy()
        opaque = bool((transparent == np.iinfo(values.dtype).max).all())
        if alpha == "refuse" and not opaque:
            raise ValueError(
                f"{named} has transparency, which the codec does not know: choose alpha='keep' (without loss, beside "
                "the picture) or alpha='drop'."
            )
        if alpha != "keep" or opaque:
            transparent = None
    if colours.shape[-1] == 1:
        return Picture(np.repeat(colours, 3, axis=2), 1, transparent)
    return Picture(np.ascontiguousarray(colours), 3, transparent)


def check_target(
    target: Path, depth: int = 8, channels: int = 3, has_alpha: bool = False, size: tuple[int, int] = (1, 1)
) -> str:
    """The format of a picture that is to be written.

    Args:
        target: its file.
        depth, channels, has_alpha, size: of the picture; size is height and width.

    Raises:
        ValueError: a name that says no format, or one that cannot hold the picture.
    """
    kind = _KINDS.get(target.suffix.lower())
    if kind is None:
        raise ValueError(f"pictures are written as {', '.join(_KINDS)}, not as {target.suffix or target.name!r}.")
    plain = channels == 1 and not has_alpha
    if depth == 16 and kind != "PNG" and not (kind == "TIFF" and plain):
        raise ValueError(f"this picture has 16 bits, which are written as .png{' or .tif' if plain else ''} only.")
    if has_alpha and kind == "JPEG":
        raise ValueError("this picture has transparency, which JPEG has not: name a .png, .tif or .webp.")
    longest = _LONGEST.get(kind, MAX_SIDE)
    if max(size) > longest:
        raise ValueError(
            f"sides of {kind} are {longest:,} pixels at most, not {size[1]} x {size[0]}: name a .png or .tif."
        )
    return kind


def write_picture(picture: Picture, target: Path) -> None:
    """Write a picture, whole or not at all; PNG, TIFF, WebP (without loss) or JPEG (quality 95) by its name.

    Raises:
        ValueError: another name, what the format cannot hold, or a file that cannot be written.
    """
    kind = check_target(target, picture.depth, picture.channels, picture.alpha is not None, picture.size)
    samples = picture.samples[..., :1] if picture.channels == 1 else picture.samples
    if picture.alpha is not None:
        samples = np.dstack([samples, picture.alpha])
    options = _SAVED.get(kind, {})
    many = picture.depth == 16 and samples.shape[-1] > 1
    coded = deep_png(samples) if many else None  # before the file is there
    image = None if many else _pillow().fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
    with whole_file(target) as file:
        if image is not None:
            image.save(file, format=kind, **options)
        elif coded is not None:
            file.write(coded)


def coded_alpha(alpha: np.ndarray) -> bytes:
    """As a PNG."""
    buffer = io.BytesIO()
    _pillow().fromarray(alpha).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def decoded_alpha(data: bytes, size: tuple[int, int], depth: int = 8) -> np.ndarray:
    """From a PNG of this height and width, of 8 or 16 bits.

    Raises:
        CorruptFile: anything else.
    """
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data), formats=("PNG",)) as opened:
            if opened.size != size[::-1] or opened.mode != ("L" if depth == 8 else "I;16"):
                raise ValueError(f"it is {opened.mode} {opened.size}")
            return np.asarray(opened)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, pillow.DecompressionBombError) as error:
        raise CorruptFile(f"the file's alpha block is damaged: {error}.") from None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ValueError("pictures need Pillow: pip install 'szilard[codecs]'") from None
    return Image
