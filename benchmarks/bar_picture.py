"""Horizontal bars in groups as an SVG, with a line across each group for what bounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from curve_picture import COLOURS

WIDTH, NAMES, VALUES, MARGIN = 760, 250, 60, 14  # of all, of the names, of the values, around; pixels
BAR, GAP, TITLE, LEVEL = 15, 6, 22, 15
INK, SOFT = "#333", "#6b6878"


@dataclass(frozen=True)
class Group:
    """Bars on one scale.

    Attributes:
        title: above them.
        bars: lengths by name.
        levels: places of dashed lines by name.
        marked: names of bars in the accent's colour.
        most: value at the right end; None: the greatest bar or level.
        form: of the values.
    """

    title: str
    bars: Mapping[str, float]
    levels: Mapping[str, float] = field(default_factory=dict)
    marked: Sequence[str] = ()
    most: float | None = None
    form: str = "{:.2f}"


def picture(groups: Sequence[Group]) -> str:
    """The SVG of some groups, one below the other."""
    parts, y = [], float(MARGIN)
    for group in groups:
        parts.append(_text(MARGIN, y + 11, group.title, 'font-weight="bold"'))
        y += TITLE
        parts.append(f'<g transform="translate(0,{y:.0f})">{_bars(group)}</g>')
        y += _height(group) + MARGIN
    height = round(y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}" role="img">\n'
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _height(group: Group) -> float:
    return len(group.bars) * (BAR + GAP) + LEVEL * len(group.levels)


def _bars(group: Group) -> str:
    most = group.most or max([*group.bars.values(), *group.levels.values()])
    unit = (WIDTH - NAMES - VALUES - 2 * MARGIN) / most
    left, floor = MARGIN + NAMES, len(group.bars) * (BAR + GAP)
    parts, values = [], []
    for number, (name, value) in enumerate(group.bars.items()):
        y, colour, end = number * (BAR + GAP), COLOURS[2 if name in group.marked else 0], max(value * unit, 0)
        parts.append(_text(left - 8, y + 12, name, 'text-anchor="end"'))
        parts.append(f'<rect x="{left}" y="{y}" width="{end:.1f}" height="{BAR}" fill="{colour}"/>')
        halo = 'stroke="#ffffff" stroke-width="4" paint-order="stroke"'  # lines of levels may pass here
        values.append(_text(left + end + 6, y + 12, group.form.format(value), halo))
    for number, (name, value) in enumerate(group.levels.items()):
        x, y = left + value * unit, floor + LEVEL * number
        parts.append(f'<path d="M{x:.1f} -3V{y + 3}" stroke="{SOFT}" stroke-dasharray="3 3"/>')
        side = "end" if value > 0.5 * most else "start"
        said = f"{name}: {group.form.format(value)}"
        parts.append(_text(x + (-4 if side == "end" else 4), y + 10, said, f'text-anchor="{side}" fill="{SOFT}"'))
    return "".join(parts + values)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
