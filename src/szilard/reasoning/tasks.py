"""Two families of problems that make themselves: arithmetic chains and the countdown puzzle, and a tokenizer for both.

Small models learn them from nothing within minutes, and neither can be answered well without working through steps.
"""

from __future__ import annotations

import itertools
import random
import re

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from szilard.options import check_number
from szilard.reasoning.examples import Reasoning

SIGNS = ("+", "-", "*", "/", "=", ";", ",", "->", "(", ")")
MARKS = ("<think>", "</think>", "<|compress_token|>", "<BOT>", "<EOT>", "<SOA>")
_EQUATION = re.compile(r"(\d+)\s*([-+*/])\s*(\d+)\s*=\s*(\d+)")


def number_tokenizer(largest: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the whole numbers up to `largest`, signs, and the delimiters of latent reasoning."""
    check_number("largest", largest, low=0, integer=True)
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *MARKS, *SIGNS, *map(str, range(largest + 1))]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=made, **named, additional_special_tokens=list(MARKS))


def arithmetic_chains(
    count: int, *, seed: int, steps: tuple[int, int] = (3, 5), modulus: int = 23, operations: str = "+-*"
) -> list[Reasoning]:
    """Chains of operations read from left to right, every result modulo `modulus`; all different.

    "3 + 5 * 2 - 4 =" is thought through as "3 + 5 = 8 ; 8 * 2 = 16 ; 16 - 4 = 12" and answered by "12".

    Args:
        count: problems.
        seed: of the draws; another seed gives other problems, which may meet these where there are few.
        steps: fewest and most operations.
        modulus: numbers are 0 to modulus - 1.
        operations: of "+-*".

    Raises:
        ValueError: fewer than one step, or more problems than there are.
    """
    low, high = steps
    check_number("steps", low, low=1, integer=True)
    if high < low or not operations or set(operations) - set("+-*"):
        raise ValueError(f"steps {steps} must rise and operations {operations!r} be some of '+-*'.")
    there_are = sum(modulus ** (n + 1) * len(operations) ** n for n in range(low, high + 1))
    if count > there_are // 2:
        raise ValueError(f"there are only {there_are} problems of this kind: ask for at most half of them.")
    chance = random.Random(f"chains {seed}")
    found: dict[str, Reasoning] = {}
    while len(found) < count:
        value = chance.randrange(modulus)
        problem, chain = [str(value)], []
        for _ in range(chance.randint(low, high)):
            sign, number = chance.choice(operations), chance.randrange(modulus)
            result = {"+": value + number, "-": value - number, "*": value * number}[sign] % modulus
            problem += [sign, str(number)]
            chain.append(f"{value} {sign} {number} = {result}")
            value = result
        asked = " ".join([*problem, "="])
        found.setdefault(asked, Reasoning(asked, " ; ".join(chain), str(value)))
    return list(found.values())


def countdown(
    count: int, *, seed: int, numbers: int = 3, largest: int = 99, results: int | None = None
) -> list[Reasoning]:
    """Countdown: reach the last number from the others, each used once; the given solution is one of several.

    "15 , 44 , 79 -> 50" is solved by "44 - 15 = 29 ; 79 - 29 = 50"; the answer repeats the solution's last equation.

    Args:
        count: problems, all different.
        seed: of the draws.
        numbers: to be used.
        largest: of the given numbers and the goal.
        results: largest number on the way; None: four times `largest`.

    Raises:
        ValueError: more problems than there are.
    """
    check_number("numbers", numbers, low=2, integer=True)
    chance = random.Random(f"countdown {seed}")
    bound = 4 * largest if results is None else results
    found: dict[str, Reasoning] = {}
    tries = 0
    while len(found) < count:
        tries += 1
        if tries > 1000 + 100 * count:
            raise ValueError(f"{count} different problems with {numbers} numbers up to {largest} were not found.")
        given = [chance.randint(1, largest) for _ in range(numbers)]
        pool, chain = list(given), []
        while len(pool) > 1:
            one, other = (pool.pop(chance.randrange(len(pool))) for _ in range(2))
            moves = [move for move in _moves(one, other) if move[3] <= bound]
            if not moves:
                break
            left, sign, right, result = chance.choice(moves)
            chain.append(f"{left} {sign} {right} = {result}")
            pool.append(result)
        if len(pool) > 1 or not 1 <= pool[0] <= largest:
            continue
        asked = f"{' , '.join(map(str, given))} -> {pool[0]}"
        found.setdefault(asked, Reasoning(asked, " ; ".join(chain), chain[-1]))
    return list(found.values())


def _moves(one: int, other: int) -> list[tuple[int, str, int, int]]:
    high, low = max(one, other), min(one, other)
    moves = [(one, "+", other, one + other), (one, "*", other, one * other)]
    if high > low:
        moves.append((high, "-", low, high - low))
    if low > 1 and high % low == 0:
        moves.append((high, "/", low, high // low))
    return moves


def solves_countdown(problem: str, chain: str) -> bool:
    """Whether the equations of a chain are right, use each given number once and end in the goal.

    Args:
        problem: "15 , 44 , 79 -> 50", or "15,44,79,50", the goal last.
        chain: equations in their order, whatever stands between them.
    """
    *given, goal = map(int, re.findall(r"\d+", problem))
    pool = list(given)
    equations = _EQUATION.findall(chain)
    for left, sign, right, result in ((int(a), sign, int(b), int(c)) for a, sign, b, c in equations):
        for number in (left, right):
            if number not in pool:
                return False
            pool.remove(number)
        true = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
        if sign == "/":
            true = left // right if right and left % right == 0 else None
        if true != result:
            return False
        pool.append(result)
    return len(equations) == len(given) - 1 and pool == [goal]


def countdown_solutions(problem: str) -> list[str]:
    """Every chain that solves a countdown puzzle of few numbers: what diverse trajectories may find."""
    *given, goal = map(int, re.findall(r"\d+", problem))
    found: dict[str, None] = {}

    def search(pool: list[int], chain: list[str]) -> None:
        if len(pool) == 1:
            if pool[0] == goal:
                found[" ; ".join(chain)] = None
            return
        for first, second in itertools.combinations(range(len(pool)), 2):
            rest = [number for index, number in enumerate(pool) if index not in (first, second)]
            for left, sign, right, result in _moves(pool[first], pool[second]):
                search([*rest, result], [*chain, f"{left} {sign} {right} = {result}"])

    search(given, [])
    return list(found)
