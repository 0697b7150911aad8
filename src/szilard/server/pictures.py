"""Pictures of requests: data URLs alone, of bounded size, decoded by Pillow."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from szilard.server.errors import RequestError

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def picture_of(url: str, max_pixels: int) -> Any:
    """A PIL image of a data URL.

    Raises:
        RequestError: another kind of URL, bad base64, no picture, or one of too many pixels.
    """
    if not url.startswith("data:"):
        raise RequestError(
            400,
            "image_url must be a data URL (data:image/png;base64,...): this server fetches nothing.",
            param="messages",
        )
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise RequestError(400, "image_url must be base64, as in data:image/png;base64,....", param="messages")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, "image_url holds no valid base64.", param="messages") from None
    from PIL import Image

    try:
        opened = Image.open(io.BytesIO(data), formats=_FORMATS)  # reads the header alone
        width, height = opened.size
        if width * height > max_pixels:
            raise RequestError(
                413, f"an image has {width} x {height} pixels, and {max_pixels:,} are allowed.", param="messages"
            )
        return opened.convert("RGB")
    except RequestError:
        raise
    except Exception:  # Pillow's readers raise many kinds on broken files
        raise RequestError(
            400, f"image_url holds no whole picture of a known format ({', '.join(_FORMATS)}).", param="messages"
        ) from None
