"""The loss of a batch for the one training loop: cross entropy, and the entropy penalty beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from szilard.sessions.recorded_entropies import RecordedEntropies
from szilard.training.entropy_guided_attention.regularizer import EntropyRegularizer

THETA = "regularizer.theta"
UNDECAYED = ("theta", "rho", "alpha", "beta", "gain")  # thresholds, temperatures, scales: 0 is no rest for them


class EntropyGuidedObjective(nn.Module):
    """A batch of texts: {"loss", "nats", "penalty", "entropy", "theta"}; in eval mode the loss is the nats.

    Args:
        model: a decoder, all of whose weights are trained.
        regularizer: None: cross entropy alone.
        learning_rate: the largest, of the model.
        threshold_rate: the largest, of the thresholds.
        weight_decay: of the model.
    """

    def __init__(
        self,
        model: Any,
        regularizer: EntropyRegularizer | None,
        *,
        learning_rate: float,
        threshold_rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.model, self.regularizer = model, regularizer
        self._rates = learning_rate, threshold_rate
        self._decay = weight_decay

    def learning_rate_of(self, name: str) -> float:
        """Of a parameter of this module."""
        return self._rates[1 if name == THETA else 0]

    def weight_decay_of(self, name: str) -> float:
        """Of a parameter: none for thresholds, temperatures and scales, which it would draw to 0; none for biases and
        norms, as transformers has it."""
        last = name.rpartition(".")[2]
        kept = last in (*UNDECAYED, "bias") or ".ln_" in name or "norm" in name
        return 0.0 if kept else self._decay

    def forward(self, ids: torch.Tensor, real: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """int64 [batch, n], and bool [batch, n] of padded batches."""
        labels = ids if real is None else ids.masked_fill(~real, -100)
        if self.regularizer is None or not self.training:
            out = self.model(input_ids=ids, attention_mask=real, labels=labels, use_cache=False)
            return {"loss": out.loss, "nats": out.loss.detach()}
        with RecordedEntropies(self.model).opened() as recorded:
            out = self.model(input_ids=ids, attention_mask=real, labels=labels, use_cache=False)
        rows = recorded.stacked
        penalty = self.regularizer.of_entropies(rows, mask=real)
        found = {"loss": out.loss + penalty, "nats": out.loss.detach(), "penalty": penalty.detach()}
        measured = rows.detach()
        found["entropy"] = (measured if real is None else measured[:, real[:, None].expand(rows.shape[1:])]).mean()
        return found | {"theta": self.regularizer.theta.detach().mean()}
