"""Continuing contexts: what is written, how it is measured, and models beside one another."""

from __future__ import annotations

import math
import random

import pytest
import torch

from szilard.decoding.citation_blocker import CitationBlocker
from szilard.information import SpanIndex, self_bleu, type_token_ratio
from szilard.training.hyperfitting.comparison import Compared, compare_open_ended
from szilard.training.hyperfitting.continuations import continue_contexts
from szilard.training.hyperfitting.open_ended import evaluate_open_ended
from tests.conftest import EOS, VOCAB, tiny_model, tiny_tokenizer
from tests.training.hyperfitting.conftest import fresh

CONTEXTS = [[9, 10, 11], [20, 21], [30, 31, 32, 33], [40]]


def test_greedy_continuations_are_those_of_single_rows_up_to_their_end(tokenizer) -> None:
    model = tiny_model("llama")
    found = continue_contexts(model, tokenizer, CONTEXTS, max_new_tokens=20, batch_size=3)
    for context, ids in zip(CONTEXTS, found, strict=True):
        row = model.generate(torch.tensor([context]), max_new_tokens=20, do_sample=False)[0, len(context) :].tolist()
        assert ids == (row[: row.index(EOS)] if EOS in row else row)


def test_habits_of_the_models_own_generation_config_stay_out(tokenizer) -> None:
    model = fresh()
    expected = continue_contexts(model, tokenizer, CONTEXTS, max_new_tokens=12)
    model.generation_config.repetition_penalty = 3.0
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.do_sample = True
    model.generation_config.suppress_tokens = [expected[0][0]]
    model.generation_config.encoder_repetition_penalty = 5.0
    model.generation_config.num_return_sequences = 2
    habits = model.generation_config
    assert continue_contexts(model, tokenizer, CONTEXTS, max_new_tokens=12) == expected
    assert model.generation_config is habits


def test_a_tensor_of_contexts_does_as_well(tokenizer) -> None:
    model = tiny_model("llama")
    rows = [[9, 10, 11], [12, 13, 14]]
    assert evaluate_open_ended(model, tokenizer, torch.tensor(rows), 4).contexts == rows
    assert (
        evaluate_open_ended(model, tokenizer, torch.tensor(rows), 4).ids
        == evaluate_open_ended(model, tokenizer, rows, 4).ids
    )


def test_a_model_without_tokens_that_end_or_fill_writes_on(tokenizer) -> None:
    model = fresh()
    model.generation_config.eos_token_id = None
    bare = tiny_tokenizer()
    bare.eos_token = bare.pad_token = None
    assert [len(ids) for ids in continue_contexts(model, bare, CONTEXTS, max_new_tokens=9, exact_length=True)] == [
        9
    ] * 4


def test_texts_that_end_at_once_have_no_ratio(tokenizer) -> None:
    model = fresh()
    model.generation_config.eos_token_id = list(range(VOCAB))
    found = evaluate_open_ended(model, tokenizer, CONTEXTS, 6, trained_on=SpanIndex([[1, 2, 3]]))
    assert found.ids == [[]] * 4 and found.summary["tokens"] == found.summary["loops"] == 0
    assert math.isnan(found.summary["ttr"]) and found.summary["overlap_max"] == 0
    assert Compared("a", "b", found).as_dict()["ttr"] is None


def test_texts_of_exact_length_do_not_end_before(tokenizer) -> None:
    model = fresh()
    model.generation_config.eos_token_id = list(range(3, VOCAB, 2))  # half of all tokens end a text
    free = continue_contexts(model, tokenizer, CONTEXTS, max_new_tokens=15)
    assert min(map(len, free)) < 15
    exact = continue_contexts(model, tokenizer, CONTEXTS, max_new_tokens=15, exact_length=True)
    assert {len(ids) for ids in exact} == {15}


def test_drawn_texts_come_again_with_their_seed_and_disturb_no_one(tokenizer) -> None:
    model = tiny_model("llama")
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate()
    draws = [
        continue_contexts(model, tokenizer, CONTEXTS, max_new_tokens=12, do_sample=True, top_p=0.9, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_measures_are_means_over_the_texts(tokenizer) -> None:
    model = tiny_model("llama")
    learned = continue_contexts(model, tokenizer, CONTEXTS[:1], max_new_tokens=24, exact_length=True)
    found = evaluate_open_ended(
        model, tokenizer, CONTEXTS, 24, trained_on=SpanIndex(learned), exact_length=True, window=10
    )
    assert found.columns["tokens"] == [24.0] * 4 and found.summary["tokens"] == 24
    assert found.summary["ttr"] == pytest.approx(sum(type_token_ratio(ids, 10) for ids in found.ids) / 4)
    assert found.summary["self_bleu"] == pytest.approx(self_bleu(found.ids))
    assert found.columns["overlap"][0] == 24 == found.summary["overlap_max"] and found.columns["copy_rate"][0] == 1
    assert 0.25 <= found.summary["overlap_above_10"] <= 1
    assert found.texts == [tokenizer.decode(ids) for ids in found.ids]


def test_a_blocker_stops_copies(tokenizer) -> None:
    model = tiny_model("llama")
    learned = evaluate_open_ended(model, tokenizer, CONTEXTS, 24, exact_length=True).ids
    blocker = CitationBlocker(learned, window=3, tokenizer=tokenizer)
    found = evaluate_open_ended(
        model, tokenizer, CONTEXTS, 24, blocker, trained_on=SpanIndex(learned), exact_length=True, bleu=False
    )
    assert found.summary["overlap_max"] <= 3 and "self_bleu" not in found.summary


def test_texts_as_contexts_are_encoded(tokenizer) -> None:
    found = evaluate_open_ended(tiny_model("llama"), tokenizer, ["w9 w10", "w11"], 4)
    assert found.contexts == [tokenizer.encode("w9 w10"), tokenizer.encode("w11")]


def test_models_stand_beside_one_another_with_the_ways_that_are_not_training(tokenizer) -> None:
    one, two = tiny_model("llama"), tiny_model("qwen2")
    texts = torch.randint(8, VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
    opened: list[str] = []

    def opener(name, model):
        def opens():
            opened.append(name)
            return model, tokenizer

        return opens

    found = compare_open_ended(
        [("one", opener("one", one)), ("two", opener("two", two))],
        texts,
        context_length=4,
        max_new_tokens=8,
        trained_on=texts.tolist(),
        baselines=True,
    )
    assert opened == ["one", "two", "one"]
    assert [(row.model, row.decoding) for row in found[:6]] == [
        ("one", "greedy"),
        ("one", "top-p 0.9"),
        ("one", "repetition penalty 1.2"),
        ("one", "no repeated 3-gram"),
        ("two", "greedy"),
        ("two", "greedy, citations blocked"),
    ]
    assert found[6].decoding.startswith("drawn at temperature ") and len(found) == 7
    assert found[0].agreement == 1.0 and found[4].agreement < 1.0 and found[1].agreement is None
    assert {"ttr", "entropy", "perplexity", "texts", "overlap_max"} <= set(found[4].as_dict())


def test_bad_contexts_are_told_in_a_sentence(tokenizer) -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="no contexts"):
        evaluate_open_ended(model, tokenizer, [])
    with pytest.raises(ValueError, match="holds no token"):
        evaluate_open_ended(model, tokenizer, [[9], []])
    with pytest.raises(ValueError, match=r"a context of 4 tokens and 300 new ones exceed the 256"):
        evaluate_open_ended(model, tokenizer, CONTEXTS, 300)
    with pytest.raises(TypeError, match="has no 'top_q'; did you mean 'top_"):
        evaluate_open_ended(model, tokenizer, CONTEXTS, 3, top_q=0.9)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        evaluate_open_ended(model, tokenizer, CONTEXTS, 3, batch_size=0)
    with pytest.raises(ValueError, match="no sequence is longer than window=5"):
        compare_open_ended([("one", lambda: (model, tokenizer))], torch.ones(1, 40).long(), trained_on=[[1, 2]])
    with pytest.raises(ValueError, match="have no beginning of 32"):
        compare_open_ended([], torch.zeros(1, 8, dtype=torch.int64))
