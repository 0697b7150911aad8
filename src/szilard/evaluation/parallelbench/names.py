"""The people who wait in line: every first name with every last name. Written for this library."""

from __future__ import annotations

from collections.abc import Sequence

FIRST_NAMES = tuple(
    "Ada Amos Anya Bela Boris Carla Cedric Chloe Dario Dora Edith Elias Emil Fatima Felix Greta Hana Hugo Ines Ivan "
    "Jasper Joan Kamal Kira Leo Lena Marco Mina Nadia Noel Olga Oscar Petra Quinn Rosa Samir Tilda Ugo Vera "
    "Yusuf".split()
)
LAST_NAMES = tuple(
    "Abbott Almeida Barnes Becker Castle Chen Dalton Duarte Eklund Evans Farkas Fischer Grant Gupta Hansen Holt Ito "
    "Jensen Kaplan Keller Lambert Lind Mendez Moreau Nagy Novak Okafor Olsen Park Pereira Quist Ramos Rossi Sato "
    "Silva Tanaka Underhill Varga Weber Young".split()
)
NAMES = tuple(f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES)


def check_pool(words: Sequence[str] | None, needed: int) -> tuple[str, ...]:
    """The items to draw from; None: `NAMES`.

    Raises:
        ValueError: too few, repeated or blank ones, or signs in them that a written list is cut at.
        TypeError: not a collection of texts.
    """
    if words is None:
        return NAMES
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"words must be a list of texts, not {words!r}.")
    pool = tuple(words)
    if len(set(pool)) < len(pool):
        raise ValueError("words holds a word twice; the items of a list must be distinct.")
    wrong = [word for word in pool if not word.strip() or word != word.strip() or set(word) & set(",\"'[]\n")]
    if wrong:
        raise ValueError(f"words holds {wrong[0]!r}: an item has no commas, quotes, brackets or blanks around it.")
    if len(pool) < needed:
        raise ValueError(f"{needed} different words are needed, and words holds {len(pool)}: give more or a smaller n.")
    return pool
