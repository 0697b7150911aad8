"""Spans of a text that stand word for word in a set of sequences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szilard.information import SpanIndex, copy_rate, longest_overlap

ROW = st.lists(st.integers(0, 3), max_size=14)


def holds(sequences: list[list[int]], span: list[int]) -> bool:
    return any(
        sequence[at : at + len(span)] == span for sequence in sequences for at in range(len(sequence) - len(span) + 1)
    )


@given(st.lists(ROW, min_size=1, max_size=5), ROW, st.integers(1, 4))
def test_matches_are_those_of_a_plain_search(sequences, ids, n) -> None:
    if not any(sequences):
        return
    index = SpanIndex(sequences)
    expected = [
        max(
            (size for size in range(len(ids) - at + 1) if size == 0 or holds(sequences, ids[at : at + size])), default=0
        )
        for at in range(len(ids))
    ]
    assert index.match_lengths(ids) == expected
    assert longest_overlap(ids, index) == max(expected, default=0)
    grams = [ids[at : at + n] for at in range(len(ids) - n + 1)]
    if grams:
        assert copy_rate(ids, index, n) == sum(holds(sequences, gram) for gram in grams) / len(grams)
    else:
        assert math.isnan(copy_rate(ids, index, n))


def test_the_overlap_of_a_copied_text_is_its_length() -> None:
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(0, 50, (20, 64), generator=generator)
    index = SpanIndex(sequences)
    for row in (0, 7, 19):
        assert longest_overlap(sequences[row], index) == 64
        assert longest_overlap(sequences[row, 10:31], index) == 21
        assert copy_rate(sequences[row], index) == 1.0


def test_no_span_runs_from_one_sequence_into_the_next() -> None:
    index = SpanIndex([[1, 2, 3], [4, 5, 6]])
    assert longest_overlap([2, 3, 4, 5], index) == 2
    assert longest_overlap([9, 9], index) == 0
    assert longest_overlap([], index) == 0


def test_bad_sequences_are_told_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="no sequences"):
        SpanIndex([])
    with pytest.raises(ValueError, match="at least 0"):
        SpanIndex([[1, -1]])
    with pytest.raises(ValueError, match="n must be at least 1"):
        copy_rate([1], SpanIndex([[1]]), 0)
