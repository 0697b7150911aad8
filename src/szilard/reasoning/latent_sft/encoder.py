"""The Latent Token Encoder: a copy of the model that sums up every chunk of a chain as a distribution over tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.latent_sft.masks import LATENT, additive, causal_mask, induction_mask, plain_positions
from szilard.reasoning.latent_sft.superposition import VocabularySpace

_WITH_MASK = ("sdpa", "eager")


@dataclass(frozen=True)
class LatentTokens:
    """The latent tokens of a batch, row after row; n of them in all.

    Attributes:
        probabilities: alpha, float32 [n, k], or [n, vocab] where the whole vocabulary is mixed.
        tokens: the ids of alpha [n, k], or None.
        hidden: the states that alpha was read from, [n, d].
        vectors: z, what the decoder is fed, [n, d].
    """

    probabilities: torch.Tensor
    tokens: torch.Tensor | None
    hidden: torch.Tensor
    vectors: torch.Tensor


class LatentTokenEncoder(nn.Module):
    """theta_enc: a decoder without its head, and a learnable vector for the compress token.

    Paper: a row `<|compress_token|>` is added to the vocabulary, and adapters on the embeddings let it learn; here: the
    row alone is a parameter, because no other row is new.

    Args:
        backbone: a decoder of transformers without its head; it is copied.
        space: the vocabulary space of the model that reads the latent tokens.
        config: `induction_mask` and `feedback` of it are used.
        compress: the compress token's first vector [d]; None: the mean input embedding.

    Raises:
        ValueError: an attention that takes no mask of its own.
    """

    def __init__(
        self,
        backbone: Any,
        space: VocabularySpace,
        config: LatentSFTConfig,
        compress: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.backbone: Any = copy.deepcopy(backbone)
        check_takes_mask(self.backbone)
        self.space, self.config = space, config
        if compress is None:
            rows = torch.arange(int(backbone.config.get_text_config().vocab_size), device=backbone.device)
            with torch.no_grad():
                looked_up = backbone.get_input_embeddings()
                compress = torch.stack([looked_up(part).float().sum(0) for part in rows.split(8192)]).sum(0) / len(rows)
        self.compress = nn.Parameter(compress.detach().float().clone())

    @classmethod
    def from_pretrained(cls, base: Any, config: LatentSFTConfig, **options: Any) -> LatentTokenEncoder:
        """An encoder that begins as `base`, whose vocabulary it uses.

        Args:
            base: a causal language model of transformers, or where `AutoModelForCausalLM` finds one.
            config: the settings.
            options: of `from_pretrained`.
        """
        if isinstance(base, str):
            from transformers import AutoModelForCausalLM

            base = AutoModelForCausalLM.from_pretrained(base, **options)
        return cls(base.get_decoder(), VocabularySpace(base, config.readout, config.top_k), config)

    def forward(self, ids: torch.Tensor, role: torch.Tensor) -> LatentTokens:
        """The latent tokens of Q <think> S_1 L_1 ... S_N L_N </think>.

        Args:
            ids, role: int64 [batch, slots], padded on the right; see `masks` for roles.
        """
        hidden = self.states(ids, role)
        probabilities, tokens = self.space.distribution(hidden)
        mixed = self.config.feedback == "soft_embedding"
        vectors = self.space.vectors(probabilities, tokens) if mixed else hidden
        return LatentTokens(probabilities, tokens, hidden, vectors)

    def states(self, ids: torch.Tensor, role: torch.Tensor) -> torch.Tensor:
        """The states h_i of the latent tokens, row after row: [n, d]; see `forward`."""
        embedded = self.backbone.get_input_embeddings()(ids)
        latent = role == LATENT
        embedded = torch.where(latent[..., None], self.compress.to(embedded.dtype), embedded)
        allowed = induction_mask(role) if self.config.induction_mask else causal_mask(role)
        return hidden_states(self.backbone, embedded, allowed, plain_positions(role))[latent]


def check_takes_mask(backbone: Any) -> None:
    """Refuse a model whose attention would drop a mask of every query's own.

    Raises:
        ValueError: flash attention, for example.
    """
    attention = getattr(backbone.config, "_attn_implementation", "sdpa")
    if attention not in _WITH_MASK:
        raise ValueError(
            f"latent tokens are made under masks of their own, which {attention!r} attention cannot take: load the "
            f"model with attn_implementation={' or '.join(map(repr, _WITH_MASK))}."
        )


def hidden_states(
    backbone: Any, embedded: torch.Tensor, allowed: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """The last layer's output after the final norm, under a mask of every query's own: [batch, slots, d].

    Args:
        backbone: a decoder of transformers without its head.
        embedded: input vectors [batch, slots, d].
        allowed: query sees key, bool [batch, query, key]; layers with a sliding window see less of it.
        positions: int64 [batch, slots].
    """
    config = backbone.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = set(getattr(config, "layer_types", None) or [])
    mask: Any = additive(allowed, embedded.dtype)
    if window is not None and (not kinds or "sliding_attention" in kinds):
        near = positions[:, :, None] - positions[:, None, :] < window
        sliding = additive(allowed & near, embedded.dtype)
        mask = {"full_attention": mask, "sliding_attention": sliding} if kinds else sliding
    return backbone(
        inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
