"""Reading what a model wrote: lists, Latin squares, sudokus, and their compact forms."""

from __future__ import annotations

import re
from collections.abc import Sequence

_STRICT = re.compile(r'\[((?:"[^",\[\]]+"(?:, "[^",\[\]]+")*)?)\]')


def read_list(text: str, *, strict: bool = False) -> list[str] | None:
    """The items of a written list; None: strict, and not exactly ["x", "y"].

    Loose: what stands between the last "[" and the next "]", cut at commas, without quotes and blanks.
    """
    if strict:
        found = _STRICT.fullmatch(text.strip())
        return None if found is None else re.findall(r'"([^"]+)"', found[1])
    inside = text.rpartition("[")[2].partition("]")[0]
    return [part.strip().strip("\"'").strip() for part in inside.split(",")] if inside.strip() else []


def read_compact(text: str, width: int) -> list[str] | None:
    """Items of `width` words each; None: some words are left over."""
    words = text.split()
    if len(words) % width:
        return None
    return [" ".join(words[start : start + width]) for start in range(0, len(words), width)]


def read_rows(text: str, symbols: Sequence[str], *, strict: bool = False) -> list[list[str]]:
    """The lines of an answer, cut at commas, whose cells are the symbols; strict: all lines, whatever they hold."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.strip().splitlines()]
    return rows if strict else [row for row in rows if set(row) == set(symbols)]


def read_digits(text: str, *, strict: bool = False) -> list[list[str]]:
    """The digits of every line that has some; strict: every character of every line."""
    if strict:
        return [list(line) for line in text.strip().splitlines()]
    rows = [[sign for sign in line if sign in "0123456789"] for line in text.splitlines()]
    return [row for row in rows if row]


def read_cells(text: str, n: int) -> list[list[str]]:
    """Cells with blanks between, as rows of n."""
    cells = text.split()
    return [cells[start : start + n] for start in range(0, len(cells), n)]
