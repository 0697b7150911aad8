"""Two puzzles on a 4 x 4 grid: a Latin square of given symbols (576 answers), and a sudoku with four blanks (one)."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from functools import cache
from itertools import permutations

from szilard.evaluation.parallelbench.lists import ARROW, MASK, NONE
from szilard.evaluation.parallelbench.sample import Draw

SYMBOLS = tuple(string.ascii_uppercase + string.digits)
DIGITS = ("1", "2", "3", "4")
BLANKS = 4  # of a sudoku's 16 cells
Grid = tuple[tuple[int, ...], ...]


@cache
def latin_squares(n: int) -> tuple[Grid, ...]:
    """All n x n squares of 0 .. n - 1 in which no row or column repeats a symbol (4: 576)."""
    rows = tuple(permutations(range(n)))

    def below(square: Grid) -> Iterator[Grid]:
        if len(square) == n:
            yield square
            return
        for row in rows:
            if all(a != b for above in square for a, b in zip(above, row, strict=True)):
                yield from below((*square, row))

    return tuple(below(()))


@cache
def sudoku_grids() -> tuple[Grid, ...]:
    """All 288 Latin squares of 0 .. 3 whose 2 x 2 boxes hold every digit too."""
    return tuple(square for square in latin_squares(4) if all(len(set(box)) == 4 for box in _boxes(square)))


def _boxes(square: Grid) -> Iterator[tuple[int, ...]]:
    for top in (0, 2):
        for left in (0, 2):
            yield (*square[top][left : left + 2], *square[top + 1][left : left + 2])


def draw_latin_square(rng: random.Random, n: int, *, compact: bool) -> Draw:
    """n symbols of A-Z0-9; the label is the cyclic square with its rows, then its columns, shuffled."""
    symbols = rng.sample(SYMBOLS, n)
    square = [[symbols[(row + column) % n] for column in range(n)] for row in range(n)]
    rng.shuffle(square)
    order = rng.sample(range(n), n)
    label = [[row[column] for column in order] for row in square]
    metadata = {"n": n, "symbols": symbols, "compact": compact}
    if compact:
        question = " ".join(("latin_square", NONE, NONE, *symbols, ARROW))
        return Draw(question, _spaced(label), label, metadata, " ".join([MASK] * n * n))
    question = (
        f"Make a Latin square of size {n} with the symbols {', '.join(symbols)}: every row and every column holds each "
        f"symbol once. Output only the square as CSV, one row a line."
    )
    form = "\n".join(",".join([MASK] * n) for _ in range(n))
    return Draw(question, "\n".join(",".join(row) for row in label), label, metadata, form)


def draw_sudoku(rng: random.Random, *, compact: bool) -> Draw:
    """A full grid, of which four cells whose values follow from the others are blank (0)."""
    grids = sudoku_grids()
    while True:
        grid = rng.choice(grids)
        blank = set(rng.sample(range(16), BLANKS))
        given = [(cell // 4, cell % 4) for cell in range(16) if cell not in blank]
        if sum(all(other[r][c] == grid[r][c] for r, c in given) for other in grids) == 1:
            break
    label = [[DIGITS[value] for value in row] for row in grid]
    puzzle = [["0" if 4 * r + c in blank else label[r][c] for c in range(4)] for r in range(4)]
    metadata = {"n": 4, "puzzle": puzzle, "compact": compact}
    if compact:
        question = " ".join(("sudoku", NONE, NONE, _spaced(puzzle), ARROW))
        return Draw(question, _spaced(label), label, metadata, " ".join([MASK] * 16))
    question = (
        "Fill in the zeros of this sudoku, so that each row, each column and each 2 x 2 box holds 1, 2, 3 and 4 once. "
        f"Output only the full grid, four digits a line.\nInput:\n{_lines(puzzle)}\nOutput:"
    )
    return Draw(question, _lines(label), label, metadata, "\n".join([MASK * 4] * 4))


def _spaced(rows: list[list[str]]) -> str:
    return " ".join(cell for row in rows for cell in row)


def _lines(rows: list[list[str]]) -> str:
    return "\n".join("".join(row) for row in rows)
