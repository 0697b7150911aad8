"""Near-duplicate ward notes with changed facts: contexts whose information is known, and questions with known answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# slot: (sentence, values, question)
SLOTS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "ward": ("The patient is on the {} ward.", ("north", "south", "east", "west"), "Which ward is the patient on?"),
    "drug": (
        "Treatment was started with {}.",
        ("ramipril", "metformin", "warfarin", "digoxin"),
        "Which drug was treatment started with?",
    ),
    "dose": ("The daily dose is {} mg.", ("5", "20", "50", "80"), "How many mg is the daily dose?"),
    "allergy": (
        "An allergy to {} is on record.",
        ("latex", "penicillin", "peanuts", "iodine"),
        "Which allergy is on record?",
    ),
    "nurse": (
        "The nurse in charge is {}.",
        ("Keller", "Okafor", "Lindgren", "Moreau"),
        "What is the name of the nurse in charge?",
    ),
    "scan": ("A scan of the {} was ordered.", ("chest", "liver", "knee", "skull"), "What is to be scanned?"),
    "day": (
        "Discharge is planned for {}.",
        ("Monday", "Tuesday", "Thursday", "Saturday"),
        "For which day is the discharge planned?",
    ),
    "diet": (
        "The kitchen sends a {} diet.",
        ("vegetarian", "soft", "liquid", "salty"),
        "Which diet does the kitchen send?",
    ),
}
OPENING = "Note of the morning round. The night was quiet and the patient slept well."
CLOSING = "The family was told, and the next round is in the evening."
BOILERPLATE = "This note follows the usual form of the house and is kept in the usual place."
Record = dict[str, str]


@dataclass(frozen=True)
class Kept:
    """What a controlled compressor kept of each record: texts, and how many of the slots that differ, on average."""

    texts: list[str]
    kept: float


def text_of(record: Record) -> str:
    """The whole note."""
    return " ".join([OPENING, *(SLOTS[slot][0].format(value) for slot, value in record.items()), CLOSING])


def every_combination(varying: Sequence[str]) -> list[Record]:
    """Records in which some slots have one of two values each, in all combinations; the other slots are alike.

    A text that keeps each varying slot with probability 1 - delta and shows which it kept is an erasure channel:
    I(X;Z) = (1 - delta) x (number of these slots) bits, exactly.
    """
    return [
        {
            slot: values[(number >> varying.index(slot)) & 1 if slot in varying else 0]
            for slot, (_, values, _) in SLOTS.items()
        }
        for number in range(2 ** len(varying))
    ]


def keep_slots(
    records: Sequence[Record],
    slots: Sequence[str],
    delta: float,
    *,
    always: Sequence[str] = (),
    boilerplate: int = 0,
    seed: int = 0,
) -> Kept:
    """A compressor that keeps each of `slots` with probability 1 - delta, `always` some others, and adds boilerplate."""
    chance = random.Random(f"{seed}/{delta}")
    texts, total = [], 0
    for record in records:
        kept = [slot for slot in slots if chance.random() >= delta]
        total += len(kept)
        sentences = [SLOTS[slot][0].format(record[slot]) for slot in record if slot in kept or slot in always]
        texts.append(" ".join([*sentences, *[BOILERPLATE] * boilerplate]))
    return Kept(texts, total / len(records))


def questions(records: Sequence[Record], slots: Sequence[str]) -> list[list[tuple[str, str]]]:
    """What stands in these slots of every record: questions with their answers."""
    return [[(SLOTS[slot][2], record[slot]) for slot in slots] for record in records]
