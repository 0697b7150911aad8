"""Which words of a chunk stay, as the released code of LLMLingua-2 decides it.

Pan et al. 2024, arXiv 2403.12968; microsoft/LLMLingua 0.2.2 (MIT), whose behaviour this follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szilard.compression.llmlingua2.released import ChunkWords, ForcedStrings

_PIECES = re.compile(r'\b\w+\b|[<>=/!@#$%^&*()?":{}|\\`~;_+-]')


def kept_words(
    chunk: ChunkWords, forced: ForcedStrings, reduce_rate: float, count: Callable[[str], int]
) -> NDArray[np.bool_]:
    """Which words of a chunk stay: above the weighted percentile of its probabilities.

    Args:
        reduce_rate: the share of tokens to drop, above 0.
        count: tokens of a word, as the tokenizer spells it.
    """
    probabilities, words = chunk.probabilities, chunk.words
    if not words:
        return np.zeros(0, dtype=bool)
    strings = set(forced.strings)
    if forced.once:
        probabilities = _repeats_at_zero(words, probabilities, strings, reduce_rate)
    weighted = np.repeat(probabilities, [count(word) for word in words])
    # Released code: a rate below 0.01 asks for the 101st percentile and raises; here: nothing is above the 100th.
    threshold = np.percentile(weighted, min(int(100 * reduce_rate + 1), 100))
    kept = (probabilities > threshold) | ((threshold == 1.0) & (probabilities == threshold))
    if forced.once:
        last = None
        for index in np.flatnonzero(kept).tolist():
            if words[index] in strings and words[index] == last:
                kept[index] = False
            else:
                last = words[index]
    return kept


def pieces(text: str) -> list[str]:
    """Words of a text that nothing was dropped from, as the released code labels them."""
    return _PIECES.findall(text)


def _repeats_at_zero(
    words: list[str], probabilities: NDArray[Any], strings: set[str], reduce_rate: float
) -> NDArray[Any]:
    """Probability 0 for a forced string that follows an equal one with nothing likely to stay between them."""
    threshold = np.percentile(probabilities, int(100 * reduce_rate))
    likely = (probabilities > threshold).tolist()
    zeros = []
    between, previous = False, None
    for index, word in enumerate(words):
        if word not in strings:
            between |= likely[index]
            continue
        if between:
            between = False
        elif word == previous:
            zeros.append(index)
        previous = word
    if not zeros:
        return probabilities
    probabilities = probabilities.astype(np.float64)
    probabilities[zeros] = 0.0
    return probabilities
