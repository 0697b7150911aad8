"""Text of kept words, words by their form, and units that are never cut."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.compression.rebuild import rebuild
from szilard.compression.structure import safe_units
from szilard.compression.token_counter import TokenCounter
from szilard.compression.words import check_keep, kept_places, overlapping, owners, regex_words

TEXTS = st.text(st.sampled_from("ab3 .,(\n\t-'é机器ไ?"), max_size=60)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_all_words_kept_is_the_text_byte_for_byte(text):
    spans = regex_words(text)
    assert rebuild(text, spans, np.ones(len(spans), dtype=bool)) == (text if len(spans) else "")


@given(TEXTS, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_kept_words_keep_spelling_and_order_and_never_grow_together(text, chance):
    spans = regex_words(text)
    kept = np.array([chance.random() < 0.5 for _ in spans], dtype=bool)
    left = rebuild(text, spans, kept)
    assert "".join(left.split()) == "".join(text[a:b] for a, b in spans[kept].tolist())
    words = [text[a:b] for a, b in spans[kept].tolist()]
    if all(word.isascii() for word in words):
        found = [left[a:b] for a, b in regex_words(left).tolist()]
        alone = [word for word in words if word.isalnum()]
        assert [word for word in found if word.isalnum()] == alone or "'" in text or "3" in text


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_words_cover_all_but_white_space(text):
    spans = regex_words(text)
    assert "".join(text[a:b] for a, b in spans.tolist()) == "".join(text.split())
    assert (spans[1:, 0] >= spans[:-1, 1]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी पढ़ता हूँ", 3),  # vowel signs are no letters to Python
        ("cafe\u0301s et re\u0301sume\u0301s", 3),
        ("עִבְרִית אָלֶף", 2),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", 1),
        ("ที่นี่", 2),
        ("❤️ 👨‍👩‍👧 👍🏽", 3),
        ("3rd 1990s 4f9a2c 12:30 3.5 1,000.5", 6),
        ("don't l\u2019été", 2),
        ("3.5.", 2),
        ("a2机器3b", 4),
    ],
)
def test_a_word_is_never_cut_in_half(text, words):
    spans = regex_words(text)
    assert len(spans) == words
    assert rebuild(text, spans, np.arange(len(spans)) == 0) in text


def test_words_that_end_in_marks_do_not_grow_together():
    text = "हिन्दी (भाषा"
    assert rebuild(text, regex_words(text), [True, False, True]) == "हिन्दी भाषा"


@pytest.mark.parametrize(
    ("text", "dropped", "left"),
    [
        ("one two three", {1}, "one three"),
        ("Hello, world.", {1}, "Hello world."),
        ("Hello, world.", {2}, "Hello,."),
        ("foo -bar", {1}, "foo bar"),
        ("a-b", {1}, "a b"),
        ("机器学习", {1}, "机学习"),
        ("First line.\n\nNext paragraph", {3}, "First line.\n\nparagraph"),
        ("if x:\n    return y", {3}, "if x:\n    y"),
        ("  indented text  ", {0}, "text  "),
        ("all gone", {0, 1}, ""),
    ],
)
def test_white_space_between_kept_words(text, dropped, left):
    spans = regex_words(text)
    assert rebuild(text, spans, [index not in dropped for index in range(len(spans))]) == left


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("before\n```py\nx = [1]\n\nif x: pass\n```\nafter", "```py\nx = [1]\n\nif x: pass\n```"),
        ("text\n  ~~~\nnever closed", "~~~\nnever closed"),
        ("call `f(x, y)` now", "`f(x, y)`"),
        ('reply {"a": [1, {"b": "}"}], "c": null} or', '{"a": [1, {"b": "}"}], "c": null}'),
        ("see (https://a.org/b?c=d&e=1#f).", "https://a.org/b?c=d&e=1#f"),
        ("write to first.last+tag@mail.example.org, soon", "first.last+tag@mail.example.org"),
        ("about 3.5 km away", "3.5 km"),
        ("it was -12.5°C then", "-12.5°C"),
        ("costs $1,299.00 only", "$1,299.00"),
        ("rose by 40%.", "40%"),
        ("at 10:30 sharp", "10:30"),
    ],
)
def test_what_means_nothing_in_halves_is_one_unit(text, unit):
    assert unit in [text[a:b] for a, b in safe_units(text).tolist()]


def test_prose_has_no_units_but_its_numbers():
    text = "A sentence {with braces} and [brackets [1]], a b2b word, and nothing else."
    assert [text[a:b] for a, b in safe_units(text).tolist()] == ["1"]


def test_a_string_to_keep_is_looked_for_at_the_ends_of_words():
    text = "this is his isle, is it?"
    assert [text[a:b] for a, b in kept_places(text, ("is", "?"))] == ["is", "is", "?"]
    spans = regex_words(text)
    forced = overlapping(spans, kept_places(text, (re.compile("isl"), "it")))
    assert [text[a:b] for a, b in spans[forced]] == ["isle", "it"]


def test_what_to_keep_comes_as_one_string_a_list_or_json():
    assert check_keep("?") == ("?",)
    assert check_keep('["\\n", "?"]') == ("\n", "?")
    assert check_keep("[not json") == ("[not json",)
    with pytest.raises(TypeError, match="strings and compiled patterns"):
        check_keep([3])
    with pytest.raises(ValueError, match="empty string"):
        check_keep([""])


def test_every_token_belongs_to_one_word():
    spans = np.array([[2, 4], [5, 8]])
    places = np.array([[0, 2], [2, 3], [3, 4], [4, 5], [5, 8], [8, 9]])
    assert owners(spans, places).tolist() == [0, 0, 0, 1, 1, 1]


def test_a_function_counts_a_word_as_it_stands():
    counter = TokenCounter.of(None, len)
    assert counter.count("ab c") == 4 and counter.name == "len"
    assert counter.per_word("ab cde,", regex_words("ab cde,")).tolist() == [2, 4, 1]
