"""The text of kept words, cut out of the original, so that spelling and white space stay what they were.

Neighbours that both stay keep whatever stood between them; with all words kept, the result is the original, character
for character. Where words between two kept ones are dropped, one of the stretches of white space there stays: the one
with the most line breaks, and without any, the one before the next kept word. Words that stood apart, or had something
between them, never grow together; scripts that write without spaces get none. Source: ours.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from szilard.compression.words import MARKS, UNSPACED

_UNSPACED = re.compile(f"[{UNSPACED}]")
_LETTER = re.compile(rf"[^\W_]|[{MARKS}]")  # of a word, a mark above or below a letter included
_LINE_BREAK = re.compile("\n")


def rebuild(original: str, spans: Any, kept: Any) -> str:
    """The text that is left; see `Rebuilder`."""
    return Rebuilder(original, spans)(kept)


class Rebuilder:
    """Puts one text together from whichever of its words.

    Args:
        original: the text.
        spans: [words, 2], characters (start, end) of each word, in order and without overlap; between them stands white
            space, or nothing.
    """

    def __init__(self, original: str, spans: Any) -> None:
        self.original = original
        places = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
        self.starts, self.ends = places[:, 0].tolist(), places[:, 1].tolist()
        breaks = np.array([match.start() for match in _LINE_BREAK.finditer(original)], dtype=np.int64)
        # Line breaks between each word and the one before it; the first has none before it.
        self.breaks, self.gaps = np.zeros((2, len(places)), dtype=np.int64)
        self.breaks[1:] = np.searchsorted(breaks, places[1:, 0]) - np.searchsorted(breaks, places[:-1, 1])
        self.gaps[1:] = places[1:, 0] - places[:-1, 1]

    def __call__(self, kept: Any) -> str:
        """The kept words (bool [words]). White space before the first and after the last word stays with that word.

        Raises:
            ValueError: not one entry per word.
        """
        mask = np.asarray(kept, dtype=bool)
        if mask.shape != (len(self.starts),):
            raise ValueError(f"kept has one entry per word, {len(self.starts)}, not shape {list(mask.shape)}.")
        if mask.all():
            return self.original if len(mask) else ""
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
        firsts, behind = edges[::2], edges[1::2]  # [first, behind) of words that stay side by side
        if not len(firsts):
            return ""
        # Of most stretches of white space between two runs, the one before the next run stays: it is cut out with it.
        lines = np.cumsum(self.breaks)[firsts[1:]] - np.cumsum(self.breaks)[behind[:-1] - 1]
        simple = [False, *((lines == 0) & (self.gaps[firsts[1:]] > 0)).tolist()]
        original, last = self.original, 0
        pieces: list[str] = []
        for first, stop, plain in zip(firsts.tolist(), behind.tolist(), simple, strict=True):
            start = self.ends[first - 1] if plain else self.starts[first]
            if not first:
                start = 0
            elif pieces and not plain:
                pieces.append(self._between(last, first))
            pieces.append(original[start : self.ends[stop - 1] if stop < len(mask) else len(original)])
            last = stop - 1
        return "".join(pieces)

    def _between(self, last: int, first: int) -> str:
        """What stands between two words when all between them are dropped."""
        original = self.original
        gaps = [original[self.ends[index - 1] : self.starts[index]] for index in range(last + 1, first + 1)]
        lines = self.breaks[last + 1 : first + 1].tolist()
        if most := max(lines):
            return next(gap for gap, breaks in zip(reversed(gaps), reversed(lines), strict=True) if breaks == most)
        if gaps[-1]:
            return gaps[-1]
        before, after = original[self.ends[last] - 1], original[self.starts[first]]
        if not (_LETTER.match(before) and _LETTER.match(after)) or (_UNSPACED.match(before) and _UNSPACED.match(after)):
            return ""
        return next(filter(None, reversed(gaps)), " ")
