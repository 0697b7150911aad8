"""The trained part of Medusa."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from szilard.options import check_choice, check_number
from szilard.speculative.trained import DraftHeads

Unembed = Callable[[torch.Tensor], torch.Tensor]


class MedusaHeads(DraftHeads):
    """Heads r_j(h) = h + SiLU(W_j h + b_j), with W_j and b_j zero at the start: then each repeats the next token.

    Args:
        base: of the model, as `AddOn`.
        depth: heads.
        head: "shared": logits through the model's own output layer; "full": an output matrix per head (published),
            which starts as a copy of the model's.
    """

    slug: ClassVar[str] = "medusa"

    def __init__(self, base: dict[str, Any], depth: int = 4, head: str = "shared") -> None:
        super().__init__(base, depth)
        check_number("depth", depth, low=1, integer=True)
        check_choice("head", head, ("shared", "full"))
        self.weight = nn.Parameter(torch.zeros(depth, self.hidden_size, self.hidden_size))
        self.bias = nn.Parameter(torch.zeros(depth, self.hidden_size))
        self.output: nn.Parameter | None = None
        if head == "full":
            self.output = nn.Parameter(torch.zeros(depth, self.vocab_size, self.hidden_size))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.weight.dtype

    @torch.no_grad()
    def start_from(self, output: torch.Tensor) -> None:
        """Full heads begin as the model's output layer, [vocab, hidden]."""
        if self.output is not None:
            self.output.copy_(output.expand_as(self.output))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Features of every head: [n, hidden] -> [depth, n, hidden]."""
        pushed = torch.baddbmm(self.bias[:, None], hidden.expand(self.depth, -1, -1), self.weight.transpose(1, 2))
        return hidden + nn.functional.silu(pushed)

    def logits(self, features: torch.Tensor, unembed: Unembed) -> torch.Tensor:
        """[depths, n, hidden] -> [depths, n, vocab], for the first depths."""
        if self.output is None:
            return unembed(features)
        return torch.bmm(features, self.output[: len(features)].transpose(1, 2))
