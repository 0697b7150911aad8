"""Aligning compressed texts with their originals, and leaving the worst pairs out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.compression.llmlingua2.annotation import (
    Annotation,
    align,
    annotate_pairs,
    stem,
    token_labels,
    word_spans,
)
from szilard.compression.llmlingua2.filters import (
    alignment_gap,
    filter_pairs,
    hitting_rate,
    matching_rate,
    variation_rate,
)

words = st.lists(st.sampled_from("a b c d e".split()), min_size=1, max_size=25)


def kept(original: str, compressed: str, **options) -> list[str]:
    (found,) = annotate_pairs([(original, compressed)], **options)
    return [original[a:b] for (a, b), label in zip(found.spans, found.labels, strict=True) if label]


def by_the_letter(original: list[str], compressed: list[str], window: int) -> list[bool]:
    """Algorithm 1 as it is written, place by place."""
    labels, previous = [False] * len(original), 0
    for word in compressed:
        for distance in range(window):
            right, left = min(previous + distance, len(original) - 1), max(previous - distance, 0)
            if original[right] == word and not labels[right]:
                labels[right] = True
                previous = previous + window // 2 if right - previous > window // 2 else right
                break
            if original[left] == word and not labels[left]:
                labels[left] = True
                previous = left
                break
    return labels


@given(words, words, st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_the_alignment_is_that_of_the_published_algorithm(original, compressed, window):
    assert align(original, compressed, window=window) == by_the_letter(original, compressed, window)


@given(words)
def test_a_text_that_was_not_shortened_keeps_every_word(original):
    (found,) = annotate_pairs([(" ".join(original), " ".join(original))])
    assert all(found.labels)
    assert variation_rate(found) == alignment_gap(found) == 0


@given(words, words)
def test_every_label_uses_up_a_hit(original, compressed):
    (found,) = annotate_pairs([(" ".join(original), " ".join(compressed))], window=4)
    assert hitting_rate(found) >= matching_rate(found)
    assert alignment_gap(found) == hitting_rate(found) - matching_rate(found) or alignment_gap(found) >= 0
    assert found.kept <= len(compressed)


def test_words_in_order_get_exactly_as_many_labels():
    original = "Well , the access code of Berta is , as you know , 4817 ."
    assert kept(original, "access code Berta 4817.") == ["access", "code", "Berta", "4817", "."]


def test_the_nearest_of_equal_words_is_taken_and_the_later_one_at_a_tie():
    assert align("x a b a".split(), ["b", "a"]) == [False, False, True, True]
    assert align("a b a".split(), ["b", "a"]) == [False, True, True]


def test_a_word_that_moved_forward_is_found_behind():
    assert kept("the code of Berta is 4817", "4817 code Berta") == ["code", "Berta", "4817"]


def test_a_word_further_than_the_window_is_not_found():
    original = " ".join(["x", *["y"] * 10, "z"])
    assert kept(original, "x z", window=11) == ["x"]
    assert kept(original, "x z", window=12) == ["x", "z"]


def test_case_endings_and_commas_do_not_matter():
    assert kept("Cities, planned and built.", "city plan, BUILT") == ["Cities", "planned", "built"]
    assert [stem(word) for word in "makes making stories bus this string 4817s".split()] == [
        *("mak", "mak", "story", "bus", "this", "string", "4817s")
    ]


def test_other_lemmas_can_be_given():
    assert kept("mice ran", "mouse run") == []
    forms = {"mice": "mouse", "ran": "run"}
    lemmas = lambda words: [forms.get(word, word) for word in words]  # noqa: E731
    assert kept("mice ran", "mouse run", lemmas=lemmas) == ["mice", "ran"]


def test_a_made_up_word_counts_as_variation_and_gets_no_label():
    (found,) = annotate_pairs([("the code is 4817", "code 4817 secret")])
    assert variation_rate(found) == 1 / 3 and found.kept == 2
    (empty,) = annotate_pairs([("the code", "")])
    assert variation_rate(empty) == 1


def test_a_repeated_word_widens_the_gap():
    (found,) = annotate_pairs([("the code is 4817", "code code")])
    assert alignment_gap(found) == 1 / 4


def test_the_worst_pairs_go_and_perfect_ones_stay():
    good = [("a b c d", "a b")] * 18
    made_up, repeated = ("a b c d", "x y"), ("a b c d", "a a a")
    annotations = annotate_pairs([*good, made_up, repeated])
    left = filter_pairs(annotations, variation_share=0.05, gap_share=0.06)
    assert [found.compressed_words for found in left] == [2] * 18
    assert len(filter_pairs(annotations[:18], variation_share=0.1, gap_share=0.1)) == 18
    assert filter_pairs(annotations, variation_share=0, gap_share=0) == annotations


def test_a_token_has_the_label_of_its_word_and_a_comma_none():
    text = "Codes, 4817!"
    assert [text[a:b] for a, b in word_spans(text)] == ["Codes", "4817", "!"]
    found = Annotation(text, ((0, 5), (7, 11), (11, 12)), (True, False, True), 2, 2)
    offsets = np.array([[0, 2], [2, 5], [5, 6], [6, 11], [11, 12], [0, 0]])
    assert token_labels(found, offsets).tolist() == [1, 1, 0, 0, 1, 0]
