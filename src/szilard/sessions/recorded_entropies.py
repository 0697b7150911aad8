"""The entropies of a model's attention, taken while its layers attend: no layer's probabilities outlive the layer.

The rows are of the softmax itself, before any dropout (what transformers returns as `attentions` has it in already),
in float32 at least. With gradients the attention's output comes from the same softmax, so that a loss may be made of
the entropies; without, queries are worked through in blocks, so that long texts fit, and scores are float32, too.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from szilard.information.attention_entropy import softmax_with_entropy
from szilard.sessions.session import Session

_BLOCK = 2**24  # scores held at a time where no gradient is wanted


class _Entropies:
    slug = "attention entropy"


class RecordedEntropies(Session):
    """Of the forward that ran last while this was `opened()` on a model.

    Attributes:
        rows: by layer, entropy of every query, nats [batch, heads, queries].
        visible: by layer, keys that every query sees, int64 [batch or 1, queries].

    Args:
        model: a decoder of transformers with an attention interface.

    Raises:
        ValueError: another model, one that caps or adds to its scores, or a loss under gradient checkpointing.
    """

    only_watches = True

    def __init__(self, model: Any) -> None:
        super().__init__(_Entropies, model)
        self.rows: dict[int, torch.Tensor] = {}
        self.visible: dict[int, torch.Tensor] = {}

    def prepare(self, stack: contextlib.ExitStack) -> None:
        """Also refuses gradient checkpointing, which attends again when nobody records any more."""
        checkpoints = getattr(self.model, "is_gradient_checkpointing", False)
        if checkpoints and self.model.training and torch.is_grad_enabled():
            raise ValueError(
                "a loss of attention's entropies cannot be taken under gradient checkpointing: call "
                "model.gradient_checkpointing_disable()."
            )
        super().prepare(stack)

    def begin(self) -> None:
        """What an earlier forward left is forgotten."""
        self.rows, self.visible = {}, {}

    @property
    def stacked(self) -> torch.Tensor:
        """[layers, batch, heads, queries]."""
        return torch.stack([self.rows[layer] for layer in sorted(self.rows)])

    def run(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
        dropout: float = 0.0,
        **_: Any,
    ) -> torch.Tensor:
        """Attend, and note the entropies."""
        heads, new = query.shape[1:3]
        groups = heads // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        seen = _seen(mask, new, key)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        step = new
        if not torch.is_grad_enabled():
            step = max(1, _BLOCK // (query.shape[0] * heads * key.shape[2]))
        if query.dtype.itemsize < 4:  # float16 does not hold large products, and both round them
            query, scale = query * scale, 1.0
            if not torch.is_grad_enabled():
                query, key = query.float(), key.float()
        outputs, rows = [], []
        for part, allowed in zip(query.split(step, 2), seen.split(step, 2), strict=True):
            scores = (part @ key.transpose(-1, -2) * scale).masked_fill(~allowed, -torch.inf)
            attention, entropy = softmax_with_entropy(scores)
            attention = torch.nn.functional.dropout(attention.to(value.dtype), p=dropout, training=dropout > 0)
            outputs.append(attention @ value)
            rows.append(entropy)
        layer = int(module.layer_idx)
        self.rows[layer] = torch.cat(rows, 2)
        self.visible[layer] = seen[:, 0].sum(-1)
        return torch.cat(outputs, 2).transpose(1, 2).contiguous()  # [batch, new, heads, head size]


def _seen(mask: torch.Tensor | None, new: int, key: torch.Tensor) -> torch.Tensor:
    """Which key a query sees, bool [batch or 1, 1, new, keys]."""
    if mask is not None and mask.dim() == 4:
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    stored = key.shape[2]
    causal = torch.ones(new, stored, dtype=torch.bool, device=key.device).tril(stored - new)[None, None]
    return causal if mask is None else causal & mask[:, None, None, :stored].bool()
