"""Quality against what is read of the cache, as an SVG: a panel per task and question, a line per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

Record = dict[str, Any]
WIDTH, HEIGHT = 300, 230  # of a panel
LEFT, TOP, RIGHT, BOTTOM = 46, 30, 10, 38  # around its axes
COLOURS = ("#4269d0", "#efb118", "#d1495b", "#2e8b57", "#8f5bd6", "#ff8ab7", "#6c4f3d", "#97bbf5", "#1b7f8c", "#b58900")
DASHES = ("", "6 3", "2 3")
PANELS = (
    ("needle", "inside", "needle, question inside the prompt"),
    ("needle", "after", "needle, question after it"),
    ("pairs", "inside", "pairs, question inside the prompt"),
    ("pairs", "after", "pairs, question after it"),
    ("continuation", "", "continuation"),
)


def picture(records: Sequence[Record]) -> str:
    """The SVG of one model's records: tokens right in %, or nats per token, over keys read in % (logarithmic)."""
    methods = list(dict.fromkeys(record["key"]["method"] for record in records if record["key"]["method"] != "plain"))
    least = min(record["kv_read_share"] for record in records)
    low = 2.0 ** math.floor(math.log2(least))
    parts = []
    for number, (task, question, title) in enumerate(PANELS):
        own = [r for r in records if (r["key"]["task"], r["key"]["question"]) == (task, question)]
        if own:
            x, y = number % 3 * WIDTH, number // 3 * HEIGHT
            parts.append(f'<g transform="translate({x},{y})">{_panel(own, methods, low, title)}</g>')
    parts.append(f'<g transform="translate({2 * WIDTH},{HEIGHT})">{_legend(methods)}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * WIDTH} {2 * HEIGHT}" font-family="sans-serif" '
        f'font-size="11" fill="#333">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(records: Sequence[Record], methods: Sequence[str], low: float, title: str) -> str:
    is_nats = records[0]["key"]["task"] == "continuation"

    def value(record: Record) -> float:
        return float(record["nats"]) if is_nats else 100 * record["right"] / record["tokens"]

    ticks = _ticks([value(record) for record in records]) if is_nats else [0.0, 25.0, 50.0, 75.0, 100.0]
    bottom, top = ticks[0], ticks[-1]

    def across(share: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (1 - math.log(share) / math.log(low))

    def down(at: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (at - bottom) / (top - bottom))

    parts = [f'<text x="{LEFT}" y="{TOP - 12}" font-weight="bold">{escape(title)}</text>']
    for tick in ticks:
        y = down(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        label = f"{tick:g}" if is_nats else f"{tick:.0f} %"
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    share = 1.0
    while share >= low * 0.99:
        x = across(share)
        parts.append(f'<path d="M{x:.1f} {HEIGHT - BOTTOM}v4" stroke="#333"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{100 * share:.3g}</text>')
        share /= 2
    middle = (LEFT + WIDTH - RIGHT) / 2
    axis = "% of the keys read" + (" (nats per token, less is better)" if is_nats else "")
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{axis}</text>')
    for record in records:
        if record["key"]["method"] == "plain":
            y = down(value(record))
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#333" stroke-dasharray="1 3"/>')
    for number, method in enumerate(methods):
        own = sorted((r for r in records if r["key"]["method"] == method), key=lambda r: r["kv_read_share"])
        points = [(across(record["kv_read_share"]), down(value(record))) for record in own]
        if points:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(f'<path d="{path}" fill="none" stroke-width="1.6" {_stroke(number)}/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{_colour(number)}"/>' for x, y in points]
    return "".join(parts)


def _legend(methods: Sequence[str]) -> str:
    step = min(16.0, (HEIGHT - TOP - 10) / (len(methods) + 1))
    parts = []
    for number, method in enumerate([*methods, "no method"]):
        y = TOP + number * step
        line = 'stroke="#333" stroke-dasharray="1 3"' if method == "no method" else _stroke(number)
        parts.append(f'<path d="M{LEFT} {y:.1f}h24" stroke-width="1.6" {line}/>')
        name = method if len(method) <= 36 else method[:35] + "…"
        parts.append(f'<text x="{LEFT + 30}" y="{y + 4:.1f}">{escape(name)}</text>')
    return "".join(parts)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _stroke(number: int) -> str:
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return f'stroke="{_colour(number)}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _ticks(values: Sequence[float]) -> list[float]:
    """Four to seven round numbers around these."""
    span = max(max(values) - min(values), 1e-6)
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first = math.floor(min(values) / step)
    return [round(step * at, 10) for at in range(first, math.ceil(max(values) / step) + 1)]
