"""The waiting line: ten operations on a list of people.

Four have no choice (copy, reverse, sort, and the *_index forms); four leave one open (shuffle and the *_random forms):
there the tokens of an answer depend on each other. The wording of the questions is ours.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from szilard.evaluation.parallelbench.sample import Draw

MASK = "[MASK]"
NONE, ARROW = "-", "->"  # compact form: an empty slot; the answer follows
_SCENE = "You look after the queue at a service desk."


@dataclass(frozen=True)
class ListTask:
    """One operation.

    Attributes:
        name: in `TASKS`.
        event: what happened, with {word} and {index} where the operation has them.
        request: what to do.
        takes_word: a new person is part of the question.
        takes_index: a place, counted from 0, is part of the question.
    """

    name: str
    event: str
    request: str
    takes_word: bool = False
    takes_index: bool = False

    def draw(self, rng: random.Random, n: int, pool: Sequence[str], *, compact: bool) -> Draw:
        """A question about n items of the pool, and one right answer."""
        drawn = rng.sample(pool, n + self.takes_word)
        items, word = drawn[:n], drawn[n] if self.takes_word else None
        operation = self.name.partition("_")[0]
        places = {"insert": n + 1, "remove": n, "replace": n}
        at = rng.randrange(places[operation]) if operation in places else 0
        label = _apply(operation, items, at, word, rng)
        index = at if self.takes_index else None
        metadata = {
            "n": n,
            "input": items,
            "word": word,
            "index": index,
            "compact": compact,
            "width": len(items[0].split()),  # words of an item
        }
        if compact:
            slots = (self.name, NONE if index is None else str(index), NONE if word is None else word)
            question, answer = " ".join((*slots, *items, ARROW)), " ".join(label)
            form = " ".join([MASK] * len(label))
        else:
            event, request = (text.format(word=word, index=index) for text in (self.event, self.request))
            question = f"{_SCENE} {event}\n{_written(items)}\n{request} Output only the final list."
            answer, form = _written(label), _written([MASK] * len(label))
        return Draw(question, answer, label, metadata, form)


def _apply(operation: str, items: list[str], at: int, word: str | None, rng: random.Random) -> list[str]:
    if operation == "reverse":
        return items[::-1]
    if operation == "sort":
        return sorted(items)  # by the whole name, first names first, although the question says last names
    if operation == "shuffle":
        mixed = items[:]
        while mixed == items:
            rng.shuffle(mixed)
        return mixed
    new = [] if word is None else [word]
    if operation == "insert":
        return items[:at] + new + items[at:]
    if operation in ("remove", "replace"):
        return items[:at] + new + items[at + 1 :]
    return items[:]  # copy


def _written(items: Sequence[str]) -> str:
    return json.dumps(list(items), ensure_ascii=False)


LIST_TASKS = {
    task.name: task
    for task in (
        ListTask("copy", "Nobody has come or gone. The queue is:", "Repeat the queue as it is."),
        ListTask("reverse", "The queue has to turn round. It is:", "Give the queue in the opposite order."),
        # Paper: the stored answer sorts by the whole string, first name first; kept, so that scores can be compared.
        ListTask("sort", "The queue shall be alphabetical. It is:", "Order the queue by last name."),
        ListTask(
            "shuffle",
            "The queue shall be mixed up. It is:",
            "Put the same people into a random order that is not the one above.",
        ),
        ListTask(
            "insert_index",
            "{word} arrives and is let in at position {index}, counted from 0. The queue was:",
            "Put {word} at position {index}; all others keep their order.",
            takes_word=True,
            takes_index=True,
        ),
        ListTask(
            "insert_random",
            "{word} arrives and may stand anywhere. The queue was:",
            "Put {word} at a random position; all others keep their order.",
            takes_word=True,
        ),
        ListTask(
            "remove_index",
            "The person at position {index}, counted from 0, leaves. The queue was:",
            "Take out the person at position {index}; all others keep their order.",
            takes_index=True,
        ),
        ListTask(
            "remove_random",
            "One person leaves. The queue was:",
            "Take out one person at random; all others keep their order.",
        ),
        ListTask(
            "replace_index",
            "{word} takes the place of the person at position {index}, counted from 0. The queue was:",
            "Write {word} in place of the person at position {index}; all others stay where they are.",
            takes_word=True,
            takes_index=True,
        ),
        ListTask(
            "replace_random",
            "{word} takes the place of one person. The queue was:",
            "Write {word} in place of one person chosen at random; all others stay where they are.",
            takes_word=True,
        ),
    )
}
