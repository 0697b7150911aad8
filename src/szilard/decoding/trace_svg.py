"""A trace as an SVG picture: the entropy of every step as a curve, and below it the text coloured by it.

The colours are those of the heat map; latent steps are underlined in the text and shaded under the curve, and
drafted tokens, which a draft guessed right, have a dotted line.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np
from rich.cells import cell_len

from szilard.decoding.heatmap import DARK_TEXT_FROM, RAMP, UNCOLOURED, broken_lines, facts_of, share_of
from szilard.decoding.trace import Trace, TraceStep, entropy_maximum

_CELL, _LINE, _SIZE = 7.9, 22, 13  # of a character and a line of text, pixels
_CURVE, _MARGIN = 64, 16
_INK, _SOFT, _LATENT, _DRAFTED = "#1c1b22", "#6b6878", "#c9c3e6", "#1f8a5b"


def to_svg(trace: Trace, *, title: str = "", columns: int = 96, max_entropy: float | None = None) -> str:
    """The picture of a trace of one row.

    Args:
        trace: what to draw; of a batch, take `trace.row(n)`.
        title: above it.
        columns: characters in a line of text.
        max_entropy: nats at the hot end of the scale; None: the trace's largest, at least 1.

    Raises:
        ValueError: several rows, no steps, or fewer than 20 columns.
    """
    if len(trace.rows) != 1 or not len(trace):
        raise ValueError(f"a picture shows one row with steps, not {len(trace.rows)} rows: take trace.row(n).")
    if columns < 20:
        raise ValueError(f"columns={columns} is too narrow: 20 or more.")
    maximum = max_entropy or entropy_maximum(trace)
    broken = broken_lines(trace, columns)
    width = round(2 * _MARGIN + columns * _CELL)
    top = _MARGIN + (_LINE if title else 0)
    text_top = top + _CURVE + 14
    height = round(text_top + _LINE * len(broken) + 34)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{_SIZE}" role="img">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    if title:
        parts.append(_text(_MARGIN, _MARGIN + 10, title, _INK, 'font-weight="bold"'))
    parts += _curve(trace, maximum, top, width - 2 * _MARGIN)
    for number, line in enumerate(broken):
        parts += _words(line, maximum, text_top + _LINE * number)
    parts += _legend(trace, maximum, height - 12)
    return "\n".join([*parts, "</svg>\n"])


def _curve(trace: Trace, maximum: float, top: float, width: float) -> Iterator[str]:
    """Entropies over steps, latent steps shaded."""
    step = width / len(trace)
    bottom = top + _CURVE
    for place, one in enumerate(trace):
        if one.mode == "latent":
            left = _MARGIN + place * step
            yield f'<rect x="{left:.1f}" y="{top}" width="{step + 0.2:.2f}" height="{_CURVE}" fill="{_LATENT}"/>'
    heights = np.clip(np.nan_to_num(trace["entropy"], nan=0.0) / maximum, 0, 1)
    points = [
        f"{_MARGIN + (place + 0.5) * step:.1f},{bottom - _CURVE * value:.1f}" for place, value in enumerate(heights)
    ]
    yield _line(_MARGIN, bottom, width, f'stroke="{_SOFT}" stroke-width="0.6"')
    stroke = f'fill="none" stroke="{_hex(2)}" stroke-width="1.6" stroke-linejoin="round"'
    yield f'<polyline points="{" ".join(points)}" {stroke}/>'


def _words(line: list[tuple[str, TraceStep]], maximum: float, top: float) -> Iterator[str]:
    left = float(_MARGIN)
    for text, step in line:
        width = cell_len(text) * _CELL
        part = share_of(step, maximum)
        ink = _INK
        if part >= UNCOLOURED:
            index = min(int(part * len(RAMP)), len(RAMP) - 1)
            ink = "#000000" if index >= DARK_TEXT_FROM else "#ffffff"
            yield f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_LINE - 4}" fill="{_hex(index)}"/>'
        yield _text(left, top + 13, text, ink, f'textLength="{width:.1f}"')
        if step.mode == "latent":
            yield _line(left, top + _LINE - 2, width, f'stroke="{_INK}" stroke-width="1.5"')
        elif getattr(step, "drafted", None):
            yield _line(left, top + _LINE - 2, width, f'stroke="{_DRAFTED}" stroke-width="2" stroke-dasharray="2 2"')
        left += width


def _legend(trace: Trace, maximum: float, base: float) -> Iterator[str]:
    left = float(_MARGIN)
    yield _text(left, base, "entropy 0", _SOFT)
    left += 10 * _CELL
    for index in range(len(RAMP)):
        yield f'<rect x="{left + 12 * index:.1f}" y="{base - 10}" width="12" height="12" fill="{_hex(index)}"/>'
    left += 12 * len(RAMP) + 8
    yield _text(left, base, f"{maximum:.2f} nats", _SOFT)
    yield _text(left + 9.5 * _CELL, base, facts_of(trace), _SOFT)


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" xml:space="preserve" {more}>{escape(text)}</text>'


def _line(x: float, y: float, width: float, style: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y}" x2="{x + width:.1f}" y2="{y}" {style}/>'


def _hex(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*RAMP[index])
