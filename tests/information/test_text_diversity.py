"""How varied texts are: type-token ratio, repeated n-grams, loops, BLEU."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szilard.information import (
    dataset_bleu,
    distinct_n,
    ends_in_loop,
    loop_rate,
    repeated_ngram_rate,
    self_bleu,
    type_token_ratio,
)

IDS = st.lists(st.integers(0, 9), min_size=1, max_size=60)


def test_the_type_token_ratio_counts_different_tokens() -> None:
    assert type_token_ratio([1, 2, 3, 1]) == 0.75
    for n in (1, 2, 7, 96):
        assert type_token_ratio([5] * n) == pytest.approx(1 / n)
    assert type_token_ratio(torch.tensor([4, 4, 9])) == pytest.approx(2 / 3)
    assert math.isnan(type_token_ratio([]))


def test_the_window_looks_at_the_last_tokens() -> None:
    assert type_token_ratio([7] * 50 + [1, 2, 3, 4], window=4) == 1.0
    assert type_token_ratio([1, 2, 3, 4] + [7] * 50, window=4) == 0.25
    assert type_token_ratio([*range(200)] + [3] * 96) == pytest.approx(1 / 96)
    assert type_token_ratio([1, 2, 3, 1], window=None) == 0.75


@given(IDS, st.integers(1, 4))
def test_distinct_and_repeated_grams_add_up_and_agree_with_a_set(ids, n) -> None:
    grams = [tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)]
    if not grams:
        assert math.isnan(distinct_n(ids, n)) and math.isnan(repeated_ngram_rate(ids, n))
        return
    assert distinct_n(ids, n) == len(set(grams)) / len(grams)
    assert repeated_ngram_rate(ids, n) == pytest.approx(1 - distinct_n(ids, n))


@given(IDS, st.integers(2, 4), st.integers(1, 15))
def test_loops_are_those_of_a_plain_search(ids, repeats, least) -> None:
    def periodic(period: int) -> bool:
        stretch = max(repeats * period, least)
        tail = ids[-stretch:]
        return len(tail) == stretch and all(tail[at] == tail[at - period] for at in range(period, stretch))

    expected = any(periodic(period) for period in range(1, len(ids) // repeats + 1))
    assert ends_in_loop(ids, repeats=repeats, least=least) == expected


def test_a_text_that_says_the_same_again_ends_in_a_loop_and_three_dots_do_not() -> None:
    varied = [*range(40)]
    assert ends_in_loop(varied + [1, 2, 3, 4] * 3)
    assert not ends_in_loop(varied + [1, 2, 3, 4] * 2)
    assert not ends_in_loop([*varied, 5, 5, 5])
    assert not ends_in_loop(varied + [1, 2, 3, 4] * 3 + [77])
    assert loop_rate([varied, [1] * 20]) == 0.5
    assert math.isnan(loop_rate([]))


def test_self_bleu_is_one_for_equal_texts_and_low_for_different_ones() -> None:
    same = [[1, 2, 3, 4, 5, 6]] * 3
    assert self_bleu(same) == pytest.approx(1.0)
    assert self_bleu(["a cat sat on the mat"] * 2) == pytest.approx(1.0)
    different = [[*range(at, at + 6)] for at in (10, 20, 30)]
    assert self_bleu(different) < 0.1
    assert self_bleu([same[0], same[0], different[0]]) < self_bleu(same)
    assert math.isnan(self_bleu([[1, 2]]))


def test_dataset_bleu_finds_the_text_that_was_copied() -> None:
    references = [[*range(10, 20)], [*range(40, 50)]]
    (copied, half), (other, _) = dataset_bleu([[*range(40, 50)], [*range(80, 90)]], references)
    assert copied == pytest.approx(1.0) and half == pytest.approx(0.5, abs=0.05)
    assert other < 0.1


def test_bad_input_is_told_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="window must be at least 1"):
        type_token_ratio([1], window=0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        distinct_n([1], 0)
    with pytest.raises(ValueError, match="no loop"):
        ends_in_loop([1, 1], repeats=1)
    with pytest.raises(ValueError, match="at least one reference"):
        dataset_bleu([[1]], [])
    with pytest.raises(TypeError, match="strings with strings"):
        self_bleu(["a", [1]])
    with pytest.raises(ValueError, match="one row"):
        type_token_ratio(torch.zeros(2, 3, dtype=torch.int64))
