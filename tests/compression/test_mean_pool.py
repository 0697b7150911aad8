"""Mean pooling, the baseline of soft compressors: what it averages, what its training changes."""

from __future__ import annotations

import json

import pytest
import torch

import szilard
from szilard.compression.mean_pool.config import MeanPoolConfig
from szilard.compression.mean_pool.method import MeanPool
from szilard.compression.mean_pool.modules import MeanPoolProjector, hidden_states
from szilard.compression.mean_pool.training import train_mean_pool

SMALL = MeanPoolConfig(steps=3, batch_size=2, save_every=3, log_every=1, context=10, target=6, held_out=0.2)


@pytest.mark.parametrize(("length", "ratio"), [(8, 4), (9, 4), (3, 4), (5, 1), (7, 100)])
def test_neighbours_are_averaged_and_the_last_mean_is_of_what_is_left(length: int, ratio: int) -> None:
    projector = MeanPoolProjector({"hidden_size": 6, "vocab_size": 10}, layer=1, ratio=ratio, scale=0.1)
    hidden = torch.randn(length, 6, generator=torch.Generator().manual_seed(0))
    means = torch.stack([group.mean(0) for group in hidden.split(ratio)])
    torch.testing.assert_close(projector(hidden), projector(means, 1))
    assert len(projector(hidden)) == -(-length // ratio)


def test_only_the_projector_learns_and_positions_fall_by_the_ratio(engine, tmp_path) -> None:
    file = tmp_path / "texts.jsonl"
    texts = [" ".join(f"w{7 + (5 * index + place) % 80}" for place in range(32)) for index in range(6)]
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    before = {name: weight.clone() for name, weight in engine.model.state_dict().items()}
    metrics = train_mean_pool(engine, file, SMALL, tmp_path / "out")
    assert set(metrics) == {"nats", "nats_full", "nats_without", "right"}
    assert all(torch.equal(weight, before[name]) for name, weight in engine.model.state_dict().items())
    assert all(weight.grad is None for weight in engine.model.parameters())
    method = MeanPool.from_pretrained(tmp_path / "out")
    soft = szilard.compress(texts[0], method, engine=engine)
    assert (soft.original_tokens, soft.positions) == (32, 8)
    assert szilard.compress(texts[0], method, 0.5, engine=engine).positions == 16


def test_hidden_states_of_a_context_do_not_depend_on_its_batch(engine) -> None:
    rows = [torch.arange(10, 10 + length) for length in (3, 7)]
    together = hidden_states(engine.model, rows, 1)
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found, hidden_states(engine.model, [row], 1)[0], atol=1e-5, rtol=1e-5)
