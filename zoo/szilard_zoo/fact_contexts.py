"""Facts in small talk: contexts, what of them matters, and questions about it.

A few statements ("The access code of Berta is 4817.") stand in talk that says nothing. What matters is known by
construction: the thing, whose it is, and its value, in the order in which they are said. The training split and the
held-out one share no name, no thing, no value that is a word, no statement and no sentence of talk; the split "names"
is the training one with the held-out names.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "names", "heldout"]
_Part = Literal["train", "heldout"]


@dataclass(frozen=True)
class Question:
    """One about a context, and its answer, a single word or number of the context."""

    text: str
    answer: str


@dataclass(frozen=True)
class FactContext:
    """A context.

    Attributes:
        text: all of it.
        compressed: what matters, in order.
        questions: one for each fact.
    """

    text: str
    compressed: str
    questions: tuple[Question, ...]


_NAMES: dict[_Part, str] = {
    "train": "Berta Anton Carla Dario Elena Felix Greta Henry Irene Jakob Klara Louis Marta Nils Olga Peter Rosa Simon "
    "Tessa Umberto Vera Walter Xenia Yusuf Zelda Arthur Bianca Conrad Daphne Edgar Fiona Gustav Hanna Ivan Judith",
    "heldout": "Amara Boris Celine Dmitri Esther Farid Gloria Hector Ines Jonas Katya Leon Miriam Noah Ophelia Pablo "
    "Quentin Ruth Stefan Thea Viktor Wanda Yvonne Zoltan",
}
# Things whose value is a number of so many digits, or one of some words.
_THINGS: dict[_Part, dict[str, int | str]] = {
    "train": {
        "access code": 4,
        "phone extension": 3,
        "room number": 3,
        "customer number": 5,
        "birth year": 4,
        "order number": 5,
        "account balance": 4,
        "tax code": 4,
        "bus line": 2,
        "favourite colour": "red blue green yellow purple orange black white",
        "home town": "Lyon Madrid Vienna Oslo Dublin Prague Warsaw Athens",
        "meeting day": "Monday Tuesday Wednesday Thursday",
        "favourite drink": "coffee cocoa lemonade water cider",
        "pet": "cat hamster parrot rabbit goldfish",
        "instrument": "piano violin trumpet drums flute",
    },
    "heldout": {
        "locker number": 3,
        "badge number": 4,
        "pin": 4,
        "flight number": 3,
        "seat number": 2,
        "membership number": 5,
        "favourite fruit": "apple mango cherry banana grape",
        "hometown": "Berlin Paris Rome Lisbon Geneva Cairo",
        "day off": "Friday Saturday Sunday",
        "hobby": "chess tennis hiking painting fishing",
        "car": "Volvo Toyota Fiat Jaguar Honda",
    },
}
# Statements; what matters is in brackets.
_STATEMENTS: dict[_Part, tuple[str, ...]] = {
    "train": (
        "The [{thing}] of [{name}] is [{value}].",
        "[{name}]'s [{thing}] is [{value}].",
        "So, well, as far as I remember, the [{thing}] of [{name}] is actually [{value}], but never mind.",
        "For [{name}], the [{thing}] happens to be [{value}], more or less since last week.",
        "I think that [{value}] is the [{thing}] that belongs to [{name}], as everybody around here knows by now.",
        "You know, the [{thing}] that [{name}] gave us was [{value}], which was quite nice of them.",
        "And then, to be honest, [{name}] said something about the [{thing}], and it really is [{value}], you see.",
        "The [{thing}] is [{value}] in the case of [{name}], or so they keep telling everybody.",
        "Let us not forget that [{name}] has [{value}] as the [{thing}], whatever that may be good for.",
        "It says here, somewhere on this page, [{thing}] of [{name}]: [{value}].",
    ),
    "heldout": (
        "By the way, the [{thing}] of [{name}] is [{value}].",
        "In case anyone asks again, [{name}] has [{value}] for the [{thing}], as it turned out in the end.",
        "If I am not mistaken, [{value}] would be the [{thing}] of [{name}], give or take a few doubts.",
        "Oh, and [{name}] wrote down [{value}] as the [{thing}] once more, with a small smile.",
        "The list, which is rather long and a bit dusty, gives [{value}] as [{name}]'s [{thing}].",
        "One of us noted that the [{thing}] is still [{value}] when it comes to [{name}].",
    ),
}
_TALK: dict[_Part, tuple[str, ...]] = {
    "train": (
        "Well, it was one of those days on which nothing much happened at all.",
        "I mean, we had all been sitting there for quite a while, and nobody was in a hurry.",
        "The weather was not too bad, although it could certainly have been a little better.",
        "As I said before, there is really no need to worry about any of this right now.",
        "Somebody opened a window, and somebody else closed it again a moment later.",
        "It goes without saying that everybody was more or less happy with how things went.",
        "To cut a long story short, we talked about this and that until it got late.",
        "And so on and so forth, as these things usually go when people get together.",
        "{name} laughed for a while, and then we went on with what we had been doing.",
        "There was some coffee left, so a few of us had another cup before the meeting went on.",
        "Of course we will come back to this some other time, when there is more of it.",
        "It seemed to take {number} minutes or so, but who is counting, after all.",
        "At the end of the day it is what it is, and there is not much to be done about it.",
        "Somehow the conversation always comes back to the same old questions.",
        "Anyway, thank you all so much for being here today, it means a lot to us.",
        "Okay, let me see, where were we, and what was it that I wanted to say next?",
        "We waited near the door, as one does, and looked at the people who walked by.",
        "{name} and {other} nodded politely, the way they always do on such occasions.",
        "Things like that happen every now and then, and one gets used to them.",
        "It is hard to say whether that was a good idea, but it felt fine at the time.",
        "Everyone agreed, at least nobody said anything against it.",
        "There were about {number} chairs in the room, and most of them were empty.",
        "You may or may not have noticed it, which is perfectly all right.",
        "Later on there was a short break, as there usually is around that time of the day.",
    ),
    "heldout": (
        "Honestly, I could go on about this for hours, but I suppose I had better not.",
        "The afternoon passed slowly, as afternoons tend to do in places like this one.",
        "Now and again a phone rang somewhere in the building, and nobody picked it up.",
        "Nobody could quite say how it had begun, and it did not seem to matter anyway.",
        "{name} yawned, stretched a bit, and looked out at the street below.",
        "All in all it had been a pleasant enough evening, with plenty of small talk.",
        "We shall see about that, as my grandmother used to say whenever she was unsure.",
        "There is a time and a place for everything, and perhaps this was neither.",
        "Someone told a joke about a dog, and a couple of people smiled.",
        "For what it is worth, the tea was still warm after {number} minutes.",
        "Sooner or later the lights would go out, and then we would all have to leave.",
        "In other words, it was pretty much the same as the last time we met.",
        "{name} waved at {other} from the far end of the hall and sat down again.",
        "Whatever the reason may have been, they decided to carry on for a bit longer.",
        "It was getting a little cold, so a few of them put on their coats.",
        "That being said, there is hardly anything left to add at this point.",
    ),
}
_MARKED = re.compile(r"\[([^\]]*)\]")


def dataset(split: Split, count: int, seed: int = 0) -> Iterator[FactContext]:
    """So many contexts, each made of the seed and its number alone.

    Raises:
        ValueError: another split.
    """
    if split not in ("train", "names", "heldout"):
        raise ValueError(f"split must be 'train', 'names' or 'heldout', not {split!r}.")
    for index in range(count):
        yield _context(split, random.Random(f"{split} {seed} {index}"))


def _context(split: Split, rng: random.Random) -> FactContext:
    part: _Part = "heldout" if split == "heldout" else "train"
    names = _NAMES["train" if split == "train" else "heldout"].split()
    rng.shuffle(names)
    things = rng.sample(sorted(_THINGS[part]), rng.randint(2, 4))
    marked, questions, used = [], [], set()
    for name, thing in zip(names, things, strict=False):
        kind = _THINGS[part][thing]
        while True:
            value = (
                str(rng.randrange(10 ** (kind - 1), 10**kind)) if isinstance(kind, int) else rng.choice(kind.split())
            )
            if value not in used:
                break
        used.add(value)
        marked.append(rng.choice(_STATEMENTS[part]).format(thing=thing, name=name, value=value))
        questions.append(Question(f"What is the {thing} of {name}?", value))
    others = names[len(things) :]
    for talk in rng.sample(_TALK[part], rng.randint(5, 9)):
        name, other = rng.sample(others, 2)
        marked.insert(rng.randint(0, len(marked)), talk.format(name=name, other=other, number=rng.randrange(5, 100)))
    kept = [" ".join(_MARKED.findall(sentence)) + "." for sentence in marked if "[" in sentence]
    return FactContext(_MARKED.sub(r"\1", " ".join(marked)), " ".join(kept), tuple(questions))
