"""A stock transformers decoder that sees both ways: its causal mask is replaced by a 4-D one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.engines.model_parts import unembed


def visible(real: Tensor, share: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Who sees whom, bool [rows, 1, N, N]: every token all real ones.

    Args:
        real: bool [rows, N]; False: padding, which sees itself alone, so that no row of a softmax is empty.
        share: of the later tokens that a token sees; below 1 the mask is between causal (0) and full, drawn anew.
        generator: of the draws, on the CPU.
    """
    size = real.shape[1]
    own = torch.eye(size, dtype=torch.bool, device=real.device)
    seen = torch.ones_like(own)
    if share < 1:
        seen = seen.tril() | (torch.rand(size, size, generator=generator) < share).to(real.device)
    return ((real[:, None, None, :] & real[:, None, :, None] & seen) | own).expand(-1, 1, -1, -1)


def positions(real: Tensor) -> Tensor:
    """Position ids, int64 [rows, N]: real tokens are counted from 0."""
    return (real.long().cumsum(1) - 1).clamp(min=0)


class Bidirectional:
    """A `Predict` of a stock decoder. No `nn.Module`: the model's owner trains it.

    Args:
        model: a causal language model of transformers.
        shift: the hidden state at i - 1 predicts token i (Dream), as in the autoregressive model that it was; position
            0 is predicted by its own.
        real: bool [rows, N], False: padding; None: no padding.
        share: see `visible`.
    """

    def __init__(self, model: Any, *, shift: bool = False, real: Tensor | None = None, share: float = 1.0) -> None:
        self.model, self.shift, self.real, self.share = model, shift, real, share

    def __call__(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """Logits [places, vocab] of the tokens at the wanted places, bool [rows, N]."""
        real = torch.ones_like(tokens, dtype=torch.bool) if self.real is None else self.real
        mask = visible(real, self.share)
        if getattr(self.model.config, "_attn_implementation", "sdpa") == "eager":  # adds its mask to the scores
            dtype = self.model.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        hidden = (
            self.model.get_decoder()(
                input_ids=tokens, attention_mask=mask, position_ids=positions(real), use_cache=False
            )
        ).last_hidden_state
        if self.shift:
            hidden = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
        return unembed(self.model, hidden[wanted])
