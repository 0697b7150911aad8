"""Shortened texts as a page."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from szilard.compression.baselines import RandomDropping
from szilard.compression.page import compression_page
from szilard.compression.text import CompressedText, Word

TEXT = 'A <script>alert("x")</script> & a {{title}} of\n\nseveral words\u202e, 12 in all.'


class Words(HTMLParser):
    """Texts of the marked words, and the text without marks."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scripts, self.inside = [], 0, False

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.scripts += tag == "script"
        if tag == "span" and "data-score" in given:
            self.words.append([given["class"], float(given["data-score"]), ""])
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag != "span"

    def handle_data(self, data):
        if self.inside:
            self.words[-1][2] += data


def test_every_word_is_there_with_its_score_and_what_was_decided():
    (result,) = RandomDropping().compress(["one two three four five six"], 0.5)
    page = Words()
    page.feed(compression_page(result))
    assert [text for _, _, text in page.words] == ["one", "two", "three", "four", "five", "six"]
    assert ["out" not in name for name, _, _ in page.words] == list(result.kept)
    assert [score for _, score, _ in page.words] == pytest.approx([word.score for word in result.words], rel=1e-5)


def test_nothing_from_outside_becomes_markup():
    html = compression_page(RandomDropping().compress([TEXT], 0.5), title="<b>{{body}}</b>")
    page = Words()
    page.feed(html)
    assert page.scripts == 1 and "<b>" not in html and "\u202e" not in html and "U+202E" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)


def test_the_policy_allows_this_script_only():
    html = compression_page(RandomDropping().compress([TEXT], 0.5), title="t")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    assert f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" in html


def test_scores_beyond_probabilities_share_one_scale():
    words = (Word(0, 1, 2.0, 1, False), Word(2, 3, 6.0, 1, True))
    html = compression_page([CompressedText("b", "a b", words, 2, 1, "m", "words")], title="t")
    assert re.findall(r'style="--s:([\d.]+)" data', html) == ["0.000", "1.000"] and "<span>6</span>" in html


def test_a_page_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one text"):
        compression_page([], title="t")
