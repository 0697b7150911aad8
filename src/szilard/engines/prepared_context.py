"""Contexts that were made ready before they are asked about: shortened, turned into vectors, or read already."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch

from szilard.engines.kv_prefix import KvPrefix


class PreparedContext(ABC):
    """What `engine.generate(prompt, context=...)` takes beside plain text.

    Attributes:
        prefix: keys and values of a prompt's beginning up to its end, where they were kept.
    """

    prefix: KvPrefix | None = None

    @property
    @abstractmethod
    def content(self) -> str | SoftPrompt:
        """What stands in the prompt."""


@dataclass(frozen=True)
class SoftPrompt(PreparedContext):
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
    def content(self) -> SoftPrompt:
        """Itself."""
        return self

    @property
    def positions(self) -> int:
        """Decoder positions that it takes."""
        return int(self.embeddings.shape[0])

    @property
    def rate(self) -> float:
        """Positions over original tokens."""
        return self.positions / self.original_tokens if self.original_tokens else 1.0
