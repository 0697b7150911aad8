"""The decoding state's verbs on every tiny architecture: the cache holds what a fresh prompt would put there."""

from __future__ import annotations

import pytest
import torch

import szilard
from szilard.engines.mixing import mix_rows
from szilard.engines.transformers_state import TransformersState
from tests.conftest import PAD, VOCAB, prompt_batch, tiny_model


def open_state(model, rows=1, *, inputs=None, max_new_tokens=60, **options) -> TransformersState:
    """A state whose prompt is prefilled; the logits are `state.first`."""
    captured = []

    class Capture(szilard.Method):
        slug, paper = "capture", "none"

        @classmethod
        def neutral(cls):
            return cls()

        def decode(self, state):
            state.first = state.prefill()
            captured.append(state)

    inputs = inputs or prompt_batch(rows)
    model.generate(
        **inputs,
        custom_generate=Capture(),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        **{"eos_token_id": None} | options,
    )
    return captured[0]


def fresh_logits(model, rows: list[list[int]]) -> torch.Tensor:
    """Next-token logits of whole prompts, each alone: the ground truth."""
    return torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])


def prompts(rows):
    inputs = prompt_batch(rows)
    return [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


@torch.no_grad()
def test_feeding_several_tokens_scores_each_position(model):
    state, texts = open_state(model, 3), prompts(3)
    new = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    logits = state.feed(new)
    assert logits.shape == (3, 3, VOCAB)
    for position in range(3):
        expected = fresh_logits(model, [text + new[row, : position + 1].tolist() for row, text in enumerate(texts)])
        assert torch.allclose(logits[:, position], expected, atol=1e-9)


@torch.no_grad()
def test_feeding_an_embedding_is_feeding_its_token(model):
    tokens = torch.tensor([5, 6])
    by_token = open_state(model, 2).feed(tokens)
    state = open_state(model, 2)
    by_vector = state.feed(embeddings=state.embed(tokens)[:, None])
    assert torch.allclose(by_token, by_vector, atol=1e-9)


@pytest.mark.parametrize("drops", [[2, 2, 2], [0, 1, 3], [4, 0, 2]])
@torch.no_grad()
def test_rows_rewind_by_different_lengths(model, drops):
    state, texts = open_state(model, 3), prompts(3)
    start = state.cached.clone()
    assert start.tolist() == [len(text) for text in texts]
    draft = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])
    state.feed(draft, rewindable=True)
    state.rewind(start + 4 - torch.tensor(drops))
    kept = [text + draft[row, : 4 - drops[row]].tolist() for row, text in enumerate(texts)]
    assert state.cached.tolist() == [len(text) for text in kept]
    for step in range(9):  # long enough to pass the sliding window of 6
        token = torch.tensor([20 + step, 30 + step, 40 + step])
        logits = state.feed(token)[:, -1]
        kept = [[*text, int(token[row])] for row, text in enumerate(kept)]
        assert torch.allclose(logits, fresh_logits(model, kept), atol=1e-9)


@torch.no_grad()
def test_repeated_ragged_rewinds_keep_the_cache_exact(model):
    state, kept = open_state(model, 3), prompts(3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        draft = torch.randint(3, VOCAB, (3, 4), generator=generator)
        keep = torch.randint(0, 5, (3,), generator=generator)
        before = state.cached.clone()
        state.feed(draft, rewindable=True)
        state.rewind(before + keep)
        kept = [text + draft[row, : keep[row]].tolist() for row, text in enumerate(kept)]
    token = torch.tensor([50, 51, 52])
    logits = state.feed(token)[:, -1]
    assert torch.allclose(
        logits, fresh_logits(model, [[*t, int(x)] for t, x in zip(kept, token, strict=True)]), atol=1e-9
    )


@torch.no_grad()
def test_rewind_refuses_to_lengthen(llama):
    state = open_state(llama)
    with pytest.raises(ValueError, match="rewind can only shorten"):
        state.rewind(state.cached + 1)


@torch.no_grad()
def test_a_full_sliding_window_that_was_not_told_to_remember_refuses_to_rewind():
    state = open_state(tiny_model("gemma3"))
    state.feed(torch.tensor([[5, 6, 7]]))
    with pytest.raises(ValueError, match="rewindable=True"):
        state.rewind(state.cached - 2)


@torch.no_grad()
def test_a_fork_is_independent_of_its_origin(model):
    state, texts = open_state(model, 2), prompts(2)
    twin = state.fork(2)
    assert twin.batch_size == 4
    twin.feed(torch.tensor([60, 61, 62, 63]))
    logits = twin.feed(torch.tensor([70, 71, 72, 73]))[:, -1]
    paths = [texts[row // 2] + [60 + row, 70 + row] for row in range(4)]
    assert torch.allclose(logits, fresh_logits(model, paths), atol=1e-9)
    own = state.feed(torch.tensor([80, 81]))[:, -1]
    assert torch.allclose(own, fresh_logits(model, [texts[0] + [80], texts[1] + [81]]), atol=1e-9)
    assert twin.cost is state.cost


@torch.no_grad()
def test_select_reorders_and_repeats_rows(model):
    state, texts = open_state(model, 3), prompts(3)
    state.select(torch.tensor([2, 0, 0, 1]))
    logits = state.feed(torch.tensor([60, 61, 62, 63]))[:, -1]
    expected = fresh_logits(model, [texts[2] + [60], texts[0] + [61], texts[0] + [62], texts[1] + [63]])
    assert torch.allclose(logits, expected, atol=1e-9)
    assert state.tokens.shape[0] == state.finished.shape[0] == 4


@torch.no_grad()
def test_rows_that_commit_different_numbers_of_tokens_stay_right_aligned(llama):
    state = open_state(llama, 2)
    state.commit(torch.tensor([[5, 6, 7], [8, 9, 10]]), counts=torch.tensor([3, 1]))
    assert state.tokens[:, -1].tolist() == [7, 8]
    state.commit(torch.tensor([11, 12]))
    assert state.generated_tokens() == [[5, 6, 7, 11], [8, 12]]
    assert state.sequences[1, 11:].tolist() == [8, 12, PAD, PAD]
    assert torch.equal(state.sequences[:, :11], prompt_batch(2)["input_ids"])


@torch.no_grad()
def test_a_row_that_ends_inside_a_commit_drops_the_rest(llama):
    state = open_state(llama, 2, eos_token_id=6)
    state.commit(torch.tensor([[5, 6, 7], [8, 9, 10]]))
    assert state.generated_tokens() == [[5, 6], [8, 9, 10]]
    assert state.finished.tolist() == [True, False]


@torch.no_grad()
def test_the_length_limit_counts_per_row(llama):
    state = open_state(llama, 2, max_new_tokens=4)
    state.commit(torch.tensor([[5, 6, 7], [8, 9, 10]]), counts=torch.tensor([3, 1]))
    state.commit(torch.tensor([[11, 12], [13, 14]]))
    assert state.generated_tokens() == [[5, 6, 7, 11], [8, 13, 14]]
    assert state.finished.tolist() == [True, False] and not state.done
    state.commit(torch.tensor([15, 16]))
    assert state.generated_tokens()[1] == [8, 13, 14, 16] and state.done


@torch.no_grad()
def test_hidden_states_come_when_asked_for(llama):
    state = open_state(llama, 2)
    state.feed(torch.tensor([5, 6]))
    assert state.hidden is None
    state.feed(torch.tensor([[5, 6], [7, 8]]), hidden_states=True)
    assert state.hidden.shape == (2, 2, 32)


def test_a_mixture_is_exact_whether_few_or_many_tokens_hold_the_mass():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20000, 16, generator=generator)
    for sharpness in (0.0, 1.0, 30.0):
        p = torch.softmax(sharpness * torch.randn(3, 20000, generator=generator), -1)
        exact = (p.double() @ weight.double()).float()
        assert torch.allclose(mix_rows(p, weight), exact, atol=1e-5)
        half = mix_rows(p, weight.bfloat16())
        assert torch.allclose(half, (p.double() @ weight.bfloat16().double()).float(), atol=1e-5)


def test_padded_vocabulary_rows_are_left_out_of_a_mixture():
    weight = torch.eye(5)
    assert torch.allclose(mix_rows(torch.full((1, 7), 0.2), weight)[0], torch.full((5,), 0.2))
    assert torch.allclose(mix_rows(torch.full((1, 3), 1 / 3), weight)[0, :3], torch.full((3,), 1 / 3))
