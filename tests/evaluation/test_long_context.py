"""Tasks from running text, and what methods make of them."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import szilard
from szilard.evaluation import long_context
from szilard.evaluation.attention_quality import answers, measure
from szilard.evaluation.long_context import DIGITS, WORDS, continuations, make_items, needles, pairs

LETTERS = {letter: index + 2 for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


@pytest.fixture(scope="module")
def tokenizer():
    """A token per byte."""
    backend = Tokenizer(models.BPE({"<pad>": 0, "<bos>": 1} | LETTERS, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", padding_side="left")


@pytest.fixture(scope="module")
def text():
    rng = random.Random(0)
    return " ".join(" ".join(rng.choices(WORDS, k=9)) + " ." for _ in range(120))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=400,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).double().eval()


def test_a_needle_stands_where_it_should_at_the_end_of_a_sentence(tokenizer, text):
    for depth in (0.0, 0.5, 1.0):
        (item,) = needles(tokenizer, text, length=300, count=1, depths=[depth])
        context = tokenizer.decode(item.context)
        number = tokenizer.decode(item.answer)
        needle = f" The secret number is {number}."
        assert len(item.context) == 300 and len(number) == DIGITS and number.isdigit()
        assert context.count(needle) == 1
        place = context.index(needle)
        assert place == 0 or context[:place].endswith(".")
        assert item.depth == place / 300 and depth - 0.3 <= item.depth <= depth
        assert context.replace(needle, "") in text
        assert tokenizer.decode(item.question) == " What is the secret number? The secret number is "


def test_depths_cover_the_context_and_seeds_change_everything(tokenizer, text):
    items = needles(tokenizer, text, length=600, count=5)
    assert items == needles(tokenizer, text, length=600, count=5)
    assert [item.depth for item in items] == sorted(item.depth for item in items)
    assert items[-1].depth > 0.6
    assert {item.answer for item in items}.isdisjoint(
        item.answer for item in needles(tokenizer, text, length=600, count=5, seed=1)
    )


def test_every_pair_is_there_once_and_the_one_asked_for_is_the_answer(tokenizer, text):
    for item in pairs(tokenizer, text, length=400, count=4, pairs=6):
        context = tokenizer.decode(item.context)
        asked = tokenizer.decode(item.question)
        key = asked.split()[2].rstrip("?")
        assert asked.rstrip() == f" What is {key}? {key}:"
        assert len(item.context) == 400
        assert context.count(f" {key}: {tokenizer.decode(item.answer)}.") == 1
        assert sum(context.count(f" {word}: ") for word in WORDS) == 6
        assert context[round(item.depth * 400) :].startswith(f" {key}:")


def test_a_continuation_goes_on_where_the_context_ends(tokenizer, text):
    for item in continuations(tokenizer, text, length=100, count=3, new=20):
        assert len(item.context) == 100 and len(item.question) == 1 and len(item.answer) == 20
        assert tokenizer.decode(item.context + item.question + item.answer) in text


def test_a_tokenizer_that_begins_texts_with_a_token_gets_it(tokenizer, text, monkeypatch):
    monkeypatch.setattr(long_context, "_first_tokens", lambda _: iter([1]))
    for task in long_context.TASKS:
        item = make_items(task, tokenizer, text, length=300, count=1)[0]
        assert item.context[0] == 1 and item.context.count(1) == 1 and len(item.context) == 300


def test_protocols_differ_only_in_what_is_read_first(tokenizer, text, small):
    items = needles(tokenizer, text, length=150, count=2)
    for item in items:
        (inside, rest), (context, after) = item.parts("inside"), item.parts("after")
        assert inside + rest == context + after == item.context + item.question + item.answer
        assert context == item.context and rest == item.question[-1:] + item.answer
    inside, after = (answers(small, items, question=question)[0] for question in ("inside", "after"))
    for one, other in zip(inside, after, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)


def test_without_a_method_the_answer_is_scored_as_by_one_forward_over_the_whole_text(tokenizer, text, small):
    (item,) = pairs(tokenizer, text, length=150, count=1, pairs=3)
    whole = torch.tensor([item.context + item.question + item.answer])
    with torch.no_grad():
        logits = small(whole).logits[0].log_softmax(-1)
    told = len(item.answer)
    expected = [float(logits[-told - 1 + at, token]) for at, token in enumerate(item.answer)]
    (found,), summary = answers(small, [item])
    assert found.log_probabilities == pytest.approx(expected, abs=1e-5)
    assert summary == {"kv_read_share": 1.0, "kv_held_share": 1.0}


class Oracle:
    """Knows texts by heart: at every place it gives the next token, whatever it was fed."""

    device = torch.device("cpu")

    def __init__(self, items):
        self.texts = [item.context + item.question + item.answer for item in items]
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())

    def __call__(self, input_ids, position_ids, **_):
        logits = torch.zeros(*input_ids.shape, 258)
        for row, (whole, places) in enumerate(zip(self.texts, position_ids.tolist(), strict=True)):
            for at, place in enumerate(places):
                if place + 1 < len(whole):
                    logits[row, at, whole[place + 1]] = 50.0
        return SimpleNamespace(logits=logits, past_key_values=None)


@pytest.mark.parametrize("question", ["inside", "after"])
def test_who_knows_the_text_answers_everything_and_wrong_answers_are_seen(tokenizer, text, question):
    items = [
        *needles(tokenizer, text, length=200, count=2),
        *pairs(tokenizer, text, length=180, count=3, pairs=4),
        *continuations(tokenizer, text, length=90, count=1, new=7),
    ]
    found, _ = answers(Oracle(items), items, question=question)
    assert all(answer.exact and answer.nats < 1e-9 for answer in found)
    assert [len(answer.right) for answer in found] == [len(item.answer) for item in items]
    others = [*items[1:], items[0]]
    assert not any(answer.exact for answer in answers(Oracle(others), items, question=question)[0])


@pytest.mark.parametrize("question", ["inside", "after"])
@pytest.mark.parametrize(
    "method",
    [
        None,
        szilard.SnapKv(budget=20, window=4),
        szilard.H2o(budget=20),
        szilard.TidalDecode(budget=12, dense_layers=0, reselect_layers=()),
    ],
    ids=str,
)
def test_a_batch_gives_every_item_what_it_gets_alone(tokenizer, text, small, method, question):
    items = [
        *needles(tokenizer, text, length=120, count=1),
        *pairs(tokenizer, text, length=90, count=2, pairs=2),
        *continuations(tokenizer, text, length=60, count=1, new=9),
    ]
    together, _ = answers(small, items, method, question=question)
    for item, found in zip(items, together, strict=True):
        (alone,), _ = answers(small, [item], method, question=question)
        assert found.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-5)


def test_a_method_acts_on_what_is_decoded_and_says_what_it_kept(tokenizer, text, small):
    items = needles(tokenizer, text, length=150, count=2)
    full, _ = answers(small, items)
    some, summary = answers(small, items, szilard.SnapKv(budget=20, window=4))
    assert full != some
    new = len(items[0].answer)
    prompt = len(items[0].parts("inside")[0])
    assert summary["kv_held_share"] == pytest.approx((20 + new) / (prompt + new))


def test_a_record_for_every_task_and_question(tokenizer, text, small):
    records = list(
        measure(small, tokenizer, text, szilard.Knorm(budget=64), length=150, count=3, batch_size=2, pairs=2, new=5)
    )
    assert [(record["task"], record["question"]) for record in records] == [
        ("needle", "inside"),
        ("needle", "after"),
        ("pairs", "inside"),
        ("pairs", "after"),
        ("continuation", ""),
    ]
    for record in records:
        assert record["items"] == len(record["answers"]) == 3
        assert record["right"] == sum(one["right"] for one in record["answers"])
        assert 0 <= record["exact"] <= 3 and record["nats"] > 0
        assert 0 < record["kv_held_share"] < 1
    assert records[0]["tokens"] == 3 * DIGITS and records[-1]["tokens"] == 15


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": ["haystack"]}, "'haystack'"),
        ({"questions": ["before"]}, "'before'"),
        ({"length": 20}, "no room"),
        ({"length": 10**6}, "longer text"),
        ({"length": 390}, "positions"),
        ({"count": 0}, "count"),
        ({"batch_size": 0}, "batch_size"),
        ({"pairs": 1000}, "pairs"),
        ({"new": 0}, "new"),
    ],
)
def test_bad_input_is_refused(tokenizer, text, small, wrong, message):
    with pytest.raises(ValueError, match=message):
        list(measure(small, tokenizer, text, **({"length": 150, "pairs": 2, "new": 5, "count": 2} | wrong)))


def test_depths_outside_the_text_and_no_text_at_all_are_refused(tokenizer, text):
    with pytest.raises(ValueError, match="depth"):
        needles(tokenizer, text, length=150, depths=[1.5])
    with pytest.raises(TypeError, match="running text"):
        needles(tokenizer, b"bytes", length=150)
    with pytest.raises(ValueError, match="no items"):
        answers(Oracle([]), [])
