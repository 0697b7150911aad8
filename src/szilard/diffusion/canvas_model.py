"""What the decoding of a canvas asks of a model, and how a stock transformers decoder gives it.

A canvas is int64 [rows, N]: a left-padded prompt and an answer, some of whose columns hold the mask id. The model reads
all of it in both directions. One that was made from an autoregressive model (Dream) predicts the token at column i from
its hidden state at i - 1; that is dealt with here, so whoever asks for column i gets the logits of the token at i.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from szilard.decoding.cost import ModelSize
from szilard.diffusion.canvas_store import CanvasStore
from szilard.engines.model_parts import model_size, unembed
from szilard.options import check_bool, check_number
from szilard.sessions.call import attention

NAME = "szilard-canvas"  # of the attention function; no mask function has this name, so none is built


@dataclass(frozen=True)
class MaskedDiffusionConfig:
    """What tells a masked diffusion LM from other models; "masked_diffusion" in a folder's config.json.

    Attributes:
        mask_token_id: id of the mask.
        eos_token_id: ends an answer, and fills what is behind its end; None: answers have no end of their own.
        eot_token_id: a second id that ends an answer, also for rules of the end, which in papers know one (LLaDA's end
            of turn; inferred).
        shift_logits: the hidden state at column i - 1 predicts the token at i (Dream).
        forbid_mask: the mask is never predicted. Off, a model may "commit" a mask, which then is open again.
    """

    mask_token_id: int
    eos_token_id: int | None = None
    eot_token_id: int | None = None
    shift_logits: bool = False
    forbid_mask: bool = True

    def __post_init__(self) -> None:
        check_number("mask_token_id", self.mask_token_id, low=0, integer=True)
        check_number("eos_token_id", self.eos_token_id, low=0, integer=True, optional=True)
        check_number("eot_token_id", self.eot_token_id, low=0, integer=True, optional=True)
        check_bool("shift_logits", self.shift_logits)
        check_bool("forbid_mask", self.forbid_mask)

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return tuple(token for token in (self.eos_token_id, self.eot_token_id) if token is not None)


class CanvasModel(ABC):
    """What gives logits for a canvas.

    Attributes:
        config: its special tokens and its shift.
        vocab_size: width of the logits.
        size: its figures, for the counts.
        caches: whether it can compute some columns beside stored keys and values of the others.
    """

    config: MaskedDiffusionConfig
    vocab_size: int
    size: ModelSize
    caches: bool = False

    @abstractmethod
    def predict(self, tokens: torch.Tensor, real: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Logits of the token AT each wanted column.

        Args:
            tokens: int64 [rows, N].
            real: bool [rows, N]; False: padding.
            wanted: columns, int64 [rows, n].

        Returns:
            [rows, n, vocab].
        """


class TransformersCanvas(CanvasModel):
    """A stock decoder of transformers that reads in both directions from now on.

    Args:
        model: a causal LM of transformers; its attention function is replaced for good.
        config: its special tokens and its shift.

    Raises:
        ValueError: the mask id is outside the vocabulary, or the model keeps no attention of the usual kind.
    """

    caches = True

    def __init__(self, model: Any, config: MaskedDiffusionConfig) -> None:
        self.model, self.config = model, config
        self.vocab_size = int(model.config.get_text_config().vocab_size)
        if config.mask_token_id >= self.vocab_size:
            raise ValueError(
                f"the mask id {config.mask_token_id} is outside the vocabulary of {self.vocab_size} tokens: give the "
                "id of the model's mask token."
            )
        AttentionInterface.register(NAME, _attend)
        model.set_attn_implementation(NAME)
        self.size = model_size(model)
        self.decoder = model.get_decoder()
        self.layers = int(model.config.get_text_config().num_hidden_layers)

    @torch.no_grad()
    def predict(self, tokens: torch.Tensor, real: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return self.compute(tokens, real, wanted)

    def compute(
        self,
        tokens: torch.Tensor,
        real: torch.Tensor,
        wanted: torch.Tensor,
        *,
        store: CanvasStore | None = None,
        columns: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of wanted columns, of which only some columns of the canvas are computed.

        Args:
            tokens: int64 [rows, N].
            real: bool [rows, N]; False: padding, or beyond a row's end.
            wanted: columns, int64 [rows, n].
            store: gets the keys and values of what is computed, and gives those of the rest.
            columns: to compute, int64 [rows, m], ascending in every row, N for none; None: all. What is wanted must be
                among them (of a model with a shift: what stands before it).

        Returns:
            [rows, n, vocab].
        """
        places = real.cumsum(1).sub_(1).clamp_(min=0)
        sources = (wanted - 1).clamp_(min=0) if self.config.shift_logits else wanted
        if columns is None:
            mask = None if bool(real.all()) else real[:, None, None]
        else:
            assert store is not None
            inside = columns.clamp(max=tokens.shape[1] - 1)
            tokens, places = tokens.gather(1, inside), places.gather(1, inside)
            mask = store.aim(columns, real)
            sources = torch.searchsorted(columns, sources).clamp_(max=columns.shape[1] - 1)
        if mask is not None:
            mask = mask.expand(-1, -1, tokens.shape[1], -1)
        hidden = self.decoder(
            input_ids=tokens, attention_mask=mask, position_ids=places, past_key_values=store, use_cache=False
        ).last_hidden_state
        hidden = hidden.gather(1, sources[:, :, None].expand(-1, -1, hidden.shape[2]))
        return unembed(self.model, hidden)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention to everything that the mask allows, before and behind; [rows, new, heads, head size]."""
    return attention(query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5), None
