"""PNG with 16 bits per sample in several channels, which Pillow reads as 8 bits and does not write.

It is read twice by Pillow: as it is, which keeps the high bytes, and as if its bytes were swapped, which keeps the low.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

_RAW = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: PNG's colour type


def is_deep(opened: Any) -> bool:
    """Whether Pillow would take bits away from a picture of several channels."""
    return any("16" in str(tile.args) for tile in opened.tile) and opened.mode in ("RGB", "RGBA")


def deep_samples(open_again: Callable[[], Any], upright: Callable[[Any], Any]) -> np.ndarray:
    """uint16 [H, W, 3] or [H, W, 4] of a PNG.

    Args:
        open_again: opens the picture with Pillow.
        upright: applies a camera's rotation.

    Raises:
        ValueError: 16 bits in another form than RGB or RGBA.
    """
    with open_again() as high, open_again() as low:
        if high.format != "PNG" or len(low.tile) != 1 or str(low.tile[0].args) not in _RAW:
            raise ValueError("16 bits are read of PNG, RGB or RGBA, and of grey pictures: save it as such a PNG")
        key = high.info.get("transparency")
        low.tile = [low.tile[0]._replace(args=_RAW[str(low.tile[0].args)])]
        whole = np.asarray(upright(high)).astype(np.uint16) << 8 | np.asarray(upright(low))
    if isinstance(key, tuple) and whole.shape[-1] == 3:  # one colour is transparent
        opaque = (whole != np.array(key, dtype=np.uint16)).any(-1)
        whole = np.dstack([whole, np.where(opaque, 65535, 0).astype(np.uint16)])
    return whole


def deep_png(samples: np.ndarray) -> bytes:
    """A PNG of uint16 samples [H, W, C], C from 1 to 4: grey, grey and alpha, RGB, RGBA."""
    height, width, channels = samples.shape
    rows = np.ascontiguousarray(samples.astype(">u2")).view(np.uint8).reshape(height, -1)
    differences = rows.copy()
    differences[1:] -= rows[:-1]  # PNG's filter 2: the difference from the row above
    filtered = np.concatenate([np.full((height, 1), 2, dtype=np.uint8), differences], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 16, _COLOURS[channels], 0, 0, 0)
    data = zlib.compress(filtered.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
