"""Texts of any length, in windows that come and go: what is in memory does not grow with the text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from szilard.compression.method import Budget, TextCompressor, check_budget
from szilard.compression.rebuild import rebuild
from szilard.compression.structure import safe_units
from szilard.options import check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

_BLOCK = 1 << 16  # characters read from a file at once
_SENTENCE_ENDS = ("\n", ". ", "? ", "! ", "。", " ")


def compress_stream(
    compressor: TextCompressor,
    source: Iterable[str] | Path,
    budget: Budget = None,
    *,
    engine: Engine | None = None,
    window: int = 16_384,
    whole_units: bool = False,
) -> Iterator[str]:
    """Shorten a text that does not fit into memory, or is not there yet, piece by piece.

    Each window is shortened by itself, so that the budget holds for every window, and what is decided differs from
    what a compressor that sees the whole text would decide. The pieces joined are the shortened text; with everything
    kept, they are the text.

    Args:
        source: pieces of text of any size (a generator, an open file), or the path of a UTF-8 file.
        budget: a share in (0, 1], or None.
        window: characters of a window, about; it ends behind a line or sentence.
        whole_units: end no window inside of code, JSON, ... (`safe_units`) that is shorter than a window.

    Raises:
        TypeError: a source that is a text; ValueError: a budget in tokens, which is unknown before the end.
    """
    if isinstance(source, str):
        raise TypeError("a stream takes pieces of text or a Path; for a text that is there, use compress([text]).")
    if isinstance(budget, int):
        raise ValueError(f"a stream's length is unknown: give a share of the tokens, not {budget} tokens.")
    check_budget(budget)
    check_number("window", window, low=256, integer=True)
    if isinstance(source, Path) and not source.is_file():
        raise ValueError(f"there is no file {str(source)!r}.")
    if not isinstance(source, Iterable) and not isinstance(source, Path):
        raise TypeError(f"a stream takes pieces of text or a Path, not {type(source).__name__}.")
    return _compressed(compressor, _windows(_pieces(source), window, whole_units), budget, engine)


def _compressed(
    compressor: TextCompressor, windows: Iterable[str], budget: Budget, engine: Engine | None
) -> Iterator[str]:
    last, blank = "", ""  # the last word that stayed, and of the white space behind it what stays
    carried = ""  # white space without a word behind it yet
    whole = True  # nothing is dropped behind `last`
    for window in windows:
        window, carried = carried + window, ""
        if not window.strip():
            carried = window
            continue
        (result,) = compressor.compress([window], budget, engine=engine)
        lead = len(window) - len(window.lstrip())
        between = window[:lead] if whole or not last else _more_lines(blank, window[:lead])
        shift = len(last) + len(between) - lead
        places = [(0, len(last)), *((word.start + shift, word.end + shift) for word in result.words)]
        kept = np.array([True, *result.kept])
        text = rebuild(last + between + window[lead:], places, kept)[len(last) :]
        if not last and not result.words[0].kept:
            text = text.lstrip()
        if kept[1:].any():
            final = int(np.flatnonzero(kept)[-1]) - 1
            words = result.words[final:]
            last, blank = window[words[0].start : words[0].end], ""
            whole = len(words) == 1
            gaps = [window[a.end : b.start] for a, b in pairwise(words)]
            blank = max(gaps, key=lambda gap: gap.count("\n"), default="")
        else:
            whole, blank = False, _more_lines(between, blank)
        if text:
            yield text
    if carried and last and whole:
        yield carried


def _more_lines(blank: str, lead: str) -> str:
    """Of two stretches of white space with dropped words between them, the one with more line breaks."""
    return blank if blank.count("\n") > lead.count("\n") or not lead else lead


def _pieces(source: Iterable[str] | Path) -> Iterator[str]:
    if isinstance(source, Path):
        with source.open(encoding="utf-8", newline="") as file:
            try:
                yield from iter(lambda: file.read(_BLOCK), "")
            except UnicodeDecodeError as error:
                raise ValueError(f"{str(source)!r} is not text in UTF-8: save it as UTF-8.") from error
        return
    if isinstance(source, io.TextIOBase):
        yield from iter(lambda: source.read(_BLOCK), "")
        return
    for piece in source:
        if not isinstance(piece, str):
            raise TypeError(f"a stream's pieces must be text, not {type(piece).__name__}.")
        yield piece


def _windows(pieces: Iterator[str], size: int, whole_units: bool) -> Iterator[str]:
    """A text in stretches of at most `size` characters; white space stands at their beginning, not at their end."""
    held: Any = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < 2 * size:
            continue
        text = "".join(held)
        position = 0
        while len(text) - position >= 2 * size:
            cut = position + _cut(text[position : position + size], whole_units)
            yield text[position:cut]
            position = cut
        held, length = [text[position:]], len(text) - position
    rest = "".join(held)
    while len(rest) > size:
        cut = _cut(rest[:size], whole_units)
        yield rest[:cut]
        rest = rest[cut:]
    if rest:
        yield rest


def _cut(text: str, whole_units: bool) -> int:
    """Where a window ends: behind a sentence of its second half, else a word, else where it is full."""
    limit = len(text)
    if whole_units and len(units := safe_units(text)) and units[-1, 1] == limit and units[-1, 0] > 0:
        limit = int(units[-1, 0])  # its end is not in sight
    for end in _SENTENCE_ENDS:
        place = text.rfind(end, limit // 2, limit)
        if place >= 0:
            return len(text[: place + len(end)].rstrip()) or len(text)
    return limit
