"""What tiny-diffusion learns beside ParallelBench's lists and grids: sums with their steps, and small texts.

Prompts have ParallelBench's compact form, "name - - ... ->"; every word is a token.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache

from szilard.evaluation.parallelbench.names import FIRST_NAMES, LAST_NAMES
from szilard.evaluation.parallelbench.puzzles import sudoku_grids

JOBS = tuple("baker teacher farmer doctor painter driver singer writer sailor miller".split())
CITIES = tuple("Lisbon Oslo Vienna Turin Prague Bergen Delft Krakow Porto Ghent".split())
COLOURS = tuple("red blue green yellow white black grey brown".split())
THINGS = tuple("key box book lamp coin cup chair coat map drum".split())
ANIMALS = tuple("cat dog horse goat bird fox hen cow".split())
DAYS = tuple("monday tuesday wednesday thursday friday saturday sunday".split())
PLACES = tuple(
    "in the garden|near the river|under the old bridge|behind the house|on the road|at the market".split("|")
)
KINDS = tuple("very old|quite heavy|rather small|full of dust|worth a lot|broken".split("|"))
Draw = tuple[str, str]  # a prompt and its answer


def running_sum(rng: random.Random) -> Draw:
    """Three to five digits, added up one after the other; totals have two digits: "0 4 + 7 = 1 1 ; 1 1 + 9 = 2 0"."""
    digits = [str(rng.randrange(10)) for _ in range(rng.randint(3, 5))]
    return f"sum - - {' '.join(digits)} ->", _sums(digits)


def _sums(digits: list[str]) -> str:
    total, steps = int(digits[0]), []
    for digit in digits[1:]:
        steps.append(f"{_two(total)} + {digit} = {_two(total + int(digit))}")
        total += int(digit)
    return " ; ".join(steps)


def chain(rng: random.Random) -> Draw:
    """Three to six operations modulo 10, each on what the last one gave: "7 + 5 = 2 ; 2 * 3 = 6"."""
    asked = [str(rng.randrange(10))]
    for _ in range(rng.randint(3, 6)):
        asked += [rng.choice("+-*"), str(rng.randrange(10))]
    return f"chain - - {' '.join(asked)} ->", _chained(asked)


def _chained(asked: list[str]) -> str:
    value, steps = int(asked[0]), []
    for sign, digit in zip(asked[1::2], map(int, asked[2::2]), strict=True):
        result = {"+": value + digit, "-": value - digit, "*": value * digit}[sign] % 10
        steps.append(f"{value} {sign} {digit} = {result}")
        value = result
    return " ; ".join(steps)


def story(rng: random.Random) -> Draw:
    """About somebody who found something: names, colour and thing come again, all else is free."""
    pick = rng.choice
    first, friend = rng.sample(FIRST_NAMES, 2)
    last, thing = pick(LAST_NAMES), f"{pick(COLOURS)} {pick(THINGS)}"
    begin = pick(("{first} {last} is a {job} from {city} .", "{first} {last} lives in {city} and works as a {job} ."))
    then = pick(("took the {thing} home and showed it to {friend} .", "gave the {thing} to {friend} the next day ."))
    text = (
        f"{begin} one {{day}} {{first}} found a {{thing}} {{place}} . {{first}} {then} {{friend}} said that the "
        "{thing} was {kind} . now the {thing} of {first} {last} is {other} ."
    ).format(
        first=first,
        last=last,
        friend=friend,
        thing=thing,
        job=pick(JOBS),
        city=pick(CITIES),
        day=pick(DAYS),
        place=pick(PLACES),
        other=pick(PLACES),
        kind=pick(KINDS),
    )
    return f"story - - {first} {last} ->", text


def record(rng: random.Random) -> Draw:
    """The fields of a record as sentences, one of two wordings each; one place is free."""
    pick = rng.choice
    fields = (pick(FIRST_NAMES), pick(LAST_NAMES), pick(JOBS), pick(CITIES), _two(rng.randint(20, 79)))
    fields += (pick(COLOURS), pick(THINGS), pick(ANIMALS))
    return f"record - - {' '.join(fields)} ->", pick(records(*fields))


def records(
    first: str, last: str, job: str, city: str, age: str, colour: str, thing: str, animal: str
) -> tuple[str, ...]:
    """Every right text of a record."""
    begins = (
        f"{first} {last} is {age} years old and works as a {job} in {city} .",
        f"{first} {last} from {city} is a {job} of {age} years .",
    )
    owns = (f"the {job} has a {colour} {thing} and a {animal} .", f"{first} owns a {animal} and a {colour} {thing} .")
    return tuple(
        f"{begin} {own} the {animal} of {first} sleeps {place} beside the {colour} {thing} ."
        for begin in begins
        for own in owns
        for place in PLACES
    )


def sudoku(rng: random.Random) -> Draw:
    """ParallelBench's compact sudoku with four to eight blanks instead of four; the answer is still unique."""
    grids, blanks = _flat_grids(), rng.randint(4, 8)
    while True:
        grid, given = rng.choice(grids), rng.sample(range(16), 16 - blanks)
        if sum(all(other[cell] == grid[cell] for cell in given) for other in grids) == 1:
            break
    shown = [grid[cell] if cell in given else "0" for cell in range(16)]
    return f"sudoku - - {' '.join(shown)} ->", " ".join(grid)


@cache
def _flat_grids() -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(value + 1) for row in grid for value in row) for grid in sudoku_grids())


WRITTEN: dict[str, Callable[[random.Random], Draw]] = {
    "sudoku": sudoku,
    "sum": running_sum,
    "chain": chain,
    "story": story,
    "record": record,
}
PHRASES = (
    *(JOBS, CITIES, COLOURS, THINGS, ANIMALS, DAYS, PLACES, KINDS),
    (
        "is a from lives in and works as one found took the home showed it to gave next day said that was now of",
        "years old has owns sleeps beside . : ; + - * =",
    ),
)


def words() -> list[str]:
    """Every word that these tasks write, sorted."""
    return sorted({word for group in PHRASES for phrase in group for word in phrase.split()})


def _two(number: int) -> str:
    return " ".join(f"{number:02d}")


def fits(task: str, prompt: str, answer: str) -> bool:
    """Whether an answer to a prompt of these tasks is one of the right ones."""
    given = prompt.split()[3:-1]
    if task == "story":
        return _STORY.fullmatch(f"{' '.join(given)} | {answer}") is not None
    if task == "record":
        return answer in records(*given[:4], " ".join(given[4:6]), *given[6:])
    if task == "sudoku":
        cells = tuple(answer.split())
        return cells in _flat_grids() and all(cell in ("0", own) for cell, own in zip(given, cells, strict=True))
    return answer == (_sums(given) if task == "sum" else _chained(given))


def _any(words: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(words)})"


_STORY = re.compile(
    rf"(?P<first>\w+) (?P<last>\w+) \| (?P=first) (?P=last) "
    rf"(?:is a {_any(JOBS)} from {_any(CITIES)}|lives in {_any(CITIES)} and works as a {_any(JOBS)}) \. "
    rf"one {_any(DAYS)} (?P=first) found a (?P<thing>{_any(COLOURS)} {_any(THINGS)}) {_any(PLACES)} \. (?P=first) "
    rf"(?:took the (?P=thing) home and showed it to|gave the (?P=thing) to) (?P<friend>{_any(FIRST_NAMES)})"
    rf"(?: the next day)? \. (?P=friend) said that the (?P=thing) was {_any(KINDS)} \. "
    rf"now the (?P=thing) of (?P=first) (?P=last) is {_any(PLACES)} \."
)
