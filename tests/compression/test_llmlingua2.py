"""LLMLingua-2 on tiny classifiers."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.compression.llmlingua2.chunks import chunk_bounds, word_scores
from szilard.compression.llmlingua2.classifier import KeepClassifier
from szilard.compression.llmlingua2.method import LlmLingua2
from szilard.compression.words import as_spans, regex_words
from tests.compression import tiny_classifiers as tiny

FAMILIES = ("bert", "xlm-roberta")
TEXT, LONG = tiny.PROMPTS[1], tiny.PROMPTS[-1]
CODE = (
    "Call it:\n```python\nfor day in (1, 2):\n    print(day)\n```\nthen see "
    "https://example.org/a?b=1 or mail a.b@c.org, 3.5 km off."
)


@pytest.fixture(scope="module", params=FAMILIES)
def classifier(request):
    return _classifier(request.param)


def _classifier(family, made={}):  # noqa: B006
    if family not in made:
        model, tokenizer = {
            "bert": (tiny.bert_classifier, tiny.bert_tokenizer),
            "xlm-roberta": (tiny.xlm_roberta_classifier, tiny.xlm_roberta_tokenizer),
        }[family]
        made[family] = KeepClassifier(model(), tokenizer(), family)
    return made[family]


# ---- words and chunks


def test_a_words_probability_is_the_mean_of_its_tokens_or_the_first():
    spans, places = as_spans([(0, 4), (5, 7), (8, 9)]), as_spans([(0, 2), (2, 4), (5, 7), (7, 8)])
    assert word_scores(spans, places, np.array([0.9, 0.3, 0.7, 0.5])).tolist() == pytest.approx([0.6, 0.7, 0.0])
    assert word_scores(spans, places, np.array([0.9, 0.3, 0.7, 0.5]), "first").tolist() == [0.9, 0.7, 0.0]


def test_a_token_over_several_words_counts_for_each():
    spans, places = as_spans([(0, 1), (1, 2), (2, 5)]), as_spans([(0, 3), (3, 5)])
    assert word_scores(spans, places, np.array([0.8, 0.2])).tolist() == pytest.approx([0.8, 0.8, 0.5])


@given(st.text(st.sampled_from("abc. \n3"), max_size=200), st.integers(3, 20))
@settings(max_examples=100, deadline=None)
def test_chunks_cover_all_tokens_fit_and_prefer_ends(text, size):
    places = as_spans([(index, index + 1) for index, character in enumerate(text) if not character.isspace()])
    words = regex_words(text)
    bounds = chunk_bounds(text, places, words, (".", "\n"), size)
    assert [last for _, last in bounds[:-1]] == [first for first, _ in bounds[1:]]
    assert sum(last - first for first, last in bounds) == len(places)
    assert all(0 < last - first <= size for first, last in bounds)


def test_a_chunk_ends_behind_a_sentence_and_never_in_a_number():
    text = "one two. three 3.5 four five"
    words = regex_words(text)
    places = as_spans([match.span() for match in re.finditer(r"\w+|[^\w\s]", text)])
    bounds = chunk_bounds(text, places, words, (".",), 6)
    assert [text[places[a, 0] : places[b - 1, 1]] for a, b in bounds] == ["one two.", "three 3.5 four five"]
    between = chunk_bounds(text, places, words, ("|",), 6)
    assert [text[places[a, 0] : places[b - 1, 1]] for a, b in between] == ["one two. three", "3.5 four five"]


def test_line_breaks_end_chunks_though_no_token_shows_them(classifier):
    text = "one two\nthree four five six"
    (encoded,) = classifier.encode([text])
    cut = chunk_bounds(text, encoded.places, regex_words(text), ("\n",), len(encoded.ids) - 1)[0][1]
    assert text[: encoded.places[cut - 1, 1]] == "one two"


# ---- scores


def test_a_chunk_alone_is_the_same_chunk_in_a_batch(classifier):
    rows = [np.arange(5, 5 + length) for length in (3, 40, 200)]
    together = classifier.keep_probability(rows, batch_size=3)
    for row, probabilities in zip(rows, together, strict=True):
        np.testing.assert_allclose(classifier.keep_probability([row], batch_size=1)[0], probabilities, atol=1e-5)


def test_bfloat16_is_near(classifier):
    scores = [
        [word.score for word in LlmLingua2(checkpoint=classifier, precision=precision).compress([LONG])[0].words]
        for precision in ("float32", "bfloat16")
    ]
    assert 0 < np.abs(np.subtract(*scores)).max() < 0.1


def test_scores_are_those_of_the_model_run_by_hand(classifier):
    text = "each day the city sells eggs"
    (result,) = LlmLingua2(checkpoint=classifier).compress([text], 0.5)
    inputs = classifier.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = classifier.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    token = logits.softmax(-1)[0, 1:-1, 1].numpy()
    if len(token) == len(result.words):  # one token per word
        np.testing.assert_allclose([word.score for word in result.words], token, atol=1e-5)
    else:
        assert classifier.name == "xlm-roberta"
    ranked = sorted(range(6), key=lambda index: -result.words[index].score)
    assert {index for index, word in enumerate(result.words) if word.kept} == set(ranked[: sum(result.kept)])


def test_special_tokens_are_the_models_own(classifier):
    wanted = {"bert": ("[CLS]", "[SEP]"), "xlm-roberta": ("<s>", "</s>")}[classifier.name]
    assert [classifier.tokenizer.convert_ids_to_tokens(ids) for ids in classifier.specials] == [[w] for w in wanted]


def test_contexts_share_batches_and_each_gets_what_it_gets_alone(classifier):
    texts = [TEXT, LONG, tiny.PROMPTS[2]]
    method = LlmLingua2(checkpoint=classifier, batch_size=2)
    together = method.compress(texts, 0.4)
    assert [result.text for result in together] == [method.compress([text], 0.4)[0].text for text in texts]
    assert [result.text for result in method.compress(texts[::-1], 0.4)] == [result.text for result in together[::-1]]
    assert together[1].cost["forwards"] > 1


# ---- what stays


def test_the_neutral_setting_needs_no_classifier_and_changes_nothing():
    assert LlmLingua2.neutral().compress([LONG, CODE])[1].text == CODE
    for budget in (0.5, 1):
        with pytest.raises(ValueError, match="needs a classifier"):
            LlmLingua2.neutral().compress([CODE], budget)


def test_with_everything_kept_the_text_is_itself_byte_for_byte(classifier):
    for text in (*tiny.PROMPTS, CODE):
        (result,) = LlmLingua2(checkpoint=classifier, structure="safe").compress([text], 1.0)
        assert result.text == text and result.compressed_tokens == result.original_tokens


@pytest.mark.parametrize("budget", [0.05, 0.33, 0.8, 17])
def test_the_finished_text_has_no_more_tokens_than_the_budget(classifier, engine, budget):
    for used in (None, engine):
        for text in (TEXT, LONG, CODE):
            (result,) = LlmLingua2(checkpoint=classifier).compress([text], budget, engine=used)
            limit = budget if isinstance(budget, int) else max(1, int(budget * result.original_tokens))
            tokenizer = classifier.tokenizer if used is None else used.tokenizer
            assert (
                len(tokenizer(result.text, add_special_tokens=False)["input_ids"]) == result.compressed_tokens <= limit
            )


def test_a_smaller_rate_keeps_a_subset(classifier):
    kept = [np.array(LlmLingua2(checkpoint=classifier).compress([LONG], rate)[0].kept) for rate in (0.2, 0.5, 0.8)]
    assert not any((less & ~more).any() for less, more in pairwise(kept))


def test_what_is_to_be_kept_survives(classifier):
    method = LlmLingua2(checkpoint=classifier, keep=["\n", "?", re.compile("resolu")], keep_digits=True)
    (result,) = method.compress([TEXT], 0.01)
    assert result.text.count("\n") == 2 and result.text.count("?") == 3 and "resolutions" in result.text
    assert {"15", "7", "0"} <= set(re.findall(r"\d+", result.text))
    assert sum(result.kept) == 2 + 3 + 1 + 3, "forced and a budget of nothing keep exactly the forced"


def test_of_equal_kept_words_in_a_row_one_is_enough(classifier):
    once = LlmLingua2(checkpoint=classifier, keep=["\n", "?"], drop_consecutive=True)
    (result,) = once.compress(["One?\n\n\nTwo??\nThree???"], 0.05)
    assert result.text.replace(" ", "") == "?\n?\n?"


def test_code_and_addresses_are_kept_or_dropped_as_a_whole(classifier):
    parts = ["```python\nfor day in (1, 2):\n    print(day)\n```", "https://example.org/a?b=1", "a.b@c.org", "3.5 km"]
    seen = set()
    for rate in (0.2, 0.4, 0.6, 0.8, 0.9):
        text = LlmLingua2(checkpoint=classifier, structure="safe").compress([CODE], rate)[0].text
        for part in parts:
            seen.add((part, part in text))
            assert part in text or not any(
                word in text for word in re.findall(r"\w{4,}|3\.5", part) if word != "example"
            )
    assert {kept for _, kept in seen} == {True, False}


def test_threshold_and_percentile_and_corpus(classifier):
    (fixed,) = LlmLingua2(checkpoint=classifier, selection="threshold", threshold=0.5).compress([TEXT])
    assert all(word.kept == (word.score >= 0.5) for word in fixed.words)
    (share,) = LlmLingua2(checkpoint=classifier, selection="percentile").compress([TEXT], 0.33)
    scores = np.repeat([word.score for word in share.words], [word.tokens for word in share.words])
    assert share.kept == tuple(word.score > np.percentile(scores, 68) for word in share.words)
    texts = [TEXT, LONG]
    results = LlmLingua2(checkpoint=classifier, selection="corpus").compress(texts, 0.3)
    floor = min(word.score for result in results for word in result.words if word.kept)
    assert max(word.score for result in results for word in result.words if not word.kept) <= floor


def test_contexts_that_do_not_stay_leave_their_tokens_to_the_others(classifier):
    texts = list(tiny.PROMPTS[:4])
    (*results,) = LlmLingua2(checkpoint=classifier, context_rate=0.5, keep_contexts=(3,)).compress(texts, 0.4)
    means = [np.mean([word.score for word in result.words]) for result in results]
    stay = {*np.argsort(means)[-2:].tolist(), 3}
    assert {index for index, result in enumerate(results) if result.text} == stay
    total = sum(int(0.4 * result.original_tokens) for result in results)
    assert 0.8 * total < sum(result.compressed_tokens for result in results) <= total


def test_no_global_state_changes(classifier):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    LlmLingua2(checkpoint=classifier).compress([TEXT], 0.5)
    LlmLingua2.released(classifier, len).compress([TEXT], 0.5)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


# ---- chats and streams


def test_a_chat_is_shortened_where_its_roles_say_and_nowhere_else(classifier):
    chat = [
        {"role": "system", "content": TEXT},
        {"role": "user", "content": [{"type": "image", "image": "x"}, {"type": "text", "text": LONG}], "name": "a"},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": TEXT},
        {"role": "user", "content": " "},
    ]
    method = LlmLingua2(checkpoint=classifier)
    short = method.compress_messages(chat, 0.3)
    assert [short[index] for index in (0, 2, 4)] == [chat[index] for index in (0, 2, 4)]
    assert short[3]["content"] == method.compress([TEXT], 0.3)[0].text and chat[3]["content"] == TEXT
    assert short[1]["content"][0] == chat[1]["content"][0] and len(short[1]["content"][1]["text"]) < len(LONG) / 2
    count = method.counter(None).count
    spent = method.compress_messages(chat, 60, roles={"user"})
    assert count(spent[3]["content"]) + count(spent[1]["content"][1]["text"]) <= 60
    with pytest.raises(ValueError, match="collection of roles"):
        method.compress_messages(chat, 0.3, roles="user")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_with_everything_kept_is_the_text(size):
    text = ("  " + LONG + "\n\n" + CODE + "\n \n\n") * 4
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    assert "".join(LlmLingua2.neutral().compress_stream(pieces, window=300)) == text


def test_a_stream_is_shortened_window_by_window(classifier, tmp_path):
    text = (LONG + "\n") * 6
    file = tmp_path / "long.txt"
    file.write_text(text, encoding="utf-8")
    method = LlmLingua2(checkpoint=classifier, keep=["\n"])
    found = list(method.compress_stream(file, 0.3, window=2000))
    assert len(found) > 3 and "".join(found) == "".join(method.compress_stream(io.StringIO(text), 0.3, window=2000))
    left = "".join(found)
    assert left.count("\n") == 6
    assert method.counter(None).count(left) <= 0.3 * method.counter(None).count(text)
    letters = iter("".join(text.split()))
    assert all(letter in letters for letter in "".join(left.split())), "nothing new, and in the order of the text"


def test_a_stream_refuses_what_it_cannot_do(classifier):
    method = LlmLingua2(checkpoint=classifier)
    with pytest.raises(TypeError, match="pieces of text or a Path"):
        method.compress_stream(TEXT)
    with pytest.raises(ValueError, match="length is unknown"):
        method.compress_stream([TEXT], 50)
    with pytest.raises(ValueError, match="no streams"):
        LlmLingua2.released(classifier, len).compress_stream([TEXT])


# ---- checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_as_good_as_the_object(tmp_path, family):
    folder = tiny.saved(tmp_path, family)
    texts = [LlmLingua2(checkpoint=where).compress([TEXT], 0.4)[0].text for where in (str(folder), _classifier(family))]
    assert texts[0] == texts[1] == LlmLingua2.from_pretrained(folder).compress([TEXT], 0.4)[0].text


def test_what_is_no_classifier_is_refused_in_a_sentence(tmp_path, model_folder):
    with pytest.raises(ValueError, match="is a LlamaForCausalLM, but llmlingua2 needs a token classifier"):
        LlmLingua2(checkpoint=model_folder).compress([TEXT])
    five = tmp_path / "five"
    tiny.bert_classifier(5).save_pretrained(five)
    tiny.bert_tokenizer().save_pretrained(five)
    with pytest.raises(ValueError, match="has 5 labels per token"):
        LlmLingua2(checkpoint=str(five)).check()

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="fast tokenizer"):
        KeepClassifier(tiny.bert_classifier(), Slow())
    with pytest.raises(ValueError, match="needs a classifier"):
        LlmLingua2(checkpoint=None).compress([TEXT], 0.5)
    with pytest.raises(ValueError, match="no model folder"):
        LlmLingua2(checkpoint=str(tmp_path / "missing")).check()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"checkpoint": 3}, "checkpoint must be"),
        ({"token_to_word": "last"}, "token_to_word"),
        ({"chunk_end": [re.compile("x")]}, "chunk_end takes strings"),
        ({"max_length": 4}, "max_length"),
        ({"batch_size": 0}, "batch_size"),
        ({"context_rate": 2}, "context_rate"),
        ({"keep_contexts": (-1,)}, "keep_contexts"),
        ({"backend": "jax"}, "backend"),
        ({"precision": "int8"}, "precision"),
        ({"precision": "bfloat16", "backend": "onnx"}, "runs in float32"),
        ({"compat": 1}, "compat"),
        ({"compat": True}, "count_tokens="),
        ({"compat": True, "count_tokens": len}, "selection='percentile'"),
        ({"compat": True, "count_tokens": len, "selection": "percentile", "keep": [re.compile("x")]}, "no patterns"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, error):
    with pytest.raises((ValueError, TypeError), match=error):
        LlmLingua2(**options)


def test_more_positions_than_the_model_has_are_refused(classifier):
    with pytest.raises(ValueError, match="512 positions"):
        LlmLingua2(checkpoint=classifier, max_length=1024).compress([TEXT])
    with pytest.raises(ValueError, match="keep_contexts names context 3"):
        LlmLingua2(checkpoint=classifier, keep_contexts=(3,)).compress([TEXT])
