"""Which words of a text did a teacher keep? Labels for LLMLingua-2's classifier from (original, compressed) pairs.

Pan, Wu, Jiang et al. 2024, "LLMLingua-2: Data Distillation for Efficient and Faithful Task-Agnostic Prompt
Compression", Findings of ACL, arXiv 2403.12968, algorithm 1. Reference code: microsoft/LLMLingua (MIT).

A teacher is asked to drop words only, but it also bends, reorders and repeats them. So each compressed word w, in
order, labels the nearest original word of the same lemma that has no label yet, at most W - 1 words away from where the
last one was found; at equal distance the later one:

    prev = 0
    for w in compressed:
        k = the unlabelled place with O[k] = w that is nearest to prev, |k - prev| < W, right before left
        labels[k] = True
        prev = k, or prev + W/2 where k is further to the right than that

Lemmas are compared in lower case, commas count for nothing.

# Paper: lemmas are spaCy's; here: `stem`, a rule for English endings that needs no download, or any function, such as
# `spacy_lemmas`. Both sides go through the same one, so that it need not give dictionary forms.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from szilard.compression.words import Spans, as_spans, overlapping, regex_words

Lemmas = Callable[[Sequence[str]], list[str]]

WINDOW = 400  # of the released recipe
_UNDOUBLED = set("bdgmnprt")


@dataclass(frozen=True)
class Annotation:
    """A pair, aligned.

    Attributes:
        original: the teacher's text before.
        spans: characters (start, end) of its words; commas are not among them.
        labels: whether each was kept.
        compressed_words: words of the text after.
        found: how many of those are, as lemmas, anywhere in the original.
    """

    original: str
    spans: tuple[tuple[int, int], ...]
    labels: tuple[bool, ...]
    compressed_words: int
    found: int

    @property
    def kept(self) -> int:
        """Words with the label True."""
        return sum(self.labels)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Characters (start, end) of the words, numbers and punctuation marks of a text, without its commas."""
    return [(start, end) for start, end in regex_words(text).tolist() if text[start:end] != ","]


def annotate_pairs(
    pairs: Sequence[tuple[str, str]], *, window: int = WINDOW, lemmas: Lemmas | None = None
) -> list[Annotation]:
    """Label the words of originals by what is left of them.

    Args:
        pairs: (original, compressed).
        window: W, in words.
        lemmas: words in lower case -> lemmas, as many; None: `stem` of each.

    Raises:
        ValueError: an original without words, or a window below 1.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window must be a whole number of words of at least 1, not {window!r}.")
    found = []
    for number, (original, compressed) in enumerate(pairs, start=1):
        spans = word_spans(original)
        if not spans:
            raise ValueError(f"the original of pair {number} has no words: leave it out.")
        before = _lemmas([original[start:end] for start, end in spans], lemmas)
        after = _lemmas([compressed[start:end] for start, end in word_spans(compressed)], lemmas)
        known = set(before)
        labels = align(before, after, window=window)
        hits = sum(word in known for word in after)
        found.append(Annotation(original, tuple(spans), tuple(labels), len(after), hits))
    return found


def align(original: Sequence[str], compressed: Sequence[str], *, window: int = WINDOW) -> list[bool]:
    """Algorithm 1 on words: which of the original's the compressed text's stand for."""
    places: dict[str, list[int]] = {}  # unlabelled, in order
    for place, word in enumerate(original):
        places.setdefault(word, []).append(place)
    labels = [False] * len(original)
    previous, half = 0, window // 2
    for word in compressed:
        free = places.get(word)
        if not free:
            continue
        right = bisect_left(free, previous)
        choices = [index for index in (right, right - 1) if 0 <= index < len(free)]  # right goes first at a tie
        nearest = min(choices, key=lambda index: abs(free[index] - previous))
        if abs(free[nearest] - previous) >= window:
            continue
        place = free.pop(nearest)
        labels[place] = True
        previous = min(place, previous + half) if place > previous else place
    return labels


def token_labels(annotation: Annotation, places: Spans) -> NDArray[np.int64]:
    """The label of each token: that of the word it is a part of.

    Args:
        annotation: of the text.
        places: characters (start, end) of its tokens, int64 [tokens, 2].

    Returns:
        int64 [tokens]: 1 (keep) or 0. A token in no word (a comma) has 0: what teachers do with commas is not known.
    """
    kept = as_spans(annotation.spans)[np.asarray(annotation.labels, dtype=bool)]
    return overlapping(places, kept).astype(np.int64)


def stem(word: str) -> str:
    """An English word in lower case without its ending: plural, -ed, -ing, -ly, possessive.

    Written for comparison, not for reading: "makes" and "making" give "mak", "cities" and "city" give "city". A short
    word and one with a digit stay.
    """
    word = word.replace("’", "'")
    if word.endswith("'s"):
        word = word[:-2]
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending, least in (("ing", 6), ("ed", 5), ("ly", 6), ("es", 5), ("s", 4), ("e", 4)):
        if not word.endswith(ending) or len(word) < least:
            continue
        if ending == "s" and word[-2] in "siu":
            break
        rest = word[: -len(ending)]
        if ending in ("ing", "ed") and not re.search("[aeiouy]", rest):
            break  # "string"
        if ending in ("ing", "ed") and len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] in _UNDOUBLED:
            return rest[:-1]  # "planned"
        return rest[:-1] if rest.endswith("e") and len(rest) > 3 else rest
    return word


def spacy_lemmas(pipeline: str = "en_core_web_sm") -> Lemmas:
    """Lemmas of a spaCy pipeline, as the paper's.

    Raises:
        ValueError: spaCy, or the pipeline, is not installed.
    """
    try:
        import spacy

        loaded = spacy.load(pipeline, exclude=["parser", "ner"])
    except (ImportError, OSError) as error:
        raise ValueError(
            f"lemmas={pipeline!r} needs spaCy with this pipeline (pip install spacy; python -m spacy download "
            f"{pipeline}); 'stem' needs neither."
        ) from error

    def lemmas(words: Sequence[str]) -> list[str]:
        document = spacy.tokens.Doc(loaded.vocab, words=list(words))
        for _, step in loaded.pipeline:
            document = step(document)
        return [token.lemma_.lower() for token in document]

    return lemmas


def lemmas_by_name(name: str) -> Lemmas | None:
    """The lemmas of "stem" or the name of a spaCy pipeline, for `annotate_pairs`."""
    return None if name == "stem" else spacy_lemmas(name)


_stem = lru_cache(maxsize=1 << 16)(stem)


def _lemmas(words: Sequence[str], lemmas: Lemmas | None) -> list[str]:
    lower = [word.lower() for word in words]
    return [_stem(word) for word in lower] if lemmas is None else (lemmas(lower) if lower else [])
