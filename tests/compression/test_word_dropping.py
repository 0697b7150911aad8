"""What all compressors that drop words promise, shown on chance and on the scissors."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import szilard
from szilard.compression.baselines import RandomDropping, Truncation
from szilard.registry import make_compressor

TEXT = (
    "Berta said, on the second of May, that the access code is 4817.\nNobody wrote it down; why would they?\n\n"
    "See `lookup(code)` or https://example.org/codes?id=4817 within 3.5 km of the gate."
)
COMPRESSORS = [RandomDropping, Truncation]


@pytest.mark.parametrize("slug", ["random-dropping", "truncation"])
def test_the_neutral_setting_leaves_the_text_as_it_is(slug, engine):
    neutral = type(make_compressor(slug)).neutral()
    for used in (None, engine):
        (result,) = neutral.compress([TEXT], engine=used)
        assert result.text == TEXT and all(result.kept) and result.rate == 1.0


@given(st.text(st.sampled_from("abc 12.,\n?-机"), min_size=1, max_size=80).filter(str.strip), st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_finished_text_has_no_more_tokens_than_the_budget(text, share):
    for cls in COMPRESSORS:
        (result,) = cls().compress([text], share)
        assert result.compressed_tokens <= max(1, int(share * result.original_tokens + 1e-9))
        assert "".join(text[a:b] for a, b in result.spans) == "".join(result.text.split())


def test_the_budget_counts_the_engines_tokens(engine):
    text = " ".join(f"w{number}" for number in range(10, 50))
    (result,) = RandomDropping().compress([text], 7, engine=engine)
    assert result.counted_by == "tiny"
    assert result.original_tokens == 40 and result.compressed_tokens == 7
    assert sum(word.tokens for word in result.words) == 40


def test_a_less_budget_keeps_a_subset_of_the_words():
    for cls in COMPRESSORS:
        kept = [np.array(cls().compress([TEXT], share)[0].kept) for share in (0.1, 0.3, 0.5, 0.8)]
        assert all(not (less & ~more).any() for less, more in itertools.pairwise(kept))


def test_permuting_contexts_permutes_results():
    texts = [TEXT, TEXT.upper(), TEXT[:60]]
    forward = [result.text for result in RandomDropping().compress(texts, 0.4)]
    backward = [result.text for result in RandomDropping().compress(texts[::-1], 0.4)]
    assert forward == backward[::-1]


def test_chance_depends_on_seed_and_text_and_touches_no_global_state():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, again, other = (RandomDropping(seed=seed).compress([TEXT], 0.5)[0].text for seed in (1, 1, 2))
    assert one == again != other
    assert torch.equal(torch_state, torch.get_rng_state()) and (numpy_state == np.random.get_state()[1]).all()


@pytest.mark.parametrize("cls", COMPRESSORS)
@pytest.mark.parametrize("selection", ["budget", "percentile", "corpus"])
def test_what_is_to_be_kept_survives_every_selection(cls, selection):
    compressor = cls(keep=["\n", "?", re.compile("not?body", re.IGNORECASE)], keep_digits=True, selection=selection)
    (result,) = compressor.compress([TEXT], 0.01)
    assert result.text.count("\n") == TEXT.count("\n") and "?" in result.text
    assert "Nobody" in result.text and result.text.count("4817") == 2
    if selection != "percentile":
        forced = [word for word in result.words if word.kept]
        assert len(forced) < 15, "a budget below the forced words keeps exactly them"


def test_the_scissors_cut_where_they_are_told():
    text = "a b c d e f g h"
    cut = {side: Truncation(side=side).compress([text], 4)[0].text for side in ("tail", "head", "middle")}
    assert cut == {"tail": "a b c d", "head": "e f g h", "middle": "a b g h"}


def test_units_are_kept_or_dropped_as_a_whole():
    for seed in range(20):
        left = RandomDropping(seed=seed, structure="safe").compress([TEXT], 0.5)[0].text
        for unit in ("`lookup(code)`", "https://example.org/codes?id=4817", "3.5 km"):
            assert unit in left or not any(part in left for part in re.findall(r"lookup|example|3\.5|km", unit))


def test_one_threshold_for_a_corpus_spends_the_sum_of_the_budgets():
    texts = [TEXT, TEXT[:60], TEXT * 2]
    results = RandomDropping(selection="corpus").compress(texts, 0.4)
    total = sum(int(0.4 * result.original_tokens) for result in results)
    assert total - 3 <= sum(result.compressed_tokens for result in results) <= total
    floors = [min(word.score for word in result.words if word.kept) for result in results]
    assert max(word.score for result in results for word in result.words if not word.kept) <= min(floors)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rate": 0}, "above 0"),
        ({"rate": 1.5}, "between 0 and 1"),
        ({"rate": float("nan")}, "rate"),
        ({"selection": "best"}, "selection must be one of"),
        ({"selection": "threshold"}, "threshold goes with"),
        ({"threshold": 0.5}, "threshold goes with"),
        ({"keep": 5}, "keep must be strings"),
        ({"keep_digits": 1}, "True or False"),
        ({"structure": "code"}, "structure must be one of"),
        ({"count_tokens": 5}, "count_tokens must be a function"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, error):
    with pytest.raises((ValueError, TypeError), match=error):
        RandomDropping(**options)


@pytest.mark.parametrize(
    ("contexts", "budget", "error"),
    [
        (TEXT, 0.5, "list of texts"),
        ([TEXT, " \n"], 0.5, "number 1 is empty"),
        ([TEXT, 3], 0.5, "number 1 is int"),
        (["w1 \ud800 w2"], 0.5, "half a character"),
        ([TEXT], 1.5, "budget must be"),
        ([TEXT], 0, "budget must be"),
        ([TEXT], 10_000, "larger than the context"),
    ],
)
def test_bad_contexts_and_budgets_are_refused_in_a_sentence(contexts, budget, error):
    with pytest.raises((ValueError, TypeError), match=error):
        RandomDropping().compress(contexts, budget)


def test_a_threshold_takes_no_budget():
    compressor = RandomDropping(selection="threshold", threshold=0.5)
    assert compressor.compress([TEXT])[0].rate < 1
    with pytest.raises(ValueError, match="takes no budget"):
        compressor.compress([TEXT], 0.5)


def test_a_rate_of_a_whole_1_is_everything_and_not_one_token():
    assert RandomDropping(rate=1).compress([TEXT])[0].text == TEXT


@pytest.mark.parametrize("context", [None, 5, b"w1 w2", {"a": "w1"}])
def test_what_is_no_context_is_refused_in_a_sentence(context):
    with pytest.raises(TypeError, match="a context is text, or a list of texts"):
        szilard.compress(context, "truncation")


def test_what_is_no_engine_is_refused_in_a_sentence():
    with pytest.raises(TypeError, match="engine must be an engine"):
        szilard.compress(TEXT, "truncation", engine="tiny")


@pytest.mark.parametrize("part", [{"type": "text"}, {"type": "text", "text": 5}])
def test_a_chat_whose_parts_hold_no_text_is_refused_in_a_sentence(part):
    with pytest.raises(TypeError, match='holds its words under "text"'):
        Truncation().compress_messages([{"role": "user", "content": [part]}], 0.5)


def test_a_budget_larger_than_a_chat_is_refused():
    with pytest.raises(ValueError, match="larger than the messages to shorten"):
        Truncation().compress_messages([{"role": "user", "content": TEXT}], 10_000)


def test_a_stream_is_refused_before_its_first_piece(tmp_path):
    for source, budget, sentence in (
        (tmp_path / "none.txt", 0.5, "there is no file"),
        (tmp_path, 0.5, "there is no file"),
        ([TEXT], 1.5, "budget must be a share"),
        (5, 0.5, "pieces of text or a Path"),
    ):
        with pytest.raises((ValueError, TypeError), match=sentence):
            Truncation().compress_stream(source, budget)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe abc")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        list(Truncation().compress_stream(tmp_path / "bytes", 0.5))


def test_no_contexts_give_no_results():
    assert RandomDropping().compress([], 0.5) == []
