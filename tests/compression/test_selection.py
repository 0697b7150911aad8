"""Which words stay: every rule on scores and token counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.compression.selection import select, select_corpus, select_within

WORDS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(0, 5), st.booleans()),
    min_size=1,
    max_size=30,
)


def columns(words, forced: bool = True):
    scores, tokens, always = (np.array(column) for column in zip(*words, strict=True))
    return scores, tokens, always if forced else None


@given(WORDS, st.integers(0, 80), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_budget_holds_unless_forced_words_alone_exceed_it(words, budget, fill):
    scores, tokens, forced = columns(words)
    kept = select(scores, tokens, budget=budget, forced=forced, fill=fill)
    assert kept[forced].all()
    if tokens[forced].sum() >= budget:
        assert (kept == forced).all()
    else:
        assert tokens[kept].sum() <= budget


@given(WORDS, st.integers(0, 80), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_a_smaller_budget_keeps_a_subset(words, budget, less):
    scores, tokens, _ = columns(words)
    large = select(scores, tokens, budget=budget)
    small = select(scores, tokens, budget=budget - less)
    assert not (small & ~large).any()


@given(WORDS, st.integers(1, 80))
@settings(max_examples=200, deadline=None)
def test_budget_keeps_the_best_words_ties_by_position(words, budget):
    scores, tokens, _ = columns(words)
    kept = select(scores, tokens, budget=budget)
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    count = int(kept.sum())
    assert sorted(ranked[:count]) == np.flatnonzero(kept).tolist()
    if count < len(ranked):  # and the next one did not fit
        assert tokens[ranked[:count]].sum() + tokens[ranked[count]] > budget


@given(WORDS, st.integers(0, 80))
@settings(max_examples=200, deadline=None)
def test_filling_leaves_no_word_that_would_fit(words, budget):
    scores, tokens, _ = columns(words)
    kept = select(scores, tokens, budget=budget, fill=True)
    left = budget - tokens[kept].sum()
    assert left <= 0 or (tokens[~kept] > left).all()


@given(WORDS, st.sampled_from([0.1, 0.33, 0.5, 0.67, 0.9, 1.0]))
@settings(max_examples=200, deadline=None)
def test_percentile_is_numpys_on_scores_repeated_once_per_token(words, rate):
    scores, tokens, _ = columns(words)
    kept = select(scores, tokens, "percentile", rate=rate)
    if rate == 1.0:
        assert kept.all()
        return
    repeated = [score for score, count in zip(scores, tokens, strict=True) for _ in range(count)]
    if not repeated:
        assert not kept.any()
        return
    threshold = np.percentile(repeated, int(100 * max(0, 1 - rate) + 1))
    assert kept.tolist() == [score > threshold or (threshold == 1.0 and score == 1.0) for score in scores]


def test_percentile_drops_all_of_equal_scores_but_not_forced_ones():
    assert not select([0.5] * 4, [1] * 4, "percentile", rate=0.5).any()
    assert select([0.5] * 4, [1] * 4, "percentile", rate=0.1, forced=[0, 1, 1, 0]).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_a_third_of_the_text_is_what_lies_above_the_68th_percentile():
    scores = np.arange(100) / 100
    assert select(scores, np.ones(100), "percentile", rate=0.33).sum() == 32


def test_threshold_keeps_what_reaches_it():
    assert select([0.2, 0.5, 0.7], [1, 1, 1], "threshold", threshold=0.5, forced=[1, 0, 0]).all()
    assert select([0.2, 0.5, 0.7], [1, 1, 1], "threshold", threshold=0.51).tolist() == [False, False, True]


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(0, 120))
@settings(max_examples=100, deadline=None)
def test_a_corpus_shares_one_threshold_and_meets_its_budget(texts, budget):
    scores, tokens, _ = zip(*(columns(words) for words in texts), strict=True)
    kept = select_corpus(scores, tokens, budget)
    assert sum(int(t[k].sum()) for t, k in zip(tokens, kept, strict=True)) <= budget
    worst = min((s[k].min() for s, k in zip(scores, kept, strict=True) if k.any()), default=np.inf)
    best_dropped = max((s[~k].max() for s, k in zip(scores, kept, strict=True) if (~k).any()), default=-np.inf)
    assert best_dropped <= worst


@given(WORDS, st.integers(0, 80), st.integers(-2, 2), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_recounted_text_fits_whatever_the_sum_over_words_says(words, budget, drift, fill):
    scores, tokens, forced = columns(words)

    def count(mask):
        return max(int(tokens[mask].sum()) + drift * int((mask[1:] & ~mask[:-1]).sum()), 0)

    kept = select_within(scores, tokens, budget, count, forced=forced, fill=fill)
    assert kept[forced].all()
    assert count(kept) <= budget or (kept == forced).all()


def test_a_recounted_text_uses_what_the_sum_over_words_left_over():
    scores, tokens = np.linspace(1, 0, 20), np.full(20, 2)
    kept = select_within(scores, tokens, 10, lambda mask: int(mask.sum()))  # each word turns out to cost one token
    assert kept.sum() == 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"scores": [0.1, np.nan], "tokens": [1, 1], "budget": 1}, "NaN"),
        ({"scores": [0.1], "tokens": [1, 1], "budget": 1}, "one entry per word"),
        ({"scores": [0.1], "tokens": [-1], "budget": 1}, "at least 0"),
        ({"scores": [0.1], "tokens": [1]}, "needs budget"),
        ({"scores": [0.1], "tokens": [1], "mode": "threshold"}, "needs threshold"),
        ({"scores": [0.1], "tokens": [1], "mode": "best", "budget": 1}, "must be one of"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        select(**arguments)
