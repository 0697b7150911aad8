"""Rows join a running state and leave it (continuous batching)."""

from __future__ import annotations

from typing import Any

import torch

from szilard.engines import TransformersEngine
from tests.conftest import tiny_model, tiny_tokenizer


def test_rows_of_different_age_decode_as_if_alone() -> None:
    engine = TransformersEngine(tiny_model("llama").double(), tiny_tokenizer(), name="tiny")
    prompts = [torch.tensor([3, 4, 5]), torch.tensor([9]), torch.tensor([7] * 12)]
    alone = [engine.generate(prompt, max_new_tokens=12, raw=True).tokens for prompt in prompts]
    found: list[list[int]] = [[], [], []]
    state, tokens, rows = None, torch.zeros(0, dtype=torch.long), []

    def commit(one: Any, logits: torch.Tensor, places: list[int]) -> torch.Tensor:
        chosen = logits.argmax(-1)
        one.commit(chosen)
        for place, token in zip(places, chosen.tolist(), strict=True):
            found[place].append(token)
        return chosen

    for place, prompt in enumerate(prompts):
        other = engine.state(prompt, max_new_tokens=64, raw=True)
        first = commit(other, other.prefill(), [place])
        if state is None:
            state = other
        else:
            assert state.can_extend
            state.extend(other)
        rows, tokens = [*rows, place], torch.cat([tokens, first])
        for _ in range(3):
            tokens = commit(state, state.feed(tokens)[:, -1], rows)
    assert state is not None and state.generated_tokens() == found
    state.select(torch.tensor([1, 0]))
    slots = state._slots
    state.trim(1)
    assert state._slots < slots
    tokens = tokens[[1, 0]]
    for _ in range(2):
        tokens = commit(state, state.feed(tokens)[:, -1], [1, 0])
    for own, whole in zip(found, alone, strict=True):
        assert own[: len(whole)] == whole[: len(own)]
