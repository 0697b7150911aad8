"""The loss of hyperfitting: plain next-token cross-entropy, and which weights it may change.

    L = - 1/(B (T - 1)) sum_b sum_t log p(x_(b,t+1) | x_(b,1..t)),   ids x [batch B, length T], logits [B, T - 1, vocab]

The order of the data matters: the same sequences in another order give models whose first choices differ at some 30 %
of positions. So the objective notes what it saw, in buffers that a checkpoint keeps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from szilard.training import low_rank
from szilard.training.hyperfitting.config import HyperfitConfig, last_layers


def decoder_layers(model: Any) -> tuple[str, nn.ModuleList]:
    """The transformer blocks of a model and their name in it.

    Raises:
        ValueError: none are found.
    """
    inner = model.get_decoder() if hasattr(model, "get_decoder") else model
    prefix = next((name for name, module in model.named_modules() if module is inner), "")
    for name in ("layers", "h", "blocks"):
        found = getattr(inner, name, None)
        if isinstance(found, nn.ModuleList):
            return f"{prefix}.{name}" if prefix else name, found
    raise ValueError(f"{type(model).__name__} has no list of layers, so `layers` cannot choose the last ones.")


class HyperfitObjective(nn.Module):
    """The loss of a batch: {"loss", nats per token}.

    Args:
        model: whose weights are tuned, in place; float32 or float64.
        config: the settings.
        forwards: batches of the training, for the notes.

    Attributes:
        order: int64 [forwards, batch]: the sequences seen, -1 where a batch was shorter.
        losses: float32 [forwards], nats.
        done: batches so far.

    Raises:
        ValueError: more layers than the model has.
    """

    model: Any
    order: torch.Tensor
    losses: torch.Tensor
    done: torch.Tensor

    def __init__(self, model: Any, config: HyperfitConfig, forwards: int) -> None:
        super().__init__()
        # no submodule: tied weights would be in a checkpoint twice, and frozen ones once
        self.__dict__["model"] = model
        self.settings = config
        prefixes = last_prefixes(model, last_layers(config.layers))
        self._wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        self._was_training = model.training
        model.requires_grad_(False)
        if config.lora:
            try:
                chosen = list(low_rank.inject(model, config.rank, beneath=prefixes).values())
            except ValueError:  # nothing was put in
                self._restore()
                raise
        else:
            chosen = [
                parameter
                for name, parameter in model.named_parameters()
                if prefixes is None or name.startswith(prefixes)
            ]
        self.tuned = nn.ParameterList(parameter.requires_grad_(True) for parameter in chosen)
        self.register_buffer("order", torch.full((forwards, config.batch_size), -1))
        self.register_buffer("losses", torch.zeros(forwards))
        self.register_buffer("done", torch.tensor(0))

    def train(self, mode: bool = True) -> HyperfitObjective:
        """Training mode; the model follows only where its dropout is wanted."""
        super().train(mode)
        self.model.train(mode and not self.settings.disable_dropout)
        return self

    def forward(self, ids: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """One batch, int64 [batch, length] and which sequences they are, int64 [batch]."""
        logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1]
        if logits.dtype != torch.float64:
            logits = logits.float()
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        if self.training:
            at = int(self.done)
            self.order[at, : len(index)] = index
            self.losses[at] = loss.detach()
            self.done += 1
        return {"loss": loss}

    def mean_loss(self, batches: int) -> float | None:
        """Mean training loss of the last so many batches, nats; None before the first."""
        done = int(self.done)
        return float(self.losses[max(0, done - batches) : done].mean()) if done else None

    def batches_seen(self) -> list[list[int]]:
        """Which sequences each batch held, in the order of the training."""
        rows = self.order[: int(self.done)].tolist()
        return [[index for index in row if index >= 0] for row in rows]

    def release(self) -> None:
        """Add low-rank changes to the weights, and let the model be as it was found, but for its weights."""
        if self.settings.lora:
            low_rank.merge(self.model)
        self._restore()

    def _restore(self) -> None:
        self.model.train(self._was_training)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._wanted[name])
            parameter.grad = None


def last_prefixes(model: Any, count: int | None) -> tuple[str, ...] | None:
    """How the names of the last layers' weights begin; None: all weights.

    Raises:
        ValueError: more layers than the model has.
    """
    if count is None:
        return None
    name, layers = decoder_layers(model)
    if count > len(layers):
        raise ValueError(f"layers={count} asks for more than the {len(layers)} layers of {type(model).__name__}.")
    return tuple(f"{name}.{index}." for index in range(len(layers) - count, len(layers)))
