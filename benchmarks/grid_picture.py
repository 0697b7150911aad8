"""Grids of cells as an SVG: a colour and a few characters per cell, names of rows to the left and of columns below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.sax.saxutils import escape

MARGIN, TITLE, SWATCH = 14, 24, 12
INK, SOFT = "#333", "#6b6878"


@dataclass(frozen=True)
class Cell:
    """One place of a grid.

    Attributes:
        fill: its colour; None: it stays white.
        text, ink: what stands in it, and its colour.
    """

    fill: str | None = None
    text: str = ""
    ink: str = INK


@dataclass(frozen=True)
class Grid:
    """Cells by row and column.

    Attributes:
        title: above.
        cells: [rows][columns].
        rows, columns: their names; an empty name is not written.
        upright: column names are written along their column, for long ones.
    """

    title: str
    cells: Sequence[Sequence[Cell]]
    rows: Sequence[str]
    columns: Sequence[str]
    upright: bool = False


def picture(
    grids: Sequence[Grid], legend: Sequence[tuple[str, str]] = (), *, side: tuple[float, float] = (14, 14)
) -> str:
    """The SVG of some grids, one below the other.

    Args:
        grids: from above.
        legend: colours and what they mean, below.
        side: width and height of a cell, pixels.
    """
    names = max((len(name) for grid in grids for name in grid.rows), default=0) * 6.4 + 8
    width = 2 * MARGIN + names + max(len(grid.columns) for grid in grids) * side[0]
    width = max(width, 2 * MARGIN + sum(36 + 5.6 * len(said) for _, said in legend))
    width = round(max(width, 2 * MARGIN + max(7.2 * len(grid.title) for grid in grids)))
    parts, y = [], float(MARGIN)
    for grid in grids:
        parts.append(_text(MARGIN, y + 11, grid.title, 'font-weight="bold"'))
        y += TITLE
        parts.append(f'<g transform="translate({MARGIN + names:.1f},{y:.1f})">{_grid(grid, side)}</g>')
        below = max((len(name) for name in grid.columns), default=0)
        y += len(grid.rows) * side[1] + (6.0 * below + 8 if grid.upright else 18 if below else 4) + MARGIN / 2
    if legend:
        x = float(MARGIN)
        for colour, said in legend:
            edge = ' stroke="#bbb"' if colour in ("#ffffff", "#fff") else ""
            parts.append(f'<rect x="{x:.1f}" y="{y:.0f}" width="{SWATCH}" height="{SWATCH}" fill="{colour}"{edge}/>')
            parts.append(_text(x + SWATCH + 6, y + 10, said))
            x += 36 + 5.6 * len(said)
        y += SWATCH + MARGIN
    height = round(y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}" role="img">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _grid(grid: Grid, side: tuple[float, float]) -> str:
    wide, high = side
    parts = []
    bottom, right = len(grid.rows) * high, len(grid.columns) * wide
    for row, (name, cells) in enumerate(zip(grid.rows, grid.cells, strict=True)):
        y = row * high
        if name:
            parts.append(_text(-6, y + high / 2 + 4, name, 'text-anchor="end"'))
        for column, length, fill in _stretches(cells):
            at = f'x="{column * wide:g}" y="{y:g}" width="{length * wide - 0.6:g}" height="{high - 0.6:g}"'
            parts.append(f'<rect {at} fill="{fill}"/>')
        for column, cell in enumerate(cells):
            if cell.text:
                middle = f'text-anchor="middle" font-size="9" fill="{cell.ink}"'
                parts.append(_text(column * wide + wide / 2, y + high / 2 + 3, cell.text, middle))
    parts.append(f'<rect width="{right:g}" height="{bottom:g}" fill="none" stroke="#bbb"/>')
    for column, name in enumerate(grid.columns):
        x = column * wide + wide / 2
        if name and grid.upright:
            at = f'transform="translate({x + 3:.1f},{bottom + 6:.1f}) rotate(-90)" text-anchor="end" font-size="9"'
            parts.append(f"<text {at}>{escape(name)}</text>")
        elif name:
            parts.append(_text(x, bottom + 13, name, 'text-anchor="middle"'))
    return "".join(parts)


def _stretches(cells: Sequence[Cell]) -> Iterator[tuple[int, int, str]]:
    """Cells of one colour side by side, which are one shape where nothing stands in them: (first, how many, colour)."""
    column = 0
    for (fill, text), run in groupby(cells, lambda cell: (cell.fill, bool(cell.text))):
        length = len(list(run))
        if fill is not None and text:
            yield from ((place, 1, fill) for place in range(column, column + length))
        elif fill is not None:
            yield column, length, fill
        column += length


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
