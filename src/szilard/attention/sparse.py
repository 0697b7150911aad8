"""What methods share that keep every key and value and read only some of them."""

from __future__ import annotations

import torch

from szilard.attention.layers import GrowingLayer
from szilard.attention.session import Call, Session, attend_to_all, attention, causal_prompt


class SparseSession(Session):
    """An open method that reads sparsely after the prompt: `select` says which slots, None: all of them."""

    def cache_layer(self, index: int) -> GrowingLayer:
        return GrowingLayer()

    def select(self, call: Call) -> torch.Tensor | None:
        """Slots that a layer reads, int64 [batch, 1 or kv heads or heads, new, k], -1 for none; None: every slot."""
        raise NotImplementedError

    def is_prompt(self, call: Call) -> bool:
        """Whether this call belongs to the prompt, which is read densely."""
        return not call.before

    def attend(self, call: Call) -> torch.Tensor:
        rows, stored = call.query.shape[0] * call.keys.shape[1], call.keys.shape[2]
        self.reads.held[call.index] = self.reads.seen[call.index] = rows * stored
        if self.is_prompt(call):
            if call.mask is None and call.new == stored:
                return causal_prompt(call)
            return attend_to_all(call, call.visible())
        chosen = self.select(call)
        self.reads.full += rows * stored
        if chosen is None:
            self.reads.read += rows * stored
            return attend_to_all(call, call.visible())
        self.reads.read += self.keys_read(call, chosen)
        return attend_to_chosen(call, chosen)

    def keys_read(self, call: Call, chosen: torch.Tensor) -> float:
        """Keys that are loaded for these slots, over rows and kv heads: a set for each of the new tokens."""
        per_kv_head = max(1, chosen.shape[1] // call.keys.shape[1])  # sets of the query heads of a group
        sets = call.query.shape[0] * call.keys.shape[1] * per_kv_head * chosen.shape[2]
        return sets * chosen.shape[3]


def attend_to_chosen(call: Call, chosen: torch.Tensor) -> torch.Tensor:
    """Attention over chosen slots only: these keys are gathered, and no others are touched.

    Args:
        call: the call; its mask has been heeded when slots were chosen.
        chosen: int64 [batch, 1 or kv heads or heads, new, k]; -1: no slot.

    Returns:
        [batch, new, heads, head size].
    """
    batch, heads, new, size = call.query.shape
    kv_heads = call.keys.shape[1]
    there = chosen >= 0
    visible = None if bool(there.all()) else there
    sets, k = chosen.shape[1], chosen.shape[3]
    slots = chosen.clamp(min=0)
    if sets == 1:
        slots = slots.expand(batch, kv_heads, new, k)
    at_head = torch.arange(slots.shape[1], device=slots.device) * kv_heads // slots.shape[1]  # kv head of every set
    row = torch.arange(batch, device=slots.device)[:, None] * kv_heads + at_head  # [batch, sets]
    room = call.keys.stride(1) // size  # slots of a head in the buffer that a growing layer's keys are a view of
    flat = (row[:, :, None, None] * room + slots).flatten()
    keys = _rows(call.keys, flat).view(batch, slots.shape[1], new, k, size)
    values = _rows(call.values, flat).view(batch, slots.shape[1], new, k, -1)
    if visible is not None:
        visible = visible.expand(batch, slots.shape[1], new, k)
    # every (row, set, new token) is a small attention of its own: [batch x new, sets, k, size]
    folded = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (keys, values)]
    query = call.query.transpose(1, 2).reshape(batch * new, heads, 1, size)
    mask = None if visible is None else visible.transpose(1, 2).reshape(batch * new, slots.shape[1], 1, k)
    out = attention(query, folded[0], folded[1], mask, call.scaling)  # [batch x new, 1, heads, size]
    return out.view(batch, new, heads, -1)


def _rows(stored: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """Rows of a view of a growing buffer by their number in it, [rows, size]; no other row is touched."""
    batch, heads, slots, size = stored.shape
    room = stored.stride(1) // size
    view = torch.as_strided(stored, ((batch * heads - 1) * room + slots, size), (size, 1))
    return view.index_select(0, flat)
