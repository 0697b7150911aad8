"""Long texts in pieces that fit the classifier, and tokens' probabilities as words'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szilard.compression.words import Spans, kept_places


def chunk_bounds(text: str, places: Spans, words: Spans, ends: Sequence[str], size: int) -> list[tuple[int, int]]:
    """Where a text's tokens are cut: behind the last of `ends` that fits, else between words, else anywhere.

    Args:
        places: int64 [tokens, 2], characters of each token.
        words: int64 [words, 2]; an end inside of one is none ("." in "3.5").
        ends: strings that end a chunk; white space may be one.
        size: tokens of a chunk, at most.

    Returns:
        [first, last) tokens of each chunk.
    """
    count = len(places)
    if count <= size:
        return [(0, count)] if count else []
    starts_of_words = np.searchsorted(places[:, 0], words[:, 0])  # the token with which each word begins
    found = kept_places(text, ends)[:, 1]
    inside = np.searchsorted(words[:, 1], found, side="right")  # the word that an end could be in
    begins = np.append(words[:, 0], np.iinfo(np.int64).max)[inside]
    found = found[begins >= found]
    stops = np.unique(np.searchsorted(places[:, 1], found, side="right"))  # tokens up to each end
    bounds = []
    first = 0
    while count - first > size:
        last = _last_until(stops, first, first + size) or _last_until(starts_of_words, first, first + size)
        bounds.append((first, last or first + size))
        first = bounds[-1][1]
    return [*bounds, (first, count)]


def word_scores(spans: Spans, places: Spans, probabilities: NDArray[Any], how: str = "mean") -> NDArray[np.float64]:
    """What the tokens of each word say of it together.

    A token that reaches over several words counts for each; a word without tokens (one that the tokenizer dropped, or
    white space) scores 0.

    Args:
        spans: int64 [words, 2].
        places: int64 [tokens, 2].
        probabilities: [tokens].
        how: "mean" of the tokens, or that of the "first".

    Returns:
        float64 [words].
    """
    scores = np.zeros(len(spans))
    if not len(spans) or not len(places):
        return scores
    first = np.searchsorted(spans[:, 1], places[:, 0], side="right")
    behind = np.searchsorted(spans[:, 0], places[:, 1], side="left")
    counts = np.maximum(behind - first, 0)  # words under each token
    tokens = np.repeat(np.arange(len(places)), counts)
    words = first[tokens] + np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
    if how == "first":
        named, earliest = np.unique(words, return_index=True)
        scores[named] = probabilities[tokens[earliest]]
        return scores
    totals = np.bincount(words, weights=probabilities[tokens], minlength=len(spans))
    return np.divide(totals, np.bincount(words, minlength=len(spans)), out=scores, where=totals > 0)


def _last_until(cuts: NDArray[np.int64], first: int, last: int) -> int:
    """The last cut in (first, last], or 0."""
    index = int(np.searchsorted(cuts, last, side="right")) - 1
    return int(cuts[index]) if index >= 0 and cuts[index] > first else 0
