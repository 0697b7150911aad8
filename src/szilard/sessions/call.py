"""One call of a layer's attention: what comes in, who may see whom, and dense attention over what is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F


@dataclass
class Call:
    """One call of a layer's attention.

    Attributes:
        index: the layer, from 0.
        cache: its cache layer, which already holds the new tokens.
        query: rotated, [batch, heads, new, head size].
        keys, values: what the layer stores, the new tokens last, [batch, kv heads, stored, head size].
        mask: None, padding [batch, columns] (False: padding), or who sees whom [batch, 1, new, columns], as booleans.
        before: columns that were there before the new tokens came.
        scaling: of the products.
        tree: whether the new tokens are a draft tree, or otherwise bring a mask of their own.
        shared: what the layers of a forward work out once.
    """

    index: int
    cache: Any
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None
    before: int
    scaling: float
    tree: bool
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def new(self) -> int:
        """New tokens per row."""
        return self.query.shape[2]

    @property
    def groups(self) -> int:
        """Query heads per key-value head."""
        return self.query.shape[1] // self.keys.shape[1]

    def visible(self, columns: torch.Tensor | None = None, new: slice = slice(None)) -> torch.Tensor | None:
        """Who may see whom, bool [batch, 1 or kv heads, new, slots]; None: every new token sees every slot.

        Args:
            columns: of every slot of an `EvictingLayer`, [batch, kv heads, slots]; None: slot = column.
            new: which of the new tokens.
        """
        if self.mask is None and self.new == 1 and (columns is None or not self.cache.holes):
            return None  # what is stored is older than the only new token
        if columns is not None or new != slice(None):
            return self._visible(columns, new)
        mask, shape, found = self.shared.get("visible", (None, None, None))
        if mask is not self.mask or shape != (self.new, self.keys.shape[2]):
            found = self._visible(columns, new)
            self.shared["visible"] = self.mask, (self.new, self.keys.shape[2]), found
        return found

    def _visible(self, columns: torch.Tensor | None, new: slice) -> torch.Tensor:
        device = self.query.device
        at = torch.arange(self.keys.shape[2], device=device)[None, None] if columns is None else columns
        row = self.before + torch.arange(self.new, device=device)[new]
        seen = (at[:, :, None] <= row[:, None]) & (at[:, :, None] >= 0)  # [batch, kv heads or 1, new, slots]
        if self.mask is None:
            return seen
        if self.mask.dim() == 2:
            allowed = self.mask[:, None, None]  # [batch, 1, 1, columns]
        else:
            allowed, seen = self.mask[:, :, new], at[:, :, None] >= 0
        if columns is None:
            return seen & allowed[..., : at.shape[2]]
        index = at.clamp(min=0)[:, :, None].expand(-1, -1, allowed.shape[2], -1)
        return seen & allowed.expand(*at.shape[:2], -1, -1).gather(3, index)


def attend_to_all(call: Call, visible: torch.Tensor | None) -> torch.Tensor:
    """Dense attention of a call over its keys, [batch, new, heads, head size]."""
    return attention(call.query, call.keys, call.values, visible, call.scaling)


def attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Scaled dot-product attention with grouped heads.

    Args:
        query: [batch, heads, new, head size].
        keys, values: [batch, kv heads, slots, head size].
        visible: bool [batch, 1 or kv heads or heads, new, slots]; None: all. A query that sees nothing sees everything.
        scaling: of the products.

    Returns:
        [batch, new, heads, head size].
    """
    batch, heads, new, size = query.shape
    groups = heads // keys.shape[1]
    if visible is not None:
        visible = visible | ~visible.any(-1, keepdim=True)
    if new == 1 and (visible is None or visible.shape[1] in (1, keys.shape[1])):
        packed = query.reshape(batch, keys.shape[1], groups, size)  # one product per kv head, no repeated keys
        out = F.scaled_dot_product_attention(packed, keys, values, attn_mask=visible, scale=scaling)
        return out.reshape(batch, heads, 1, values.shape[3]).transpose(1, 2)
    if visible is not None and groups > 1 and visible.shape[1] == keys.shape[1]:
        visible = visible.repeat_interleave(groups, dim=1)
    out = F.scaled_dot_product_attention(query, keys, values, attn_mask=visible, scale=scaling, enable_gqa=groups > 1)
    return out.transpose(1, 2)


def causal_prompt(call: Call) -> torch.Tensor:
    """The attention of a prompt without padding: the kernel's own causal path, no mask."""
    out = F.scaled_dot_product_attention(
        call.query, call.keys, call.values, is_causal=True, scale=call.scaling, enable_gqa=call.groups > 1
    )
    return out.transpose(1, 2)
