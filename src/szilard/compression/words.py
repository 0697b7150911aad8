"""Words of a text as stretches of characters, what must stay among them, and what must not be cut in half."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Spans = NDArray[np.int64]  # [words, 2]: start, end
Keep = Sequence["str | re.Pattern[str]"]

# Chinese, Japanese, Thai, Lao, Burmese, Khmer: words follow each other without a space.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Accents, vowel signs and the like, which \w lacks: Hindi words, and letters with a loose accent, would be cut by them.
_BLOCKS = ((0x300, 0x3100), (0xA600, 0xAC00), (0xFB00, 0xFF00))  # of the basic plane, where there are any
MARKS = "".join(
    one for block in _BLOCKS for one in map(chr, range(*block)) if unicodedata.category(one).startswith("M")
)
_INSIDE = rf"[{MARKS}\u200c\u200d]"  # and the joiners
_LETTERS = rf"[^\W{UNSPACED}]+(?:{_INSIDE}+[^\W{UNSPACED}]*)*"
_TINTED = rf"[{MARKS}\U0001f3fb-\U0001f3ff]*"
# A number with its decimals (and letters: 3rd, 1990s) or a word with its apostrophes is one word; so is each sign (with
# what is joined to it, as in a family of faces), and each letter of a script without spaces.
_WHOLE = rf"{_LETTERS}(?:['\u2019]{_LETTERS})*"
_WORD = re.compile(
    rf"[{UNSPACED}]{_INSIDE}*|\d+(?:[.,:]\d+)*(?:{_WHOLE})?|{_WHOLE}"
    rf"|[^\w\s]{_TINTED}(?:\u200d[^\w\s]{_TINTED})*"
)
DIGIT = re.compile(r"\d")


def regex_words(text: str) -> Spans:
    """Words and signs of a text by their form alone, int64 [words, 2]; together they cover all but white space."""
    return as_spans([match.span() for match in _WORD.finditer(text)])


def as_spans(pairs: Sequence[Any]) -> Spans:
    """(start, end) pairs as int64 [words, 2]."""
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2)


def check_keep(keep: Any) -> tuple[str | re.Pattern[str], ...]:
    """What must stay as a tuple: one string or pattern, a list of them, or a JSON list of strings (a command line's).

    Raises:
        TypeError, ValueError: in a sentence.
    """
    if isinstance(keep, str) and keep.startswith("["):
        try:
            keep = json.loads(keep)
        except json.JSONDecodeError:
            keep = (keep,)
    if isinstance(keep, (str, re.Pattern)):
        keep = (keep,)
    if not isinstance(keep, (list, tuple, set, frozenset)) or not all(
        isinstance(one, str) or (isinstance(one, re.Pattern) and isinstance(one.pattern, str)) for one in keep
    ):
        raise TypeError(f"keep must be strings and compiled patterns in a list, not {keep!r}.")
    if any(one == "" for one in keep):
        raise ValueError("keep has an empty string, which is nowhere and everywhere: leave it out.")
    return tuple(sorted(keep)) if isinstance(keep, (set, frozenset)) else tuple(keep)  # type: ignore[type-var]


def kept_places(text: str, keep: Keep) -> Spans:
    """Where the strings and patterns of `keep` are, int64 [places, 2], in order.

    A string that begins or ends with a letter or digit counts only where a word begins or ends: "is" is not in "this".
    """
    found: set[tuple[int, int]] = set()
    for one in keep:
        pattern = _literal(one) if isinstance(one, str) else one
        found.update(match.span() for match in pattern.finditer(text) if match.end() > match.start())
    return as_spans(sorted(found))


def with_white_space(text: str, spans: Spans, places: Spans) -> Spans:
    """Words, and among them the kept stretches of white space, which are words of their own where they are kept."""
    blank = [(start, end) for start, end in places.tolist() if text[start:end].isspace()]
    if not blank:
        return spans
    return merged(np.concatenate([spans, as_spans(blank)]))


def merged(spans: Spans) -> Spans:
    """Spans in order, those that overlap joined."""
    if len(spans) < 2:
        return spans
    spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.flatnonzero(np.concatenate([[True], spans[1:, 0] >= reach[:-1]]))
    return np.stack([spans[first, 0], np.maximum.reduceat(spans[:, 1], first)], axis=1)


def overlapping(spans: Spans, places: Spans) -> NDArray[np.bool_]:
    """Which words share a character with one of the places, bool [words]."""
    if not len(places) or not len(spans):
        return np.zeros(len(spans), dtype=bool)
    joined = merged(places)
    after = np.searchsorted(
        joined[:, 1], spans[:, 0], side="right"
    )  # the first place that ends behind the word's start
    begins = np.append(joined[:, 0], np.iinfo(np.int64).max)[after]
    return begins < spans[:, 1]


def owners(spans: Spans, places: Spans) -> NDArray[np.int64]:
    """For each place (of a token), the word that it belongs to, int64 [places]: where most of it begins, or the next.

    A token that is nothing but white space belongs to the word behind it, and to the last one at the end of the text.
    """
    return np.minimum(np.searchsorted(spans[:, 1], places[:, 0], side="right"), max(len(spans) - 1, 0))


def solid_places(text: str, places: Spans) -> Spans:
    """Places of tokens from their first character that is no white space: many tokenizers count the space to the word.

    Tokens of nothing but white space become their last character.
    """
    blank = np.fromiter(map(str.isspace, text), dtype=bool, count=len(text))
    solid = np.append(np.flatnonzero(~blank), len(text))
    starts = np.minimum(solid[np.searchsorted(solid, places[:, 0])], np.maximum(places[:, 1] - 1, places[:, 0]))
    return np.stack([starts, places[:, 1]], axis=1)


def _literal(text: str) -> re.Pattern[str]:
    before = r"(?<!\w)" if text[0].isalnum() else ""
    after = r"(?!\w)" if text[-1].isalnum() else ""
    return re.compile(before + re.escape(text) + after)
