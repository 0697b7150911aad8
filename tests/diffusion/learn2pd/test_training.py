"""Training a filter: it learns, it is measured on prompts it has not seen, and it goes on where it stopped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from szilard.diffusion.learn2pd import training
from szilard.diffusion.learn2pd.config import FilterConfig
from szilard.diffusion.learn2pd.filter import BlockFilter
from szilard.diffusion.learn2pd.training import (
    FilterObjective,
    Steps,
    label_entropy,
    precision_and_recall,
    split_prompts,
    train_filter,
)
from tests.diffusion.learn2pd.rows import BASE, BLOCK, filled

LONG = FilterConfig(steps=400, learning_rate=0.03, save_every=400, log_every=100)
SHORT = FilterConfig(steps=30, learning_rate=0.02, save_every=10, log_every=10)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("collected") / "rows")


def test_the_defaults_are_the_papers():
    config = FilterConfig()
    assert (config.steps, config.learning_rate, config.rows_per_step) == (40_000, 3e-3, None)
    assert (config.schedule, config.warmup, config.weight_decay, config.max_grad_norm) == ("constant", 0, 0.01, 0)


def test_a_trained_filter_beats_the_entropy_of_the_labels_on_unseen_prompts(rows, tmp_path):
    metrics = train_filter(rows, LONG, tmp_path, device="cpu")
    assert [metrics[f"{part}_prompts"] for part in training.PARTS] == [24, 3, 3]
    assert metrics["train_rows"] == 240 and metrics["test_rows"] == 30
    for part in training.PARTS:
        assert metrics[f"{part}_loss"] < 0.75 * metrics[f"{part}_label_entropy"]
        assert 0.8 < metrics[f"{part}_precision"] <= 1 and metrics[f"{part}_false_share"] < 0.2
    made = BlockFilter.from_pretrained(tmp_path)
    assert made.base == BASE and (made.mask_token_id, made.block_length) == (48, BLOCK)
    test = rows[split_prompts(rows.prompt, 0)["test"]]
    with torch.no_grad():
        loss = torch.nn.functional.binary_cross_entropy_with_logits(made(test["confidence"]), test["label"].float())
    assert float(loss) == pytest.approx(metrics["test_loss"], abs=1e-6)


def test_a_stopped_training_ends_as_one_that_was_not_stopped(rows, tmp_path, monkeypatch):
    whole = train_filter(rows, SHORT, tmp_path / "whole", device="cpu")
    steps, forward = 0, FilterObjective.forward

    def stopping(self, **batch):
        nonlocal steps
        steps += 1
        if steps == 25:
            raise KeyboardInterrupt
        return forward(self, **batch)

    monkeypatch.setattr(FilterObjective, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_filter(rows, SHORT, tmp_path / "stopped", device="cpu")
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    assert train_filter(rows, SHORT, tmp_path / "stopped", device="cpu") == whole
    assert steps == 25 + 10  # from the checkpoint at step 20


def test_parts_have_prompts_of_their_own():
    prompts = np.repeat(np.arange(20), np.arange(1, 21))
    parts = split_prompts(prompts, seed=3)
    whose = [set(prompts[numbers].tolist()) for numbers in parts.values()]
    assert [len(part) for part in whose] == [16, 2, 2]
    assert not whose[0] & whose[1] and not (whose[0] | whose[1]) & whose[2]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(prompts)))
    few = split_prompts(np.array([4, 4, 9, 11]), 0).values()
    assert sorted(numbers.tolist() for numbers in few) == [[0, 1], [2], [3]]
    with pytest.raises(ValueError, match="of 2 prompts, but at least 3"):
        split_prompts(np.array([4, 9, 9]), 0)


def test_a_step_looks_at_all_rows_or_at_a_share_in_turn(rows):
    every = rows[np.arange(len(rows))]
    full = Steps(every, 5, None, 0)
    assert len(full) == 5 and all(torch.equal(full[step]["confidence"], every["confidence"]) for step in range(5))
    parts = Steps(every, 7, 100, 0)
    assert [len(parts[step]["label"]) for step in range(7)] == [100] * 7
    seen = torch.cat([parts[step]["confidence"] for step in range(3)])
    assert torch.equal(seen.flatten().sort().values, every["confidence"].flatten().sort().values)
    assert torch.equal(parts[3]["label"], parts[0]["label"])


def test_precision_and_recall_are_shares_of_the_accepted_and_of_the_final():
    accepted = torch.tensor([[True, True, False, False], [True, True, False, False]])
    label = torch.tensor([[True, False, True, False], [True, True, True, True]])
    precision, recall = precision_and_recall(accepted, label)
    assert (float(precision), float(recall)) == (3 / 4, 3 / 6)
    assert [float(value) for value in precision_and_recall(accepted & False, label)] == [1, 0]
    assert [float(value) for value in precision_and_recall(accepted, label & False)] == [0, 1]


def test_label_entropy_is_that_of_a_coin():
    assert label_entropy(torch.tensor([[True, False]])) == pytest.approx(math.log(2))
    assert label_entropy(torch.tensor([[True, True]])) == 0


def test_another_run_is_not_gone_on_with(rows, tmp_path):
    short = FilterConfig(steps=2, save_every=2, log_every=2)
    train_filter(rows, short, tmp_path / "a", device="cpu")
    other = FilterConfig(steps=2, save_every=2, log_every=2, layers=1)
    with pytest.raises(ValueError, match="a training with other settings or rows"):
        train_filter(rows, other, tmp_path / "a", device="cpu")
    train_filter(rows, other, tmp_path / "a", device="cpu", restart=True)
    assert BlockFilter.from_pretrained(tmp_path / "a").net[0].weight.shape == (BLOCK, BLOCK)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="something else than a training"):
        train_filter(rows, short, tmp_path / "b", device="cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": None}, "steps must be a number"),
        ({"batch_size": 8}, "set rows_per_step"),
        ({"rows_per_step": 0}, "rows_per_step"),
        ({"threshold": 1.5}, "threshold"),
    ],
)
def test_wrong_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        FilterConfig(**options)
