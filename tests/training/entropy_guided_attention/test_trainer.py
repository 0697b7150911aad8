"""The regulariser in a plain Trainer: the loss it adds, its thresholds' own optimiser group, and resuming."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from szilard.training.entropy_guided_attention import EntropyRegularizer
from szilard.training.entropy_guided_attention.trainer import FILE, EntropyRegularizedTrainer
from tests.training.entropy_guided_attention.tiny import config, model_of, text

DATA = [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in text(16, 12)]


def trainer_for(folder, *, lam=1e-2, steps=4, cls=EntropyRegularizedTrainer, rate=1e-2, **options):
    torch.manual_seed(0)
    made = config()
    made.attn_pdrop = made.resid_pdrop = made.embd_pdrop = 0.0
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        weight_decay=0.1,
        lr_scheduler_type="constant",
        save_steps=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    model = GPT2LMHeadModel(made)
    if cls is Trainer:
        return Trainer(model, arguments, train_dataset=DATA)
    reg = EntropyRegularizer(2, 4, lam=lam)
    return cls(model, arguments, train_dataset=DATA, entropy_regularizer=reg, threshold_rate=rate)


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_without_weight_it_is_the_plain_trainer(tmp_path):
    plain, ours = trainer_for(tmp_path / "a", cls=Trainer), trainer_for(tmp_path / "b", lam=0.0)
    plain.train()
    ours.train()
    assert losses(ours) == pytest.approx(losses(plain), abs=1e-4)


def test_the_loss_is_the_models_and_the_penalty_of_its_attention(tmp_path):
    trainer = trainer_for(tmp_path)
    batch = {name: torch.stack([row[name] for row in DATA[:3]]) for name in DATA[0]}
    batch["attention_mask"][2, 9:] = 0
    batch["labels"] = batch["labels"].masked_fill(batch["attention_mask"] == 0, -100)
    trainer.model.train()
    found = trainer.compute_loss(trainer.model, dict(batch))
    trainer.model.eval()
    plain = trainer.compute_loss(trainer.model, dict(batch))
    trainer.model.set_attn_implementation("eager")
    attentions = trainer.model(**batch, output_attentions=True).attentions
    expected = trainer.entropy_regularizer(attentions, lengths=torch.tensor([12, 12, 9]))
    expected = expected.detach()
    assert float(expected) > 0
    assert float(found.detach() - plain.detach()) == pytest.approx(float(expected), rel=1e-3)


def test_thresholds_learn_at_their_own_rate_without_decay(tmp_path):
    trainer = trainer_for(tmp_path, rate=3e-2)
    trainer.train()
    group = trainer.optimizer.param_groups[-1]
    assert group["params"][0] is trainer.entropy_regularizer.theta
    assert group["lr"] == 3e-2 and group["weight_decay"] == 0.0
    assert not torch.equal(trainer.entropy_regularizer.theta, torch.full((2, 4), 0.5))
    assert any("entropy_penalty" in row for row in trainer.state.log_history)


def test_temperatures_and_scales_do_not_decay(tmp_path):
    trainer = trainer_for(tmp_path)
    names = trainer.get_decay_parameter_names(model_of("SM(t)+ScFuFFN"))
    assert {name.rpartition(".")[2] for name in names} == {"weight"}


def test_a_resumed_training_has_its_thresholds_back(tmp_path):
    whole = trainer_for(tmp_path / "whole")
    whole.train()
    stopped = trainer_for(tmp_path / "stopped", steps=2)
    stopped.train()
    assert (tmp_path / "stopped" / "checkpoint-2" / FILE).is_file()
    resumed = trainer_for(tmp_path / "stopped")
    resumed.train(resume_from_checkpoint=True)
    assert torch.allclose(resumed.entropy_regularizer.theta, whole.entropy_regularizer.theta, atol=1e-6)
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-4)
    (tmp_path / "stopped" / "checkpoint-4" / FILE).unlink()
    with pytest.raises(ValueError, match="checkpoint of another training"):
        trainer_for(tmp_path / "stopped", steps=6).train(resume_from_checkpoint=True)


def test_accumulated_batches_weigh_the_penalty_as_one_batch_on_average(tmp_path):
    trainer = trainer_for(tmp_path, gradient_accumulation_steps=2, steps=2)
    trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    row = next(row for row in trainer.state.log_history if "entropy_penalty" in row)
    assert row["loss"] == pytest.approx(4.11 + row["entropy_penalty"], abs=0.6)


def test_bad_input_is_told(tmp_path):
    with pytest.raises(TypeError, match="entropy_regularizer must be one"):
        EntropyRegularizedTrainer(entropy_regularizer=SimpleNamespace())
    torch.manual_seed(0)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(ValueError, match=r"make it EntropyRegularizer\(2, 4\)"):
        EntropyRegularizedTrainer(GPT2LMHeadModel(config()), arguments, entropy_regularizer=EntropyRegularizer(3, 4))
    checkpointing = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], gradient_checkpointing=True)
    with pytest.raises(ValueError, match="gradient_checkpointing attends again"):
        EntropyRegularizedTrainer(
            GPT2LMHeadModel(config()), checkpointing, entropy_regularizer=EntropyRegularizer(2, 4)
        )
