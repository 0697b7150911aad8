"""Tasks for cache and attention methods, made of running text: what was hidden in it, and how it goes on.

- needle: " The secret number is 4821937." stands at some depth of a text, and is asked for afterwards.
- pairs: " river: apple." and its like are scattered over a text, and one of them is asked for.
- continuation: the text as it goes on, token by token (its negative log-likelihood).

Everything is made of ids, so that a context has exactly the asked length; nothing here has a model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from szilard.options import check_choice, check_number

TASKS = ("needle", "pairs", "continuation")
QUESTIONS = ("inside", "after")
NEEDLE, NEEDLE_QUESTION = " The secret number is{value}.", " What is the secret number? The secret number is"
PAIR, PAIR_QUESTION = " {key}:{value}.", " What is {key}? {key}:"
DIGITS = 7
WORDS = tuple(
    "apple arm army art bank bird boat book box bridge brother camp car castle chair church city clock cloud coat "
    "coffee cow dance desert dog door dress earth engine farm father field fire fish flag floor flower forest friend "
    "garden gate girl glass gold grass hand heart hill horse hotel house ice iron island king kitchen lady lake lamp "
    "law leaf letter light line lion machine map market meat milk money moon mother mountain mouse music night ocean "
    "office orange page paper park phone picture pilot plane plant poem pool price prince queen rain river road rock "
    "roof room root rose salt sand school sea shadow sheep ship shirt shop silver sister sky smoke snake snow soldier "
    "song square star station stone storm street sugar summer sun table teacher tower town train tree valley village "
    "voice wall war watch water wheel wind window wine winter wolf wood yard year".split()
)


@dataclass(frozen=True)
class Item:
    """One question about one text.

    Attributes:
        task: "needle", "pairs" or "continuation".
        context: what is read first, token ids.
        question: what is asked after it, at least one token; of a continuation, the last token before it.
        answer: the right one, token ids.
        depth: where in the context the answer stands, 0 (its beginning) to 1; None for a continuation.
    """

    task: str
    context: tuple[int, ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]
    depth: float | None = None

    def parts(self, question: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The prompt, and what follows it token by token (the answer last).

        Args:
            question: "inside": the prompt ends with the question, all but its last token, which is always decoded: a
                prompt's own last logits are those of full attention under methods that evict after use. "after": the
                context alone is the prompt.
        """
        check_choice("question", question, QUESTIONS)
        asked = len(self.question) - 1 if question == "inside" else 0
        return self.context + self.question[:asked], self.question[asked:] + self.answer


def needles(
    tokenizer: Any,
    text: str,
    *,
    length: int,
    count: int = 8,
    depths: Sequence[float] = (),
    seed: int = 0,
) -> list[Item]:
    """A number of seven digits, hidden in `count` stretches of a text.

    Args:
        tokenizer: of the model.
        text: running text; the stretches begin at chance places.
        length: tokens of a context, needle included.
        count: of items.
        depths: where the needle stands, in turn, 0 to 1, moved back to the end of a sentence; empty: from 0.05 to 0.95
            in even steps.
        seed: of numbers and places.

    Raises:
        ValueError: a text or a length that is too short, a depth outside [0, 1].
    """
    source = _Source(tokenizer, text, length, count)
    for depth in depths:
        check_number("depth", depth, low=0, high=1)
    where = list(depths) or [0.05 + 0.9 * at / max(1, count - 1) for at in range(count)]
    items = []
    for at in range(count):
        rng = random.Random(f"needle {seed} {at}")
        number = "".join([rng.choice("123456789"), *(rng.choice("0123456789") for _ in range(DIGITS - 1))])
        needle = source.encode(NEEDLE.format(value=f" {number}"))
        context, places = source.context(rng, [needle], [where[at % len(where)]])
        items.append(source.item("needle", context, NEEDLE_QUESTION, f" {number}", places[0] / length))
    return items


def pairs(
    tokenizer: Any,
    text: str,
    *,
    length: int,
    count: int = 8,
    pairs: int = 16,
    seed: int = 0,
) -> list[Item]:
    """`pairs` pairs of words, scattered over `count` stretches of a text; one of them is asked for.

    Args:
        tokenizer: of the model.
        text: running text; the stretches begin at chance places.
        length: tokens of a context, pairs included.
        count: of items.
        pairs: in a context, of different words of `WORDS`.
        seed: of words and places.

    Raises:
        ValueError: a text or a length that is too short, more pairs than there are words.
    """
    check_number("pairs", pairs, low=1, high=len(WORDS) // 2, integer=True)
    source = _Source(tokenizer, text, length, count)
    items = []
    for at in range(count):
        rng = random.Random(f"pairs {seed} {at}")
        words = rng.sample(WORDS, 2 * pairs)
        keys, values = words[:pairs], words[pairs:]
        stated = [
            source.encode(PAIR.format(key=key, value=f" {value}")) for key, value in zip(keys, values, strict=True)
        ]
        context, places = source.context(rng, stated, sorted(rng.random() for _ in range(pairs)))
        asked = round(at * (pairs - 1) / max(1, count - 1))  # from the beginning to the end
        question = PAIR_QUESTION.format(key=keys[asked])
        items.append(source.item("pairs", context, question, f" {values[asked]}", places[asked] / length))
    return items


def continuations(
    tokenizer: Any, text: str, *, length: int, count: int = 8, new: int = 64, seed: int = 0
) -> list[Item]:
    """`count` stretches of a text and the `new` tokens after each.

    Args:
        tokenizer: of the model.
        text: running text.
        length: tokens of a context.
        count: of items.
        new: tokens of a continuation.
        seed: of the places.

    Raises:
        ValueError: a text that is too short.
    """
    check_number("new", new, low=1, integer=True)
    source = _Source(tokenizer, text, length, count, after=new + 1)
    items = []
    for at in range(count):
        ids = source.stretch(random.Random(f"continuation {seed} {at}"), length + 1 + new - len(source.begin))
        whole = (*source.begin, *ids)
        items.append(Item("continuation", whole[:length], whole[length : length + 1], whole[length + 1 :]))
    return items


def make_items(task: str, tokenizer: Any, text: str, **options: Any) -> list[Item]:
    """Items of a task by its name, with the options of its function.

    Raises:
        ValueError: no such task.
    """
    check_choice("task", task, TASKS)
    makers = {"needle": needles, "pairs": pairs, "continuation": continuations}
    return list(makers[task](tokenizer, text, **options))  # type: ignore[operator]


class _Source:
    """Stretches of a tokenised text, and statements set into them."""

    def __init__(self, tokenizer: Any, text: str, length: int, count: int, *, after: int = 0) -> None:
        check_number("length", length, low=2, integer=True)
        check_number("count", count, low=1, integer=True)
        if not isinstance(text, str):
            raise TypeError(f"text must be a string of running text, not {type(text).__name__}.")
        self.tokenizer, self.length = tokenizer, length
        self.begin = tuple(_first_tokens(tokenizer))
        self.ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(self.ids) < length + after:
            raise ValueError(
                f"the text has {len(self.ids)} tokens, and {length + after} are needed: take a longer text or a "
                "smaller length."
            )

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def stretch(self, rng: random.Random, size: int) -> list[int]:
        """So many tokens from a chance place on, that of a sentence's beginning where one is near."""
        start = rng.randrange(len(self.ids) - size + 1)
        for place in range(start, min(start + 64, len(self.ids) - size + 1)):
            if place and self._ends(self.ids[place - 1]):
                start = place
                break
        return self.ids[start : start + size]

    def context(
        self, rng: random.Random, statements: Sequence[Sequence[int]], depths: Sequence[float]
    ) -> tuple[list[int], list[int]]:
        """`length` tokens with these statements at these depths (ascending), and where each begins."""
        size = self.length - len(self.begin) - sum(map(len, statements))
        if size < 1:
            raise ValueError(
                f"a context of {self.length} tokens has no room beside the {self.length - size} of what is hidden in "
                "it: raise length or hide less."
            )
        filler = self.stretch(rng, size)
        breaks = [0, *(at + 1 for at, token in enumerate(filler) if self._ends(token))]
        context, places, done = list(self.begin), [], 0
        for statement, depth in zip(statements, depths, strict=True):
            place = round(depth * size)
            if len(statements) == 1:  # many lie closer together than sentences end
                place = max(at for at in breaks if at <= place)
            place = max(done, place)
            context += filler[done:place]
            places.append(len(context))
            context += statement
            done = place
        return context + filler[done:], places

    def item(self, task: str, context: Sequence[int], question: str, answer: str, depth: float) -> Item:
        asked = self.encode(question)
        whole = self.encode(question + answer)
        if whole[: len(asked)] != asked:  # a tokenizer that joins the two: its own cut
            whole = asked + self.encode(answer)
        told = whole[len(asked) :]
        while len(told) > 1 and not self.tokenizer.decode(told[:1]).strip():  # a space of its own says nothing
            asked, told = [*asked, told[0]], told[1:]
        return Item(task, tuple(context), tuple(asked), tuple(told), depth)

    def _ends(self, token: int) -> bool:
        known = self.__dict__.setdefault("_known", {})
        if token not in known:
            known[token] = self.tokenizer.decode([token]).strip() in {".", "!", "?"}
        return bool(known[token])


def _first_tokens(tokenizer: Any) -> Iterator[int]:
    """The token that a model's texts begin with, where its tokenizer sets one."""
    ids = tokenizer.encode("a")
    if len(ids) > 1 and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id:
        yield ids[0]
