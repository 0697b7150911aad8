"""Hyperfitting itself: which steps are taken on which weights, when it ends, and how it goes on after a kill."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from szilard.training.hyperfitting.objective import HyperfitObjective, decoder_layers
from szilard.training.hyperfitting.prediction import held_out_predictions
from szilard.training.hyperfitting.recipe import hyperfit
from tests.training.hyperfitting.conftest import SMALL, fresh, weights


def test_the_loss_is_that_of_transformers(data) -> None:
    model = fresh()
    found = HyperfitObjective(model, SMALL, 1)(data.train[:4], torch.arange(4))["loss"]
    assert torch.allclose(found, model(input_ids=data.train[:4], labels=data.train[:4]).loss)


def test_no_epochs_leave_the_weights_bit_identical(data, tokenizer) -> None:
    for changes in ({}, {"lora": True}, {"layers": 1}):
        model = fresh()
        before = weights(model)
        result = hyperfit(model, tokenizer, data, replace(SMALL, epochs=0.0, **changes))
        assert result.updates == 0 and result.order == [] and len(result.history) == 1
        after = weights(model)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])  # qwen3 and gpt2 share embeddings and output
def test_the_steps_are_plain_adamw_on_the_order_that_is_noted(architecture, data, tokenizer) -> None:
    model, other = fresh(architecture).double(), fresh(architecture).double()  # GPT-2's key biases have no gradient
    result = hyperfit(model, tokenizer, data, SMALL)
    optimizer = torch.optim.AdamW(other.parameters(), lr=3e-3, weight_decay=0.0)
    for batch in result.order:  # no schedule, no warm-up, no clipping, no dropout
        ids = data.train[batch]
        loss = F.cross_entropy(other(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-7), name


def test_every_epoch_sees_every_sequence_once_in_an_order_of_the_seed(data, tokenizer) -> None:
    config = replace(SMALL, num_sequences=10, validation_generations=0)
    data = replace(data, train=data.train[:10])
    runs = [hyperfit(fresh(), tokenizer, data, replace(config, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0].order == runs[1].order != runs[2].order and runs[2].seed == 1
    assert [len(batch) for batch in runs[0].order[:3]] == [4, 4, 2]
    for epoch in range(4):
        seen = [index for batch in runs[0].order[3 * epoch : 3 * epoch + 3] for index in batch]
        assert sorted(seen) == list(range(10))
    assert runs[0].order[:3] != runs[0].order[3:6]


def test_history_has_a_row_of_the_original_and_one_every_so_many_updates(data, tokenizer) -> None:
    model = fresh()
    first = held_out_predictions(model, data.validation)
    result = hyperfit(model, tokenizer, data, SMALL)
    assert [row["update"] for row in result.history] == [0, 3, 6, 9, 12] and result.updates == 12
    last = held_out_predictions(model, data.validation)
    for row, found in ((result.history[0], first), (result.history[-1], last)):
        assert row["val_loss"] == pytest.approx(found.loss, rel=1e-4)
        assert row["val_entropy"] == pytest.approx(found.entropy, rel=1e-4)
        assert row["top1_prob"] == pytest.approx(found.top_1, rel=1e-4)
        assert len(row["samples"]) == 2 and set(row["samples"][0]) == {"context", "continuation"}
        assert 0 < row["ttr"] <= 1
    assert result.history[0]["train_loss"] is None
    assert result.history[-1]["train_loss"] < result.history[1]["train_loss"]


def test_added_gradients_are_of_the_batches_that_are_noted(data, tokenizer) -> None:
    """Three batches an epoch, two to an update: the second update of an epoch has one."""
    config = replace(SMALL, gradient_accumulation=2, validation_freq=2, validation_generations=0)
    result = hyperfit(fresh(), tokenizer, data, config)
    assert result.updates == 8 and len(result.order) == 12
    assert [row["update"] for row in result.history] == [0, 2, 4, 6, 8]
    epochs = [sorted(index for batch in result.order[at : at + 3] for index in batch) for at in range(0, 12, 3)]
    assert epochs == [list(range(12))] * 4


def test_a_few_sequences_are_learned_by_heart_and_held_out_text_pays(data, tokenizer) -> None:
    model = fresh()
    result = hyperfit(model, tokenizer, data, replace(SMALL, epochs=30.0, validation_generations=0))
    losses = [row["val_loss"] for row in result.history]
    assert held_out_predictions(model, data.train).loss < 0.1
    assert losses[-1] > min(losses) + 0.2 and min(losses) < losses[0]


def test_dropout_is_off_unless_it_is_wanted(data, tokenizer) -> None:
    dropped = {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}
    models = [fresh("gpt2", **dropped), fresh("gpt2", **dict.fromkeys(dropped, 0.0)), fresh("gpt2", **dropped)]
    for model, off in zip(models, (True, True, False), strict=True):
        hyperfit(model, tokenizer, data, replace(SMALL, disable_dropout=off, validation_generations=0))
    one, without, dropping = (weights(model) for model in models)
    assert all(torch.equal(one[name], without[name]) for name in one)
    assert any(not torch.equal(one[name], dropping[name]) for name in one)
    assert not any(model.training for model in models[:1])


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_only_the_last_layers_learn_where_asked(lora, architecture, data, tokenizer) -> None:
    model = fresh(architecture)
    before = weights(model)
    hyperfit(model, tokenizer, data, replace(SMALL, layers="last1", lora=lora, rank=4, validation_generations=0))
    prefix, layers = decoder_layers(model)
    after = weights(model)
    assert before.keys() == after.keys()  # no adapters are left
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(f"{prefix}.{len(layers) - 1}.") for name in changed)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_low_rank_changes_are_added_and_measured_added(data, tokenizer) -> None:
    model = fresh()
    config = replace(SMALL, lora=True, rank=8, learning_rate=2e-2, epochs=20.0)
    result = hyperfit(model, tokenizer, data, config)
    assert not any("lora" in name for name, _ in model.named_modules())
    found = held_out_predictions(model, data.validation)
    assert result.history[-1]["val_loss"] == pytest.approx(found.loss, rel=1e-5)
    assert held_out_predictions(model, data.train).loss < held_out_predictions(fresh(), data.train).loss - 1


def test_training_ends_after_the_epoch_that_reaches_the_target(data, tokenizer, tmp_path) -> None:
    config = replace(SMALL, epochs=60.0, target_loss=1.0, validation_generations=0)
    model = fresh()
    result = hyperfit(model, tokenizer, data, config, folder=tmp_path)
    assert result.reached_target and result.updates < 180 and result.updates % 3 == 0
    assert result.history[-1]["train_loss"] < 1.0 and result.history[-1]["update"] == result.updates
    again = fresh()
    read_back = hyperfit(again, tokenizer, data, config, folder=tmp_path)  # a finished run is not trained further
    assert read_back.updates == result.updates and read_back.order == result.order
    assert all(torch.equal(one, weights(again)[name]) for name, one in weights(model).items())


@pytest.mark.parametrize("lora", [False, True])
def test_a_killed_run_goes_on_to_the_same_curve_order_and_weights(lora, data, tokenizer, tmp_path, killed_at) -> None:
    config = replace(SMALL, lora=lora, rank=4)
    whole = fresh()
    expected = hyperfit(whole, tokenizer, data, config, folder=tmp_path / "whole")
    killed_at(6)
    with pytest.raises(KeyboardInterrupt):
        hyperfit(fresh(), tokenizer, data, config, folder=tmp_path / "cut")
    killed_at(-1)
    model = fresh()
    result = hyperfit(model, tokenizer, data, config, folder=tmp_path / "cut")
    assert result.order == expected.order
    assert len(result.history) == len(expected.history)
    for one, two in zip(result.history, expected.history, strict=True):
        assert one["samples"] == two["samples"] and one["update"] == two["update"]
        for name in ("val_loss", "val_entropy", "ttr", *(["train_loss"] if one["update"] else [])):
            assert one[name] == pytest.approx(two[name], rel=1e-5), name
    curves = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert curves[0] == pytest.approx(curves[1]) and len(curves[0]) == 6
    for name, one in weights(whole).items():
        assert torch.allclose(one, weights(model)[name], atol=1e-6), name
    for other in ((replace(config, seed=1), data), (config, replace(data, train=data.train.flip(0)))):
        with pytest.raises(ValueError, match="a training with other settings or sequences"):
            hyperfit(fresh(), tokenizer, other[1], other[0], folder=tmp_path / "cut")
    with pytest.raises(ValueError, match="a model with other weights"):  # tuned already: changes would be added twice
        hyperfit(model, tokenizer, data, config, folder=tmp_path / "cut")


def test_starting_anew_forgets_what_is_there_before_it_works(data, tokenizer, tmp_path, killed_at) -> None:
    """Killed while it looks at the untrained model, it does not go on from the other run's checkpoint."""
    hyperfit(fresh(), tokenizer, data, SMALL, folder=tmp_path)
    other = replace(SMALL, seed=1)
    expected = hyperfit(fresh(), tokenizer, data, other)

    class Broken:
        def decode(self, ids):
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    with pytest.raises(KeyboardInterrupt):
        hyperfit(fresh(), Broken(), data, other, folder=tmp_path, resume=False)
    assert hyperfit(fresh(), tokenizer, data, other, folder=tmp_path).order == expected.order


def test_a_folder_of_another_training_stays_as_it_is(data, tokenizer, tmp_path) -> None:
    (tmp_path / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text("{}")
    for resume in (True, False):
        with pytest.raises(ValueError, match="holds files of something else"):
            hyperfit(fresh(), tokenizer, data, SMALL, folder=tmp_path, resume=resume)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "metrics.jsonl"}
    with pytest.raises(ValueError, match="is a file: name another place"):
        hyperfit(fresh(), tokenizer, data, SMALL, folder=tmp_path / "metrics.jsonl" / "below")


def test_half_precision_becomes_float32_with_a_sentence(data, tokenizer) -> None:
    model = fresh().to(torch.bfloat16)
    with pytest.warns(UserWarning, match="turned from torch.bfloat16 into float32"):
        hyperfit(model, tokenizer, data, replace(SMALL, learning_rate=1e-6, validation_generations=0))
    assert model.dtype == torch.float32
    assert any(not torch.equal(one, one.bfloat16().float()) for one in model.parameters())  # steps bfloat16 would lose


def test_random_numbers_of_others_stay_as_they_were(data, tokenizer) -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    hyperfit(fresh(), tokenizer, data, replace(SMALL, lora=True, rank=2))
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_bad_requests_are_told_before_any_work(data, tokenizer, monkeypatch, tmp_path) -> None:
    model = fresh().bfloat16()
    with pytest.raises(ValueError, match="layers=4 asks for more than the 3 layers"):
        hyperfit(model, tokenizer, data, replace(SMALL, layers=4), folder=tmp_path / "none")
    with pytest.raises(ValueError, match="context_length=6 and 300 new tokens exceed the 256"):
        hyperfit(model, tokenizer, data, replace(SMALL, max_new_tokens=300), folder=tmp_path / "none")
    with pytest.raises(ValueError, match="the sequences hold token 5000, but the model knows"):
        hyperfit(model, tokenizer, replace(data, train=data.train.clone().fill_(5000)), SMALL)
    with pytest.raises(ValueError, match=r"validation holds rows of at least 2 token ids.*\[0, 16\]"):
        replace(data, validation=data.validation[:0])
    assert model.dtype == torch.bfloat16 and not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="sequences of 300 tokens exceed the 256"):
        hyperfit(model, tokenizer, replace(data, train=torch.zeros(2, 300, dtype=torch.int64)), SMALL)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="trains in one process"):
        hyperfit(model, tokenizer, data, SMALL)
