"""The text of kept words, cut out of the original, so that spelling and white space stay what they were.

Neighbours that both stay keep whatever stood between them; with all words kept, the result is the original, character
for character. Where words between two kept ones are dropped, one of the stretches of white space there stays: the one
with the most line breaks, and without any, the one before the next kept word. Words that stood apart, or had something
between them, never grow together; scripts that write without spaces get none. Source: ours.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np

# Chinese, Japanese, Thai, Lao, Burmese, Khmer: words follow each other without a space.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def rebuild(original: str, spans: Any, kept: Any) -> str:
    """The text that is left.

    Args:
        original: the text.
        spans: [words, 2], characters (start, end) of each word, in order and without overlap.
        kept: bool [words].

    Returns:
        The kept words. White space before the first and after the last word stays where that word stays.
    """
    places = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    mask = np.asarray(kept, dtype=bool)
    if mask.shape != (len(places),):
        raise ValueError(f"kept has one entry per word, {len(places)}, not shape {list(mask.shape)}.")
    if mask.all():
        return original if len(mask) else ""
    padded = np.concatenate([[False], mask, [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
    runs = list(zip(edges[::2], edges[1::2], strict=True))  # [first, last) of words that stay side by side
    bounds = places.tolist()
    pieces: list[str] = []
    for number, (first, last) in enumerate(runs):
        if number:
            pieces.append(separator(original, bounds[runs[number - 1][1] - 1 : first + 1]))
        start = 0 if first == 0 else bounds[first][0]
        end = len(original) if last == len(mask) else bounds[last - 1][1]
        pieces.append(original[start:end])
    return "".join(pieces)


def separator(original: str, spans: list[list[int]]) -> str:
    """What stands between the first and the last of some words when all between them are dropped."""
    gaps = ["".join(filter(str.isspace, original[a[1] : b[0]])) for a, b in pairwise(spans)]
    lines = [gap.count("\n") for gap in gaps]
    if most := max(lines):
        return next(gap for gap, breaks in zip(reversed(gaps), reversed(lines), strict=True) if breaks == most)
    if gaps[-1]:
        return gaps[-1]
    before, after = original[spans[0][1] - 1], original[spans[-1][0]]
    if not (before.isalnum() and after.isalnum()) or (_UNSPACED.match(before) and _UNSPACED.match(after)):
        return ""
    return next(filter(None, reversed(gaps)), " ")
