"""Texts word by word as an SVG: a word may be filled, struck through, underlined, and carry a small note above it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from rich.cells import cell_len

from szilard.decoding.heatmap import DARK_TEXT_FROM, RAMP

INK, SOFT, MARK = "#1c1b22", "#6b6878", "#1f8a5b"
COLUMNS = 92  # characters of a line
CELL, SIZE, LINE, NOTE, MARGIN = 7.9, 13, 24, 11, 16  # of a character, a line, a note above it, around all; pixels
SWATCH = 12


@dataclass(frozen=True)
class Word:
    """A stretch of a text with the white space before it.

    Attributes:
        text: as it is written.
        fill, ink: colours behind it and of its letters; no fill: none.
        struck, marked: with a line through it, or under it.
        note: a few characters above it.
    """

    text: str
    fill: str | None = None
    ink: str = INK
    struck: bool = False
    marked: bool = False
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A text.

    Attributes:
        title: above it.
        words: its words in order.
    """

    title: str
    words: Sequence[Word]


def heat(share: float) -> tuple[str, str]:
    """Colour for a share from 0 to 1, on the scale of the traces, and the ink that is read on it."""
    index = max(0, min(int(share * len(RAMP)), len(RAMP) - 1))
    return "#{:02x}{:02x}{:02x}".format(*RAMP[index]), "#000000" if index >= DARK_TEXT_FROM else "#ffffff"


def picture(sections: Sequence[Section], legend: Sequence[Word | str] = (), *, ramp: tuple[str, str] = ("", "")) -> str:
    """The SVG of some texts.

    Args:
        sections: from above.
        legend: below them, words as they are drawn and what they mean.
        ramp: names of the ends of the colour scale, which stands before the legend; empty: no scale.
    """
    width = round(2 * MARGIN + COLUMNS * CELL)
    parts: list[str] = []
    y = float(MARGIN)
    for section in sections:
        parts.append(_text(MARGIN, y + 11, section.title, INK, 'font-weight="bold"'))
        y += 22
        above = NOTE if any(word.note for word in section.words) else 0
        for line in _lines(section.words):
            parts += _line(line, y + above)
            y += LINE + above
        y += 10
    if legend or ramp[0]:
        parts += _legend(legend, ramp, y)
        y += 22
    height = round(y + MARGIN / 2)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{SIZE}" role="img">',
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _lines(words: Sequence[Word]) -> Iterator[list[tuple[float, Word]]]:
    """Words with the column that each begins in, broken where a word with its note would not fit any more."""
    line: list[tuple[float, Word]] = []
    at = 0.0
    for word in words:
        space = 0 if not line else _space(word.text)
        if line and at + space + _width(word) > COLUMNS:
            yield line
            line, at, space = [], 0.0, 0
        line.append((at + space, word))
        at += space + _width(word)
    if line:
        yield line


def _space(text: str) -> int:
    return len(text) - len(text.lstrip())


def _width(word: Word) -> float:
    return max(cell_len(word.text.strip()), 0.75 * len(word.note) + 0.4 if word.note else 0)


def _line(line: Sequence[tuple[float, Word]], y: float) -> Iterator[str]:
    for column, word in line:
        x, width, text = MARGIN + column * CELL, _width(word) * CELL, word.text.strip()
        length = cell_len(text) * CELL
        if word.fill is not None and text:
            yield f'<rect x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{LINE - 6}" fill="{word.fill}"/>'
        if text:
            yield _text(x, y + 13, text, word.ink, f'textLength="{length:.1f}"')
        if word.struck:
            yield f'<path d="M{x:.1f} {y + 9:.0f}h{length:.1f}" stroke="{word.ink}"/>'
        if word.marked:
            yield f'<path d="M{x:.1f} {y + LINE - 4:.0f}h{width:.1f}" stroke="{MARK}" stroke-width="2.5"/>'
        if word.note:
            yield _text(x, y - 2, word.note, SOFT, 'font-size="9"')


def _legend(legend: Sequence[Word | str], ramp: tuple[str, str], y: float) -> Iterator[str]:
    x = float(MARGIN)
    if ramp[0]:
        yield _text(x, y + 13, ramp[0], SOFT)
        x += (len(ramp[0]) + 1) * CELL
        for index in range(len(RAMP)):
            colour = heat(index / len(RAMP))[0]
            yield f'<rect x="{x:.1f}" y="{y + 2:.0f}" width="{SWATCH}" height="{SWATCH}" fill="{colour}"/>'
            x += SWATCH
        yield _text(x + CELL, y + 13, ramp[1], SOFT)
        x += (len(ramp[1]) + 4) * CELL
    for entry in legend:
        if isinstance(entry, str):
            yield _text(x, y + 13, entry, SOFT)
            x += (cell_len(entry) + 3) * CELL
        else:
            yield from _line([((x - MARGIN) / CELL, entry)], y)
            x += (_width(entry) + 1) * CELL


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" xml:space="preserve" {more}>{escape(text)}</text>'
