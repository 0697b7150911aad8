"""CoT-SFT learns what is labelled, says what it wrote, and resumes exactly."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from szilard.reasoning.supervised import (
    IGNORED,
    Chains,
    SupervisedConfig,
    answers,
    same_answer,
    train_supervised,
)
from szilard.reasoning.tasks import arithmetic_chains, number_tokenizer

TOKENIZER = number_tokenizer(6)
CONFIG = SupervisedConfig(
    steps=8, batch_size=4, save_every=4, log_every=2, learning_rate=3e-3, max_new_tokens=12, evaluate_every=4
)


def tiny_model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
    )


EXAMPLES = arithmetic_chains(16, seed=0, steps=(1, 2), modulus=7)


@pytest.mark.parametrize(("chain", "learned"), [(True, "{cot} </think> {answer} <eos>"), (False, "{answer} <eos>")])
def test_what_is_learned_is_chain_and_answer(chain, learned):
    example = EXAMPLES[0]
    row = Chains(EXAMPLES, TOKENIZER, replace(CONFIG, chain=chain))[0]
    opened = " <think> " if chain else " "
    wanted = learned.format(cot=example.cot, answer=example.answer)
    assert TOKENIZER.decode(row["ids"]) == example.problem + opened + wanted
    assert TOKENIZER.decode(row["labels"][row["labels"] != IGNORED]) == wanted


def test_padding_changes_no_loss():
    from szilard.reasoning.supervised import Supervised

    objective, rows = Supervised(tiny_model()), Chains(EXAMPLES, TOKENIZER, CONFIG)
    alone = [objective(**rows.collate([rows[index]])) for index in (0, 1)]
    counts = [int((rows[index]["labels"] != IGNORED).sum()) for index in (0, 1)]
    together = objective(**rows.collate([rows[0], rows[1]]))
    expected = sum(one["loss"] * count for one, count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(together["loss"], expected)


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    expected, whole = tiny_model(), tmp_path / "whole"
    result = train_supervised(expected, TOKENIZER, EXAMPLES, EXAMPLES[:3], CONFIG, whole, device="cpu")
    model, calls = tiny_model(), []
    forward = model.forward

    def stopping(*arguments, **options):
        calls.append(model.training)
        if sum(calls) == 7:
            raise KeyboardInterrupt
        return forward(*arguments, **options)

    monkeypatch.setattr(model, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_supervised(model, TOKENIZER, EXAMPLES, EXAMPLES[:3], CONFIG, tmp_path / "cut", device="cpu")
    model = tiny_model()
    found = train_supervised(model, TOKENIZER, EXAMPLES, EXAMPLES[:3], CONFIG, tmp_path / "cut", device="cpu")
    assert [row["loss"] for row in found.metrics] == [row["loss"] for row in result.metrics]
    assert found.evaluations == result.evaluations and len(found.evaluations) == 3
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_what_is_written_is_told_apart_into_chain_and_answer(monkeypatch):
    model = tiny_model()
    texts = ["3 + 4 = 0 </think> 0 <eos>", "</think> 5 <eos> <pad> <pad> <pad> <pad>", "3 3 3 3 3 3 3"]
    made = [TOKENIZER.encode(text) for text in texts]
    made = [row + [0] * (9 - len(row)) for row in made[:2]] + [made[2] + made[2][:2]]
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **_: torch.cat([input_ids, torch.tensor(made)], 1), raising=False
    )
    found = answers(model, TOKENIZER, ["3 + 4 =", "5 =", "1 + 2 + 3 ="], CONFIG)
    assert [(one.chain, one.answer, one.steps, one.passes) for one in found] == [
        ("3 + 4 = 0", "0", 5, 8),
        ("", "5", 0, 3),
        ("3 3 3 3 3 3 3 3 3", "", 9, 9),
    ]


def test_batches_answer_as_single_problems_do():
    model, problems = tiny_model(), [example.problem for example in EXAMPLES[:5]]
    together = answers(model, TOKENIZER, problems, CONFIG)
    assert together == [answers(model, TOKENIZER, [problem], CONFIG)[0] for problem in problems]


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [("5", " 5. ", True), ("1,000", "1000", True), ("5", "50", False), ("a  b", "a b", True), ("", "5", False)],
)
def test_answers_are_compared_by_what_they_say(given, wanted, same):
    assert same_answer(given, wanted) is same


def test_missing_delimiters_and_ends_are_refused_before_any_compute():
    with pytest.raises(ValueError, match="think_close"):
        Chains(EXAMPLES, TOKENIZER, replace(CONFIG, think_close="</thought>"))
    tokenizer = number_tokenizer(6)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        Chains(EXAMPLES, tokenizer, CONFIG)
