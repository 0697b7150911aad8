"""The frozen model for which a part is trained."""

from __future__ import annotations

from typing import Any

import torch

from szilard.engines.engine import Engine
from szilard.engines.model_parts import unembed


class Target:
    """A model that is looked up and run, never changed. No `nn.Module`, so its weights are in no checkpoint.

    Args:
        engine: a transformers engine; its weights stop asking for gradients.

    Raises:
        ValueError: another kind of engine.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.kind != "transformers":
            raise ValueError(f"training needs hidden states, which {engine.name} on {engine.kind} does not give.")
        self.engine = engine
        self.model: Any = engine.model  # type: ignore[attr-defined]
        self.model.requires_grad_(False)
        self.config = self.model.config.get_text_config()
        self.hidden_size = int(self.config.hidden_size)
        self.vocab_size = int(self.config.vocab_size)

    @property
    def base(self) -> dict[str, Any]:
        """What an add-on remembers of its model."""
        return {
            "name": self.engine.name,
            "fingerprint": self.engine.fingerprint,
            "hidden_size": self.hidden_size,
            "vocab_size": self.vocab_size,
        }

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input embeddings: [...] -> [..., hidden]."""
        return self.model.get_input_embeddings()(tokens)

    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states that went through the final norm: [..., hidden] -> [..., vocab]."""
        return unembed(self.model, hidden)
