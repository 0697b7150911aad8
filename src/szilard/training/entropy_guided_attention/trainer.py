"""The entropy regulariser in a plain Trainer of Hugging Face, for whoever has a training already.

    EntropyRegularizedTrainer(model, arguments, train_dataset=..., entropy_regularizer=EntropyRegularizer(L, H)).train()

Thresholds may have a learning rate of their own, have no weight decay, and lie in
`entropy_regularizer.safetensors` of every checkpoint, from which a resumed training takes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback

from szilard.options import check_number
from szilard.sessions.recorded_entropies import RecordedEntropies
from szilard.training.entropy_guided_attention.objective import UNDECAYED
from szilard.training.entropy_guided_attention.regularizer import EntropyRegularizer

FILE = "entropy_regularizer.safetensors"


class EntropyRegularizedTrainer(Trainer):
    """Trainer whose training loss is the model's plus the entropy penalty; evaluation is the model's loss alone.

    Args:
        entropy_regularizer: of the model's layers and heads.
        threshold_rate: largest learning rate of its thresholds; None: the model's. The schedule is the Trainer's.
        arguments, options: of Trainer; `model` is a decoder of transformers with an attention interface.

    Raises:
        TypeError: no regulariser.
        ValueError: one of another shape, several GPUs in one process, FSDP, DeepSpeed, gradient checkpointing, or a
            model that gives no entropies.
    """

    def __init__(
        self,
        *arguments: Any,
        entropy_regularizer: EntropyRegularizer,
        threshold_rate: float | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(entropy_regularizer, EntropyRegularizer):
            raise TypeError(f"entropy_regularizer must be one, not a {type(entropy_regularizer).__name__}.")
        check_number("threshold_rate", threshold_rate, low=0, optional=True)
        super().__init__(*arguments, **options)
        self.entropy_regularizer = entropy_regularizer
        self.threshold_rate = self.args.learning_rate if threshold_rate is None else threshold_rate
        entropy_regularizer.to(self.args.device)
        session = RecordedEntropies(self.model)  # refuses what it cannot measure
        shape = (len(session.layers), int(session.decoder.config.num_attention_heads))
        if tuple(entropy_regularizer.theta.shape) != shape:
            raise ValueError(
                f"the model has {shape[0]} layers of {shape[1]} heads, the regulariser "
                f"{list(entropy_regularizer.theta.shape)}: make it EntropyRegularizer({shape[0]}, {shape[1]})."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("the entropies are of whole layers, which FSDP and DeepSpeed take apart: train with DDP.")
        if self.args.gradient_checkpointing:
            raise ValueError("gradient_checkpointing attends again when nobody measures any more: set it to False.")
        if self.args.n_gpu > 1:
            raise ValueError("several GPUs in one process run copies of the model: start a process each (torchrun).")
        self._penalty: list[torch.Tensor] = []
        self.add_callback(_ClearThresholds(entropy_regularizer))
        if self.args.world_size > 1 and entropy_regularizer.theta.requires_grad:  # DDP does not know of thresholds
            entropy_regularizer.theta.register_hook(lambda grad: self.accelerator.reduce(grad, reduction="mean"))

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """The Trainer's, without temperatures, scales and gains of simplified models."""
        return [name for name in super().get_decay_parameter_names(model) if name.rpartition(".")[2] not in UNDECAYED]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's, and a group for the thresholds."""
        first = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if first and self.entropy_regularizer.theta.requires_grad:
            group = {"params": [self.entropy_regularizer.theta], "lr": self.threshold_rate, "weight_decay": 0.0}
            optimizer.add_param_group(group)
        return optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's loss and, in training, the penalty."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # Paper: output_attentions=True; here: entropies are taken inside the attention, because what transformers
        # returns has the dropout in it already, and holds the probabilities of all layers.
        with RecordedEntropies(self.accelerator.unwrap_model(model)).opened() as recorded:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        penalty = self.entropy_regularizer.of_entropies(recorded.stacked, mask=inputs.get("attention_mask"))
        self._penalty.append(penalty.detach())
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            penalty = penalty / self.current_gradient_accumulation_steps  # the loss is divided already
        return (loss + penalty, outputs) if return_outputs else loss + penalty

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Also the mean penalty since the last line, and the mean threshold."""
        if "loss" in logs and self._penalty:
            logs |= {"entropy_penalty": float(torch.stack(self._penalty).mean())}
            logs |= {"entropy_threshold": float(self.entropy_regularizer.theta.detach().mean())}
            self._penalty = []
        super().log(logs, *arguments, **options)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            state = {name: value.detach().cpu() for name, value in self.entropy_regularizer.state_dict().items()}
            save_file(state, Path(output_dir or str(self.args.output_dir)) / FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = Path(resume_from_checkpoint) / FILE
        if not file.is_file():
            raise ValueError(f"{resume_from_checkpoint!r} holds no {FILE}: it is a checkpoint of another training.")
        self.entropy_regularizer.load_state_dict(load_file(file))


class _ClearThresholds(TrainerCallback):
    """Trainer clears the gradients of its model alone; the thresholds' would add up."""

    def __init__(self, regularizer: EntropyRegularizer) -> None:
        self.regularizer = regularizer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.regularizer.theta.grad = None
