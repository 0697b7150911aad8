"""Small multiples of curves as an SVG: panels that share their horizontal, logarithmic axis, and a legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 300, 230  # of a panel
LEFT, TOP, RIGHT, BOTTOM = 46, 30, 10, 38  # around its axes
LEGEND_LINE = 16  # height of a line of the legend, at most
COLOURS = ("#4269d0", "#efb118", "#d1495b", "#2e8b57", "#8f5bd6", "#ff8ab7", "#6c4f3d", "#97bbf5", "#1b7f8c", "#b58900")
DASHES = ("", "6 3", "2 3")
PERCENT = (0.0, 25.0, 50.0, 75.0, 100.0)


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: above it.
        curves: points (x, y) by name, in any order.
        axis: what stands under it.
        ticks: of the vertical axis, from its lower end to its upper; with a unit.
        unit: "%" or nothing.
        levels: heights of horizontal lines.
    """

    title: str
    curves: Mapping[str, Points]
    axis: str
    ticks: Sequence[float] = PERCENT
    unit: str = "%"
    levels: Sequence[float] = field(default=())


def picture(
    panels: Sequence[Panel], across: Sequence[tuple[float, str]], *, columns: int = 3, level: str | None = None
) -> str:
    """The SVG of some panels; a name has the same colour in all of them.

    Args:
        panels: in reading order; the legend takes the cells behind them.
        across: ticks of the horizontal axis with their labels, from its left end to its right.
        columns: panels in a row.
        level: what the legend calls `Panel.levels`; None: there are none.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    rows = -(-(len(panels) + 1) // columns)
    parts = []
    for number, panel in enumerate(panels):
        x, y = number % columns * WIDTH, number // columns * HEIGHT
        parts.append(f'<g transform="translate({x},{y})">{_panel(panel, names, across)}</g>')
    at, cells = len(panels) % columns, columns * rows - len(panels)
    parts.append(f'<g transform="translate({at * WIDTH},{(rows - 1) * HEIGHT})">{_legend(names, level, cells)}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * WIDTH} {rows * HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="#333">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def ticks_around(values: Sequence[float]) -> list[float]:
    """Four to seven round numbers around these."""
    span = max(max(values) - min(values), 1e-6)
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first = math.floor(min(values) / step)
    return [round(step * at, 10) for at in range(first, math.ceil(max(values) / step) + 1)]


def _panel(panel: Panel, names: Sequence[str], across: Sequence[tuple[float, str]]) -> str:
    bottom, top = panel.ticks[0], panel.ticks[-1]
    left, right = math.log(across[0][0]), math.log(across[-1][0])

    def along(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(value) - left) / (right - left)

    def down(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - bottom) / (top - bottom))

    parts = [f'<text x="{LEFT}" y="{TOP - 12}" font-weight="bold">{escape(panel.title)}</text>']
    for tick in panel.ticks:
        y = down(tick)
        label = f"{tick:.0f} {panel.unit}" if panel.unit else f"{tick:g}"
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for value, label in across:
        x = along(value)
        parts.append(f'<path d="M{x:.1f} {HEIGHT - BOTTOM}v4" stroke="#333"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(panel.axis)}</text>')
    for value in panel.levels:
        parts.append(f'<path d="M{LEFT} {down(value):.1f}H{WIDTH - RIGHT}" stroke="#333" stroke-dasharray="1 3"/>')
    for number, name in enumerate(names):
        points = [(along(x), down(y)) for x, y in sorted(panel.curves.get(name, ()))]
        if points:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(f'<path d="{path}" fill="none" stroke-width="1.6" {_stroke(number)}/>')
            size = 2 if len(points) > 1 else 4  # a point alone has no line to be seen by
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{_colour(number)}"/>' for x, y in points]
    return "".join(parts)


def _legend(names: Sequence[str], level: str | None, cells: int) -> str:
    lines = [*names, *([] if level is None else [level])]
    column = -(-len(lines) // cells)  # lines in a cell
    step = min(LEGEND_LINE, (HEIGHT - TOP - 10) / max(column, 1))
    parts = []
    for number, name in enumerate(lines):
        x, y = LEFT + number // column * WIDTH, TOP + number % column * step
        line = _stroke(number) if number < len(names) else 'stroke="#333" stroke-dasharray="1 3"'
        parts.append(f'<path d="M{x} {y:.1f}h24" stroke-width="1.6" {line}/>')
        shown = name if len(name) <= 36 else name[:35] + "…"
        parts.append(f'<text x="{x + 30}" y="{y + 4:.1f}">{escape(shown)}</text>')
    return "".join(parts)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _stroke(number: int) -> str:
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return f'stroke="{_colour(number)}"' + (f' stroke-dasharray="{dash}"' if dash else "")
