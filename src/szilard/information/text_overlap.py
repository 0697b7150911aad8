"""How much of a text is copied? Spans of token ids that stand word for word in a set of sequences.

A suffix array (Manber and Myers 1993) of all sequences, made by doubling: exact, 16 bytes a token, and each question
costs a binary search. The sequences are kept apart, so that no span runs from one into the next.

    overlap(x)   = max over i of the longest span x_i .. x_(i+l-1) that stands in the set
    copy rate(x) = share of the n-grams of x that stand in the set
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

_APART = -1  # between sequences; no token id


class SpanIndex:
    """All spans of some sequences of token ids.

    Args:
        sequences: token ids, each [tokens].

    Raises:
        ValueError: negative ids, or nothing in them.
    """

    def __init__(self, sequences: Iterable[Sequence[int] | Tensor]) -> None:
        parts: list[np.ndarray] = []
        for sequence in sequences:
            row = np.asarray(sequence.cpu() if isinstance(sequence, Tensor) else sequence, dtype=np.int64)
            if row.ndim != 1 or (row < 0).any():
                raise ValueError("an index takes rows of token ids, whole numbers of at least 0.")
            parts += [row, np.array([_APART])]
        if not any(len(part) > 1 or (len(part) and part[0] >= 0) for part in parts):
            raise ValueError("there are no sequences to index.")
        self.tokens = np.concatenate(parts)  # [all]
        self.order = _suffix_array(self.tokens)  # [all]

    def match_lengths(self, ids: Sequence[int] | Tensor) -> list[int]:
        """Of each place of a text: tokens of the longest span that begins there and stands in the set; [n] -> [n]."""
        row = [int(token) for token in ids]
        return [self._longest(row[start:]) for start in range(len(row))]

    def _longest(self, wanted: list[int]) -> int:
        """The longest beginning of `wanted` in the set: it is shared with a neighbour in the suffixes' order."""
        size = len(wanted)

        def suffix(rank: int) -> list[int]:
            start = self.order[rank]
            return self.tokens[start : start + size].tolist()

        place = bisect_left(range(len(self.order)), wanted, key=suffix)
        near = [suffix(rank) for rank in (place - 1, place) if 0 <= rank < len(self.order)]
        return max(_shared(wanted, other) for other in near)


def longest_overlap(ids: Sequence[int] | Tensor, index: SpanIndex) -> int:
    """Tokens of the longest span of a text that stands in the set; the text's length for a copy, 0 for no token."""
    return max(index.match_lengths(ids), default=0)


def copy_rate(ids: Sequence[int] | Tensor, index: SpanIndex, n: int = 5) -> float:
    """Share of a text's n-grams that stand in the set, in [0, 1]; NaN for fewer than n tokens.

    Raises:
        ValueError: n below 1.
    """
    return rate_of_copies(index.match_lengths(ids), n)


def rate_of_copies(lengths: Sequence[int], n: int = 5) -> float:
    """`copy_rate` from match lengths that are known already."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n!r}.")
    starts = lengths[: len(lengths) - n + 1] if len(lengths) >= n else []
    return sum(length >= n for length in starts) / len(starts) if starts else float("nan")


def _suffix_array(tokens: np.ndarray) -> np.ndarray:
    """Where the suffixes begin, in their order; a suffix's rank doubles the tokens it looks at in every round."""
    _, rank = np.unique(tokens, return_inverse=True)
    size, width = len(tokens), 1
    while True:
        after = np.zeros(size, dtype=np.int64)  # rank of what follows; 0: nothing does
        after[: max(size - width, 0)] = rank[width:] + 1
        key = rank.astype(np.int64) * (size + 1) + after
        order = np.argsort(key, kind="stable")
        new = np.empty(size, dtype=np.int64)
        new[order] = np.concatenate([[0], np.cumsum(np.diff(key[order]) > 0)])
        rank = new
        if rank[order[-1]] == size - 1:
            return order
        width *= 2


def _shared(one: list[int], other: list[int]) -> int:
    """Length of the common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
