"""The seventeen tasks by name, and their samples.

ParallelBench, Kang et al. 2025, arXiv 2510.04767. Every task has a seed of its own, made of its name:

    seed = (int(sha256(name)) + 42) mod 65535

from which lengths, items and the worked example are drawn, until every length has its share of the samples.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from szilard.evaluation.parallelbench.lists import ARROW, LIST_TASKS, NONE
from szilard.evaluation.parallelbench.names import NAMES, check_pool
from szilard.evaluation.parallelbench.puzzles import SYMBOLS, draw_latin_square, draw_sudoku
from szilard.evaluation.parallelbench.sample import Draw, Sample, as_sample
from szilard.evaluation.parallelbench.texts import draw_words, read_texts
from szilard.evaluation.parallelbench.word_sets import MOST_WORDS
from szilard.options import check_bool, check_number, nearest

MOST_INDEX = 15  # lists of the harder variant are so long


@dataclass(frozen=True)
class TaskKind:
    """What a task is like.

    Attributes:
        name: as in `make_task`.
        group: "list", "puzzle" or "text".
        free: several answers are right, so that tokens committed together must agree (total correlation > 0).
        lengths: list lengths, or words, or the grid's side; the samples are shared equally among them.
        num_samples: of the benchmark.
        max_new_tokens: of an answer, in the benchmark.
        examples: worked examples before the question.
    """

    name: str
    group: str
    free: bool
    lengths: tuple[int, ...]
    num_samples: int = 100
    max_new_tokens: int = 64
    examples: int = 0


TASKS = {
    **{
        name: TaskKind(name, "list", name == "shuffle" or name.endswith("_random"), (3, 4, 5, 6), 100, 32, 1)
        for name in LIST_TASKS
    },
    "latin_square": TaskKind("latin_square", "puzzle", True, (4,), examples=1),
    "sudoku": TaskKind("sudoku", "puzzle", False, (4,), 108, examples=1),
    "summarization": TaskKind("summarization", "text", True, ()),
    "paraphrasing": TaskKind("paraphrasing", "text", True, ()),
    "w2s_easy": TaskKind("w2s_easy", "text", True, (4,)),
    "w2s_medium": TaskKind("w2s_medium", "text", True, (4,)),
    "w2s_hard": TaskKind("w2s_hard", "text", True, (4,)),
}
_LEAST = {"shuffle": 2, "remove_index": 2, "remove_random": 2}


def task_kind(name: str) -> TaskKind:
    """A task by its name ("replace_random", also "replace-random").

    Raises:
        ValueError: there is none; the nearest is suggested.
    """
    key = str(name).strip().lower().replace("-", "_")
    if key not in TASKS:
        raise ValueError(f"there is no task {name!r}{nearest(key, TASKS)} Tasks: {', '.join(TASKS)}.")
    return TASKS[key]


def seed_of(name: str) -> int:
    """The seed of a task's samples, 0 .. 65534."""
    return (int(hashlib.sha256(task_kind(name).name.encode()).hexdigest(), 16) + 42) % 65535


def make_task(
    name: str,
    n: int | Sequence[int] | None = None,
    num_samples: int | None = None,
    seed: int | None = None,
    words: Sequence[str] | None = None,
    *,
    compact: bool = False,
    data: str | Path | None = None,
) -> list[Sample]:
    """Samples of a task; the same arguments make the same samples.

    Args:
        name: one of `TASKS`.
        n: length of the lists (2 to 15), words of a sentence (1 to 7), or side of the Latin square (2 to 4); several
            share the samples equally. None: the benchmark's.
        num_samples: None: the benchmark's (100; sudoku 108; summaries and paraphrases all of the file).
        seed: None: the task's own.
        words: what lists are made of; None: first names with last names.
        compact: list and puzzle tasks in a handful of words, for small models with one token a word:
            "task index word item item ... ->", answered by "item item ..."; "-" where there is no index or word.
        data: the file of the texts, for summaries and paraphrases.

    Raises:
        ValueError: no such task, a length or words that it cannot have, or a file that is not there.
    """
    kind = task_kind(name)
    check_bool("compact", compact)
    check_number("num_samples", num_samples, low=1, integer=True, optional=True)
    check_number("seed", seed, low=0, integer=True, optional=True)
    if compact and kind.group == "text":
        raise ValueError(f"'{kind.name}' has no compact form; list and puzzle tasks have.")
    if words is not None and kind.group != "list":
        raise ValueError(f"words is for list tasks, and '{kind.name}' is none.")
    if kind.name in ("summarization", "paraphrasing"):
        if n is not None or seed is not None:
            raise ValueError(f"'{kind.name}' takes its texts in the order of the file: it has neither n nor seed.")
        return read_texts(kind.name, data)[:num_samples]
    if data is not None:
        raise ValueError(f"the samples of '{kind.name}' are generated: it takes no file.")
    lengths = _lengths(kind, n)
    pool = check_pool(words, max(lengths) + LIST_TASKS[kind.name].takes_word) if kind.group == "list" else ()
    if compact and kind.group == "list":
        _check_compact(pool)
    total = kind.num_samples if num_samples is None else num_samples
    rng = random.Random(seed_of(kind.name) if seed is None else seed)
    left = {length: total // len(lengths) + (at < total % len(lengths)) for at, length in enumerate(lengths)}
    samples: list[Sample] = []
    while len(samples) < total:
        drawn, length = _draw(kind, rng, lengths, pool, compact)
        example = _draw(kind, rng, lengths, pool, compact)[0] if kind.examples and not compact else None
        if left[length]:
            left[length] -= 1
            samples.append(as_sample(kind.name, drawn, example, compact=compact))
    return samples


def compact_vocabulary(words: Sequence[str] | None = None) -> tuple[str, ...]:
    """Every word that compact samples are written in: task names, signs, numbers, symbols, and those of the items.

    In alphabetical order within each of these kinds, each once.
    """
    pool = NAMES if words is None else check_pool(words, 1)
    tasks = [kind.name for kind in TASKS.values() if kind.group != "text"]
    numbers = [str(number) for number in range(MOST_INDEX + 1)]
    items = sorted({part for item in pool for part in item.split()})
    return tuple(dict.fromkeys([*tasks, NONE, ARROW, *numbers, *SYMBOLS, *items]))


def _draw(
    kind: TaskKind, rng: random.Random, lengths: Sequence[int], pool: Sequence[str], compact: bool
) -> tuple[Draw, int]:
    n = rng.choice(lengths)
    if kind.group == "list":
        return LIST_TASKS[kind.name].draw(rng, n, pool, compact=compact), n
    if kind.name == "latin_square":
        return draw_latin_square(rng, n, compact=compact), n
    if kind.name == "sudoku":
        return draw_sudoku(rng, compact=compact), n
    return draw_words(rng, kind.name.removeprefix("w2s_"), n), n


def _lengths(kind: TaskKind, n: int | Sequence[int] | None) -> tuple[int, ...]:
    asked: tuple[Any, ...] = kind.lengths if n is None else tuple(n) if isinstance(n, Sequence) else (n,)
    if not asked or len(set(asked)) < len(asked):
        raise ValueError(f"n must be a length or different lengths, not {n!r}.")
    if kind.name == "sudoku" and asked != (4,):
        raise ValueError(f"a sudoku has n=4, not {n!r}.")
    low, high = {"list": (_LEAST.get(kind.name, 1), MOST_INDEX), "puzzle": (2, 4), "text": (1, MOST_WORDS)}[kind.group]
    for length in asked:
        check_number("n", length, low=low, high=high, integer=True)
    return asked


def _check_compact(pool: Sequence[str]) -> None:
    if len({len(item.split()) for item in pool}) > 1:
        raise ValueError("compact lists are cut by words: all items must have the same number of words.")
    if bad := [item for item in pool if {NONE, ARROW} & set(item.split())]:
        raise ValueError(f"words holds {bad[0]!r}, and {NONE!r} and {ARROW!r} have a meaning in compact lists.")
