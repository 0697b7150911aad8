"""The Y-Encoder: an answer to its embedding S_Y.

Chen et al., "VL-JEPA", arXiv:2512.10942: EmbeddingGemma-300M with a linear head to the shared width, trained at 0.05 of
the learning rate. Mean of the last hidden states over the answer's tokens, then S_Y = P_y mean, [B, D].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from szilard.options import check_bool, check_choice, check_number
from szilard.representation.vl_jepa.stock_parts import stock_model

POOLINGS = ("mean", "last")


class TextEncoder(nn.Module):
    """A text model of transformers, a pooling, and a linear head.

    Args:
        body: gives `last_hidden_state` [B, m, width] for `input_ids` and `attention_mask`.
        embed_dim: D, of the embeddings.
        pooling: "mean" over the answer's tokens, or its "last" token (decoders such as Qwen3-Embedding).
        head: False leaves the linear head out; D is then the body's width.
    """

    def __init__(self, body: Any, *, embed_dim: int = 1536, pooling: str = "mean", head: bool = True) -> None:
        super().__init__()
        check_number("embed_dim", embed_dim, low=1, integer=True)
        check_choice("pooling", pooling, POOLINGS)
        check_bool("head", head)
        width = int(body.config.hidden_size)
        if not head and width != embed_dim:
            raise ValueError(f"without a head embed_dim must be the text encoder's width {width}, not {embed_dim}.")
        self.body, self.embed_dim, self.pooling = body, embed_dim, pooling
        self.head: nn.Module = nn.Linear(width, embed_dim) if head else nn.Identity()

    @classmethod
    def from_pretrained(
        cls, name: str, *, embed_dim: int = 1536, pooling: str = "mean", head: bool = True
    ) -> TextEncoder:
        """Any encoder of transformers, by hub id or folder, with a new head."""
        from transformers import AutoModel

        body = AutoModel.from_pretrained(name, dtype=torch.float32)
        return cls(body, embed_dim=embed_dim, pooling=pooling, head=head)

    @classmethod
    def from_scratch(
        cls,
        vocab_size: int,
        pad_id: int,
        *,
        width: int = 96,
        layers: int = 2,
        heads: int = 4,
        embed_dim: int = 128,
        longest: int = 64,
        head: bool = True,
    ) -> TextEncoder:
        """A small BERT with new weights, without dropout."""
        from transformers import BertConfig, BertModel

        if width % heads:
            raise ValueError(f"heads={heads} must divide width={width}.")
        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=longest,
            initializer_range=0.02 * (768 / width) ** 0.5,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=pad_id,
            type_vocab_size=1,
        )
        return cls(BertModel(config, add_pooling_layer=False), embed_dim=embed_dim, head=head)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> TextEncoder:
        """As its `settings` say, with new weights."""
        rest = dict(settings)
        return cls(stock_model(rest.pop("config")), **rest)

    @property
    def settings(self) -> dict[str, Any]:
        """What it is built anew from; weights apart."""
        own = {"embed_dim": self.embed_dim, "pooling": self.pooling, "head": isinstance(self.head, nn.Linear)}
        return {"config": self.body.config.to_dict()} | own

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """int64 [B, m], padded on the right, and [B, m] true on tokens -> [B, D], not yet of length 1.

        Raises:
            ValueError: an answer without tokens, or shapes that do not belong together.
        """
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if ids.dim() != 2 or mask.shape != ids.shape:
            raise ValueError(f"ids and mask must be [batch, tokens], not {tuple(ids.shape)} and {tuple(mask.shape)}.")
        counts = mask.sum(1)
        if not bool((counts > 0).all()):
            raise ValueError("a text without tokens has no embedding: leave empty answers out.")
        states = self.body(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        if self.pooling == "last":
            pooled = states[torch.arange(len(ids), device=ids.device), counts - 1]
        else:
            pooled = (states * mask.unsqueeze(-1)).sum(1) / counts.unsqueeze(1)
        return self.head(pooled)
