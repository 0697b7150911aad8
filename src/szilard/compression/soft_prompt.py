"""Vectors in the place of a context's tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class SoftPrompt:
    """A compressed context of one decoder: what `engine.generate(prompt, context=...)` takes.

    Attributes:
        embeddings: [positions, hidden], in the place of what the model's embedding layer gives for tokens.
        original_tokens: the context's length in the decoder's tokens.
        method: slug of the compressor.
        model: fingerprint of the decoder's weights.
        trace: what the compressor decided, for pages: "expanded" per chunk, "plan", "gates", ...
        cost: what the compression took: "encoder_tokens", "layer_tokens", "seconds".
    """

    embeddings: torch.Tensor
    original_tokens: int
    method: str
    model: str
    trace: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """Decoder positions that it takes."""
        return int(self.embeddings.shape[0])

    @property
    def rate(self) -> float:
        """Positions over original tokens."""
        return self.positions / self.original_tokens if self.original_tokens else 1.0
