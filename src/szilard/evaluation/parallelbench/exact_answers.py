"""All right answers of a task as patterns over a few sources, for the exact model.

A pattern says for every place of the answer which source stands there; the sources of a list are its items and the new
one, so that one table serves every list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, permutations, product

from szilard.evaluation.parallelbench.generate import TASKS, compact_vocabulary
from szilard.evaluation.parallelbench.lists import ARROW
from szilard.evaluation.parallelbench.names import FIRST_NAMES, LAST_NAMES
from szilard.evaluation.parallelbench.puzzles import DIGITS, latin_squares, sudoku_grids
from szilard.options import check_bool, check_number, nearest

Pattern = tuple[int, ...]
NAME_TOKENS = 3  # of names_shuffle


@dataclass(frozen=True)
class ExactTask:
    """A task that can be enumerated.

    Attributes:
        name: the first word of the prompt.
        patterns: all right answers, as indices of sources.
        prompt_length: words of the prompt.
        places: columns of the prompt that hold the sources; empty: `sources` are always the same.
        sources: words, where the prompt holds none.
        vocabulary: all words.
    """

    name: str
    patterns: tuple[Pattern, ...]
    prompt_length: int
    places: tuple[int, ...]
    sources: tuple[str, ...]
    vocabulary: tuple[str, ...]


def exact_task(name: str, n: int | None, words: tuple[str, ...] | None, must_differ: bool) -> ExactTask:
    """Enumerate a list or puzzle task, "names_shuffle", "key_bits" or "two_key_bits".

    Raises:
        ValueError: another task, a size that is none or too large, or an option of another task.
    """
    key = str(name).strip().lower().replace("-", "_")
    known = [*(kind.name for kind in TASKS.values() if kind.group != "text"), *_SPECIAL]
    if key not in known:
        raise ValueError(f"there is no exact model of {name!r}{nearest(key, known)} Tasks: {', '.join(known)}.")
    check_bool("must_differ", must_differ)
    if must_differ and key != "shuffle":
        raise ValueError(f"must_differ is an option of 'shuffle', not of {key!r}.")
    if key in _SPECIAL:
        if words is not None:
            raise ValueError(f"{key!r} has words of its own: leave words out.")
        return _SPECIAL[key](n)
    vocabulary = compact_vocabulary(FIRST_NAMES if words is None else words)
    if TASKS[key].group == "puzzle":
        size = 4 if n is None else n
        check_number("n", size, low=4 if key == "sudoku" else 2, high=4, integer=True)
        grids = sudoku_grids() if key == "sudoku" else latin_squares(size)
        patterns = tuple(tuple(chain.from_iterable(grid)) for grid in grids)
        if key == "sudoku":
            return ExactTask(key, patterns, 3 + 16 + 1, (), DIGITS, vocabulary)
        return ExactTask(key, patterns, 3 + size + 1, tuple(range(3, 3 + size)), (), vocabulary)
    if words is not None and any(len(word.split()) > 1 for word in words):
        raise ValueError("the exact model's items are single words; words holds one with a blank in it.")
    size = 6 if n is None else n
    least, most = (2 if key in ("shuffle", "remove_index", "remove_random") else 1), 8
    check_number("n", size, low=least, high=most if key in ("shuffle", "sort") else 15, integer=True)
    return ExactTask(key, _of_list(key, size, must_differ), 3 + size + 1, (*range(3, 3 + size), 2), (), vocabulary)


def _of_list(name: str, n: int, must_differ: bool) -> tuple[Pattern, ...]:
    """Source i is item i, source n the new item. Of the *_index tasks and sort, the prompt picks one pattern."""
    items = tuple(range(n))
    operation = name.partition("_")[0]
    if operation == "copy":
        return (items,)
    if operation == "reverse":
        return (items[::-1],)
    if operation in ("shuffle", "sort"):
        return tuple(order for order in permutations(items) if not (must_differ and order == items))
    if operation == "insert":
        return tuple((*items[:at], n, *items[at:]) for at in range(n + 1))
    new = (n,) if operation == "replace" else ()
    return tuple(items[:at] + new + items[at + 1 :] for at in range(n))


def _names_shuffle(n: int | None) -> ExactTask:
    """n names of three words, in any order; no word is in two names."""
    size = 5 if n is None else n
    check_number("n", size, low=2, high=7, integer=True)
    parts = (FIRST_NAMES[:20], FIRST_NAMES[20:], LAST_NAMES)
    sources = tuple(parts[part][name] for name in range(size) for part in range(NAME_TOKENS))
    patterns = tuple(
        tuple(NAME_TOKENS * name + part for name in order for part in range(NAME_TOKENS))
        for order in permutations(range(size))
    )
    return ExactTask("names_shuffle", patterns, 2, (), sources, ("names_shuffle", ARROW, *sources))


def _keys(name: str, n: int | None, groups: int) -> ExactTask:
    """Groups of a key, one of 2^n, and the n bits of its number."""
    size = 3 if n is None else n
    check_number("n", size, low=1, high=6, integer=True)
    sources = ("0", "1", *(f"key{number}" for number in range(2**size)))
    group = tuple((2 + number, *(number >> bit & 1 for bit in reversed(range(size)))) for number in range(2**size))
    patterns = tuple(tuple(chain.from_iterable(chosen)) for chosen in product(group, repeat=groups))
    return ExactTask(name, patterns, 2, (), sources, (name, ARROW, *sources))


_SPECIAL: dict[str, Callable[[int | None], ExactTask]] = {
    "names_shuffle": _names_shuffle,
    "key_bits": lambda n: _keys("key_bits", n, 1),
    "two_key_bits": lambda n: _keys("two_key_bits", n, 2),
}
