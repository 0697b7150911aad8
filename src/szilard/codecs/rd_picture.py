"""Pictures of an evaluation: rate-distortion curves as SVG, and crops of what codecs decode, side by side, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from szilard.codecs.evaluation import eight_bits, psnr
from szilard.codecs.images import Picture
from szilard.codecs.picture_codec import PictureCodec
from szilard.codecs.rd_curves import RDCurve
from szilard.options import check_number

WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 58, 224, 36, 48  # around the axes; the legend is at the right
COLOURS = ("#4269d0", "#efb118", "#d1495b", "#2e8b57", "#8f5bd6", "#ff8ab7", "#6c4f3d", "#97bbf5", "#1b7f8c", "#b58900")
DASHES = ("", "6 3", "2 3")
CAPTION = 34  # pixels under a crop


def curves_svg(curves: Sequence[RDCurve], metric: str = "psnr", title: str = "") -> str:
    """Quality over bits per pixel, a line with dots per curve.

    Args:
        curves: of codecs; those without the metric are left out.
        metric: "psnr" or "ms-ssim", in dB.
        title: above the axes.

    Raises:
        ValueError: no curve has the metric.
    """
    shown = [curve for curve in curves if (curve.psnr if metric == "psnr" else curve.ms_ssim)]
    if not shown:
        raise ValueError(f"none of the {len(curves)} curves has {metric}: there is nothing to draw.")
    across = _ticks(0.0, max(max(curve.rates) for curve in shown))
    values = [value for curve in shown for value in curve.quality(metric)]
    upwards = _ticks(min(values), max(values))

    def along(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * rate / across[-1]

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - upwards[0]) / (upwards[-1] - upwards[0])

    parts = [f'<text x="{LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>'] if title else []
    for tick in upwards:
        parts.append(f'<path d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in across:
        parts.append(f'<path d="M{along(tick):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
        parts.append(f'<text x="{along(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">bits per pixel</text>')
    named = "PSNR, dB" if metric == "psnr" else "MS-SSIM, dB"
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(16,{height}) rotate(-90)" text-anchor="middle">{named}</text>')
    for number, curve in enumerate(shown):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        line = f'fill="none" stroke="{colour}" stroke-width="1.8"' + (f' stroke-dasharray="{dash}"' if dash else "")
        points = [(along(x), up(y)) for x, y in zip(curve.rates, curve.quality(metric), strict=True)]
        parts.append(f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}" {line}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in points]
        at = TOP + 8 + 18 * number
        parts.append(f'<path d="M{WIDTH - RIGHT + 12} {at}h22" {line}/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 40}" y="{at + 4}">{escape(_short(curve.name, 28))}</text>')
    tall = max(HEIGHT, TOP + 26 + 18 * len(shown))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}" font-family="sans-serif" '
        f'font-size="11" fill="#333">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def crops_png(
    codecs: Sequence[PictureCodec],
    picture: Picture,
    *,
    top: int | None = None,
    left: int | None = None,
    size: int = 192,
    zoom: int = 2,
    columns: int = 4,
) -> bytes:
    """The original's crop, then those of codecs, each with its bits per pixel and PSNR of the whole picture, as a PNG.

    Args:
        codecs: to be compared; choose points of about the same rate.
        picture: of `images.read_picture`.
        top, left: where the crop begins; None: in the middle.
        size: its side.
        zoom: how often each pixel is repeated.
        columns: crops in a row.

    Raises:
        ValueError: a crop that is not inside the picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = picture.size
    for name, value, least in (("size", size, 16), ("zoom", zoom, 1), ("columns", columns, 1)):
        check_number(name, value, low=least, integer=True)
    top, left = (height - size) // 2 if top is None else top, (width - size) // 2 if left is None else left
    if not (0 <= top <= height - size and 0 <= left <= width - size):
        raise ValueError(f"a crop of {size} from ({left}, {top}) is not inside a picture of {width} x {height}.")
    original = eight_bits(picture.samples)
    shown = [(original, ("original", ""))]
    for codec in codecs:
        coded = codec.encode(picture)
        decoded = eight_bits(codec.decode(coded.data).samples)
        rate = 8 * len(coded.data) / (height * width)
        label = (_short(f"{codec.name} {codec.point}", 34), f"{rate:.3f} bpp, {psnr(original, decoded):.2f} dB")
        shown.append((decoded, label))
    side = size * zoom
    across = min(columns, len(shown))
    rows = math.ceil(len(shown) / across)
    sheet: Any = Image.new("RGB", (across * (side + 6) - 6, rows * (side + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (samples, label) in enumerate(shown):
        x, y = number % across * (side + 6), number // across * (side + CAPTION)
        crop = np.ascontiguousarray(samples[top : top + size, left : left + size])
        sheet.paste(Image.fromarray(crop).resize((side, side), Image.Resampling.NEAREST), (x, y))
        for line, text in enumerate(label):
            draw.text((x + 3, y + side + 2 + 15 * line), text, fill="#222", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers around a range."""
    span = max(high - low, 1e-6)
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * at, 10) for at in range(first, max(last, first + 1) + 1)]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
