"""Prompts with vectors in them are the prompts with tokens, where the vectors are the tokens' own."""

from __future__ import annotations

import pytest
import torch

from szilard.compression.inputs import around_context, left_padded, prompt_inputs
from szilard.compression.soft_prompt import SoftPrompt
from szilard.compression.teacher_forcing import Forced, Measured, teacher_forced
from szilard.engines import TransformersEngine
from tests.conftest import tiny_tokenizer


def _soft(engine, ids) -> SoftPrompt:
    vectors = engine.model.get_input_embeddings()(torch.tensor(ids)).detach()
    return SoftPrompt(vectors, len(ids), "test", engine.fingerprint)


@torch.no_grad()
def test_the_vectors_of_tokens_are_the_tokens(model) -> None:
    engine = TransformersEngine(model, tiny_tokenizer(), name="tiny")
    ids = [[2, 9, 10, 11, 12, 13], [2, 14, 15, 16]]
    parts = [[torch.tensor(ids[0][:2]), _soft(engine, ids[0][2:5]), "w13"], [_soft(engine, ids[1]), ""]]
    inputs = prompt_inputs(engine, parts)
    logits = model(**inputs).logits[:, -1]
    for row, tokens in zip(logits, ids, strict=True):
        torch.testing.assert_close(row, model(torch.tensor([tokens])).logits[0, -1])


def test_padding_is_on_the_left_and_positions_begin_with_the_row() -> None:
    inputs = left_padded([torch.ones(3, 4), torch.ones(1, 4)])
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert not inputs["inputs_embeds"][1, :2].any()


def test_a_soft_prompt_of_another_model_is_refused(engine) -> None:
    soft = SoftPrompt(torch.zeros(2, 32), 4, "test", "something else")
    with pytest.raises(ValueError, match="made by test for a model with the weights something else"):
        prompt_inputs(engine, [["w9", soft]])


def test_a_context_stands_at_the_beginning_of_the_first_user_turn(engine) -> None:
    head, tail = around_context(engine, "w9 w10")
    words = engine.tokenizer.convert_ids_to_tokens
    assert words(head) == ["<user>"]
    assert words(tail) == ["w9", "w10", "<bot>"]
    head, tail = around_context(engine, "w9", raw=True)
    assert words(head) == [] and words(tail) == ["w9"]
    with pytest.raises(ValueError, match="empty"):
        around_context(engine, " ")


@pytest.mark.parametrize("first", [True, False])
def test_teacher_forcing_is_the_models_own_loss(model, first: bool) -> None:
    ids = [[2, 9, 10, 11, 12, 13, 14], [3, 4, 5, 6]]
    cuts = [3, 2]
    embed = model.get_input_embeddings()
    before = [embed(torch.tensor(row[:cut])) for row, cut in zip(ids, cuts, strict=True)]
    forced = teacher_forced(
        model, before, [torch.tensor(row[cut:]) for row, cut in zip(ids, cuts, strict=True)], first=first
    )
    expected = []
    for row, cut in zip(ids, cuts, strict=True):
        start = cut + (0 if first else 1)
        chances = model(torch.tensor([row])).logits[0].log_softmax(-1)
        expected.append(-sum(chances[place - 1, row[place]] for place in range(start, len(row))))
    torch.testing.assert_close(forced.nats, torch.stack(expected).float(), atol=1e-4, rtol=1e-4)
    assert forced.tokens.tolist() == ([4, 2] if first else [3, 1])
    torch.testing.assert_close(forced.loss.float(), forced.nats.sum() / forced.tokens.sum())


def test_what_is_measured_is_a_mean_over_the_tokens_of_all_batches() -> None:
    found = Measured()
    for nats, right, tokens in (([2.0, 4.0], 0.5, [1, 3]), ([6.0], 0.25, [4]), ([], float("nan"), [])):
        found.add("nll", Forced(torch.tensor(0.0), torch.tensor(nats), torch.tensor(tokens), torch.tensor(right)))
    assert (found.nats("nll"), found.right("nll"), found.nats("else")) == (1.5, 0.375, 0.0)
