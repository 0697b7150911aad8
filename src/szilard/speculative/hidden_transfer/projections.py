"""The trained part of Hidden Transfer: a linear map per step."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from szilard.speculative.trained import DraftHeads


class HiddenTransferProjections(DraftHeads):
    """s_{n,i} = W_i h_n^{t_i}, with W_i = 1 at the start (inferred): then a pseudo state is a copy.

    Args:
        base: of the model, as `AddOn`.
        layers: t_i of every step, 1 to the number of layers.
        bias: whether each map has one (not stated in the paper; none by default).
        pseudo_attention: whether a step was trained to see the steps before it.
    """

    slug: ClassVar[str] = "hidden-transfer"

    def __init__(
        self, base: dict[str, Any], layers: list[int], bias: bool = False, pseudo_attention: bool = True
    ) -> None:
        super().__init__(base, len(layers))
        self.layers, self.pseudo_attention = list(layers), pseudo_attention
        self.weight = nn.Parameter(torch.eye(self.hidden_size).repeat(len(layers), 1, 1))
        self.bias = nn.Parameter(torch.zeros(len(layers), self.hidden_size)) if bias else None

    def forward(self, hidden: torch.Tensor, step: int) -> torch.Tensor:
        """Pseudo states of one step (from 0): [..., d] -> [..., d]."""
        bias = None if self.bias is None else self.bias[step]
        return nn.functional.linear(hidden.to(self.weight.dtype), self.weight[step], bias)


def default_layers(count: int, steps: int) -> list[int]:
    """Three quarters of the model's depth for the first step, 0.65 of it for the others (inferred)."""
    return [max(1, round(0.75 * count)), *[max(1, round(0.65 * count))] * (steps - 1)][:steps]
