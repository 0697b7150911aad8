"""Prompts with vectors in them are the prompts with tokens, where the vectors are the tokens' own."""

from __future__ import annotations

import pytest
import torch

from szilard.engines import TransformersEngine
from szilard.engines.prepared_context import SoftPrompt
from szilard.engines.prompt_parts import around_context, left_padded, prompt_inputs
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
