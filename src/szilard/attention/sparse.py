"""What methods share that keep every key and value and read only some of them."""

from __future__ import annotations

from dataclasses import replace

import torch

from szilard.attention import gather_attention
from szilard.engines.growing_layer import GrowingLayer
from szilard.sessions.call import Call, attend_to_all, attention, causal_prompt
from szilard.sessions.session import Session

_SLOTS_AT_ONCE = 1 << 18  # slots that are copied at a time, over rows, sets and new tokens


class SparseSession(Session):
    """An open method that reads sparsely after the prompt: `select` says which slots, None: all of them."""

    _chosen: Chosen | None = None

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
        slots = self.select(call)
        self.reads.full += rows * stored
        if slots is None:
            self.reads.read += rows * stored
            return attend_to_all(call, call.visible())
        self.reads.read += self.keys_read(call, slots)
        if self._chosen is None or self._chosen.slots is not slots:
            self._chosen = Chosen(slots)
        return attend_to_chosen(call, self._chosen)

    def keys_read(self, call: Call, slots: torch.Tensor) -> float:
        """Keys that are loaded for these slots, over rows and kv heads: a set for each of the new tokens. Places that a
        row shorter than the budget leaves empty are counted, as padding is where all is read."""
        per_kv_head = max(1, slots.shape[1] // call.keys.shape[1])  # sets of the query heads of a group
        sets = call.query.shape[0] * call.keys.shape[1] * per_kv_head * slots.shape[2]
        return sets * slots.shape[3]


class Chosen:
    """Slots that several layers may read; what can be worked out once for all of them is kept.

    Attributes:
        slots: int64 [batch, 1 or kv heads or heads, new, k]; -1: no slot.
    """

    def __init__(self, slots: torch.Tensor) -> None:
        self.slots = slots
        self._there: tuple[torch.Tensor | None] | None = None
        self._flat: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def there(self) -> torch.Tensor | None:
        """Which of them are slots, bool [batch, sets, new, k]; None: all."""
        if self._there is None:
            there = self.slots >= 0
            self._there = (None if bool(there.all()) else there,)
        return self._there[0]

    def sets(self, kv_heads: int) -> int:
        """Small attentions per row and new token: one per kv head, or one per head where heads chose."""
        return max(kv_heads, self.slots.shape[1])

    def flat(self, kv_heads: int, room: int) -> torch.Tensor:
        """Numbers of rows in a buffer with `room` slots per kv head, int64 [batch x new x sets x k]."""
        key = kv_heads, room
        if key not in self._flat:
            slots = self.slots if self.there is None else self.slots.clamp(min=0)
            batch, sets = slots.shape[0], self.sets(kv_heads)
            head = torch.arange(sets, device=slots.device) * kv_heads // sets  # kv head of every set
            row = torch.arange(batch, device=slots.device)[:, None] * kv_heads + head  # [batch, sets]
            self._flat[key] = (row[:, :, None, None] * room + slots).transpose(1, 2).flatten()
        return self._flat[key]


def attend_to_chosen(call: Call, chosen: Chosen | torch.Tensor) -> torch.Tensor:
    """Attention over chosen slots only: these keys are read, and no others are touched.

    Args:
        call: the call; its mask has been heeded when slots were chosen.
        chosen: int64 [batch, 1 or kv heads or heads, new, k]; -1: no slot.

    Returns:
        [batch, new, heads, head size].
    """
    if isinstance(chosen, torch.Tensor):
        chosen = Chosen(chosen)
    if gather_attention.usable(call.keys):
        return gather_attention.attend(call.query, call.keys, call.values, chosen.slots, call.scaling)
    batch, heads, new, size = call.query.shape
    kv_heads, k = call.keys.shape[1], chosen.slots.shape[3]
    sets = chosen.sets(kv_heads)
    if new > 1 and batch * sets * new * k > _SLOTS_AT_ONCE:  # a long block: its tokens copy their own slots each
        at_once = max(1, _SLOTS_AT_ONCE // (batch * sets * k))
        parts = [slice(start, start + at_once) for start in range(0, new, at_once)]
        return torch.cat(
            [attend_to_chosen(replace(call, query=call.query[:, :, at]), chosen.slots[:, :, at]) for at in parts], dim=1
        )
    there = chosen.there
    # every (row, set, new token) is a small attention of its own: [batch x new, sets, k, size]
    keys, values = (
        _rows(stored, chosen).view(batch * new, sets, k, stored.shape[3]) for stored in (call.keys, call.values)
    )
    query = call.query.transpose(1, 2).reshape(batch * new, heads, 1, size)
    mask = None
    if there is not None:
        mask = there.expand(batch, sets, new, k).transpose(1, 2).reshape(batch * new, sets, 1, k)
    out = attention(query, keys, values, mask, call.scaling)  # [batch x new, 1, heads, size]
    return out.view(batch, new, heads, -1)


def _rows(stored: torch.Tensor, chosen: Chosen) -> torch.Tensor:
    """The chosen rows of a view of a growing buffer, [rows, size]; no other row is touched."""
    batch, heads, slots, size = stored.shape
    if stored.stride()[1:] != (stored.stride(1), size, 1) or stored.stride(0) != heads * stored.stride(1):
        stored = stored.contiguous()  # not a growing layer's
    room = stored.stride(1) // size  # slots of a head in the buffer
    view = torch.as_strided(stored, ((batch * heads - 1) * room + slots, size), (size, 1))
    return view.index_select(0, chosen.flat(heads, room))
