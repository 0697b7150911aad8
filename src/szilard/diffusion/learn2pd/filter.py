"""The trained part of Learn2PD: from the confidences of a whole block to which of its predictions are final.

Bao et al. 2025, "Learning to Parallel: Accelerating Diffusion Large Language Models via Adaptive Parallel Decoding",
ICLR 2026, arXiv 2509.25188. With c the probabilities of the likeliest tokens in a block of b positions, open or not:

    z = W_2 relu(W_1 c + b_1) + b_2        position i is final where sigmoid(z_i) > tau          c, z [rows, b]

Weights belong to positions, so the filter knows where in the block a position stands; it is tied to the block's length.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import nn

from szilard.options import check_number
from szilard.training.add_on import AddOn


class BlockFilter(AddOn):
    """Which predictions of a block are already those of one-token-per-step decoding. 2 b^2 + 2 b numbers by default.

    Args:
        base: of the model, as `AddOn`.
        mask_token_id: that the model was asked with when the filter's rows were collected.
        block_length: b.
        hidden: width of the inner layers; None: b.
        layers: linear layers, with ReLU between them; the paper tries 1, 2 and 4.
    """

    slug: ClassVar[str] = "learn2pd"

    def __init__(
        self,
        base: dict[str, Any],
        mask_token_id: int,
        block_length: int = 32,
        hidden: int | None = None,
        layers: int = 2,
    ) -> None:
        super().__init__(base)
        check_number("mask_token_id", mask_token_id, low=0, integer=True)
        check_number("block_length", block_length, low=1, integer=True)
        check_number("hidden", hidden, low=1, integer=True, optional=True)
        check_number("layers", layers, low=1, integer=True)
        if layers == 1 and hidden is not None:
            raise ValueError(f"hidden={hidden} has no place in a filter of one layer: leave it out, or take layers=2.")
        self.mask_token_id, self.block_length = mask_token_id, block_length
        widths = [block_length, *[hidden or block_length] * (layers - 1), block_length]
        parts: list[nn.Module] = []
        for into, out in itertools.pairwise(widths):
            parts += [nn.Linear(into, out), nn.ReLU()]
        self.net = nn.Sequential(*parts[:-1])

    def forward(self, confidence: torch.Tensor) -> torch.Tensor:
        """Logits of being final: [rows, n] -> [rows, n], float32.

        Args:
            confidence: of the block's n <= b positions from its first, open ones and filled ones. A shorter block is
                padded with zeros on the right.

        Raises:
            ValueError: another shape.
        """
        if confidence.dim() != 2 or not 1 <= confidence.shape[1] <= self.block_length:
            raise ValueError(
                f"this filter reads confidences [rows, 1 to {self.block_length}], one block a row, not "
                f"{list(confidence.shape)}."
            )
        length = confidence.shape[1]
        weight = next(self.net.parameters())
        block = confidence.to(weight.device, weight.dtype)
        return self.net(nn.functional.pad(block, (0, self.block_length - length)))[:, :length].float()

    def accepts(self, confidence: torch.Tensor, threshold: float) -> torch.Tensor:
        """Where sigmoid(z) > threshold, strictly: [rows, n] -> bool [rows, n]."""
        return torch.sigmoid(self(confidence)) > threshold

    def check_made_for(
        self,
        *,
        vocab_size: int,
        hidden_size: int | None,
        name: str,
        mask_token_id: int,
        block_length: int,
        fingerprint: str | None = None,
    ) -> None:
        """Refuse a model or a block that the filter was not trained for; see `AddOn.check_base`.

        Raises:
            ValueError: another model, mask id or block length.
        """
        self.check_base(vocab_size=vocab_size, hidden_size=hidden_size, name=name, fingerprint=fingerprint)
        if mask_token_id != self.mask_token_id:
            raise ValueError(
                f"this {self.slug} add-on was trained with mask id {self.mask_token_id}, but {name} is asked with "
                f"{mask_token_id}: train one for it."
            )
        if block_length != self.block_length:
            raise ValueError(
                f"this {self.slug} add-on was trained for blocks of {self.block_length} tokens, not {block_length}: "
                f"set block_length={self.block_length}, or train one."
            )
