"""Which contexts compete for a text: all of them, each context's nearest, or near-duplicates that were given.

Sequence likelihoods differ by many nats as soon as a text holds one name of its source. Against contexts of other
subjects every term then reaches the ceiling, and the estimate tells no compressors apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from szilard.options import check_choice, check_number

MODES = ("none", "bm25", "given")
_SATURATION, _LENGTH = 1.5, 0.75  # k1 and b of BM25
_NEAREST = 15  # so that the ceiling is 4 bits


@dataclass(frozen=True)
class Competitors:
    """Under which texts the compressions of a context are scored.

    Attributes:
        pool: all texts that something is scored under; the contexts come first.
        columns: indices into the pool, int [contexts, competitors].
        own: for each context, which of its columns is itself, int [contexts].
    """

    pool: tuple[str, ...]
    columns: np.ndarray
    own: np.ndarray

    def rows(self, number: int) -> list[int]:
        """The contexts whose texts are scored under text `number` of the pool."""
        found: list[int] = np.flatnonzero((self.columns == number).any(1)).tolist()
        return found


def competitors(
    contexts: Sequence[str], mode: str = "none", negatives: int | Sequence[Sequence[str]] | None = None
) -> Competitors:
    """The competitors of every context.

    Args:
        contexts: the texts that are compressed, at least two.
        mode: "none": all contexts compete, as published. "bm25": each with its nearest ones (ours). "given": each with
            texts of its own, as the same record with changed facts (ours).
        negatives: for "bm25" how many (None: 15, or all there are); for "given" as many texts for each context.

    Raises:
        ValueError: fewer than two contexts, or negatives that do not go with the mode.
    """
    check_choice("hard_negatives", mode, MODES)
    count = len(contexts)
    if count < 2 and mode != "given":
        raise ValueError(f"information is measured between at least 2 contexts, not {count}: give more, or negatives.")
    everyone = np.arange(count)
    if mode == "none":
        if negatives is not None:
            raise ValueError("negatives go with hard_negatives='bm25' or 'given'.")
        return Competitors(tuple(contexts), np.tile(everyone, (count, 1)), everyone)
    if mode == "bm25":
        if negatives is None:
            negatives = min(_NEAREST, count - 1)
        check_number("negatives", negatives, low=1, high=count - 1, integer=True)
        assert isinstance(negatives, int)
        alike = bm25(contexts)
        np.fill_diagonal(alike, np.inf)  # itself comes first
        order = np.argsort(-alike, axis=1, kind="stable")
        return Competitors(tuple(contexts), order[:, : 1 + negatives], np.zeros(count, int))
    if isinstance(negatives, (int, str)) or negatives is None or len(negatives) != count:
        raise ValueError(f"hard_negatives='given' needs negatives: a list of texts for each of the {count} contexts.")
    sizes = {len(texts) for texts in negatives if not isinstance(texts, str)}
    if len(sizes) != 1 or 0 in sizes or any(isinstance(texts, str) for texts in negatives):
        raise ValueError("every context needs the same number of negatives, at least 1, in a list of its own.")
    pool = [*contexts, *(text for texts in negatives for text in texts)]
    if not all(isinstance(text, str) and text.strip() for text in pool):
        raise ValueError("a negative is empty or no text.")
    (width,) = sizes
    others = count + np.arange(count * width).reshape(count, width)
    return Competitors(tuple(pool), np.concatenate([everyone[:, None], others], axis=1), np.zeros(count, int))


def bm25(texts: Sequence[str]) -> np.ndarray:
    """How well each text answers another as a query, float64 [query, text]: Okapi BM25 (Robertson, Zaragoza 2009)."""
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    index = {word: number for number, word in enumerate(sorted({word for text in words for word in text}))}
    counts = np.zeros((len(texts), max(len(index), 1)))
    for row, text in enumerate(words):
        np.add.at(counts[row], [index[word] for word in text], 1)
    holding = (counts > 0).sum(0)
    rarity = np.log1p((len(texts) - holding + 0.5) / (holding + 0.5))
    length = counts.sum(1, keepdims=True)
    norm = _SATURATION * (1 - _LENGTH + _LENGTH * length / max(float(length.mean()), 1.0))
    weight = rarity * counts * (_SATURATION + 1) / (counts + norm)
    return counts @ weight.T
