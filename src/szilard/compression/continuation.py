"""Training vectors by what a decoder can do with them: the text that follows a context is to be likely behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from szilard.compression.passages import Passages
from szilard.compression.teacher_forcing import Measured, teacher_forced
from szilard.training.target import Target


class ContinuationObjective(nn.Module, ABC):
    """The loss of a batch of contexts and what follows them: {"loss" in nats per token, "right"}.

    Args:
        target: the decoder; its weights are frozen and in no checkpoint.
    """

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    @abstractmethod
    def vectors(self, contexts: list[torch.Tensor]) -> list[torch.Tensor]:
        """Contexts, int64 [tokens] each, as vectors in the place of embeddings, [positions, hidden] each."""

    def forward(self, contexts: list[torch.Tensor], targets: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        forced = teacher_forced(self.target.model, self.vectors(contexts), targets)
        return {"loss": forced.loss, "right": forced.right}


@torch.no_grad()
def measure_continuation(objective: ContinuationObjective, data: Any, *, batch_size: int) -> dict[str, float]:
    """What the vectors are worth on held-out contexts.

    Returns:
        Nats per token of what follows: "nats" behind the vectors, "nats_full" behind the context itself,
        "nats_without" behind its last token alone; "right": share of the tokens that were the likeliest.
    """
    objective.eval()
    target = objective.target
    device = target.model.get_input_embeddings().weight.device
    found = Measured()
    for batch in DataLoader(data, batch_size=batch_size, collate_fn=Passages.collate):
        contexts, targets = ([row.to(device) for row in batch[name]] for name in ("contexts", "targets"))
        for name, before in (
            ("nats", objective.vectors(contexts)),
            ("nats_full", [target.embed(row) for row in contexts]),
            ("nats_without", [target.embed(row[-1:]) for row in contexts]),
        ):
            found.add(name, teacher_forced(target.model, before, targets))
    return {name: found.nats(name) for name in ("nats", "nats_full", "nats_without")} | {"right": found.right("nats")}
