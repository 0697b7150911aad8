"""A cache layer that forgets slots."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

EVICTED = (
    "slots were evicted from this cache, and the model alone does not know which: go on with it under the open method, "
    "or read the text anew with a new cache."
)


class EvictingLayer(DynamicLayer):
    """Stores some of the tokens. A slot keeps its token's rotation and its column: its place in the padded text.

    Attributes:
        seen: tokens that came, padding included; `get_seq_length` gives this, so that positions go on rightly.
        columns: of every slot, int64 [batch, kv heads, stored], -1 for a slot that holds nothing; None: slot = column.
        holes: whether a slot may hold nothing.
        marks: what a method remembers of its slots, by name: [batch, kv heads, stored, ...].
        generating: whether single tokens came after the prompt.
        budget: slots that a method leaves here, and where rows have different ones those of each, int64 [batch].
        entered: whether an open method sees to the forward that comes next; None: no method was ever open on this.
    """

    keys: Any
    values: Any

    def __init__(self, *, rewindable: bool = True) -> None:
        super().__init__()
        self.is_croppable = rewindable
        self.seen = 0
        self.columns: torch.Tensor | None = None
        self.holes = False
        self.marks: dict[str, torch.Tensor] = {}
        self.generating = False
        self.budget: tuple[int, torch.Tensor | None] = (0, None)
        self.entered: bool | None = None
        self._fresh = 0  # slots that came since the last eviction: a crop may take these

    @property
    def stored(self) -> int:
        """Slots per row and head."""
        return 0 if self.keys is None or self.keys.numel() == 0 else int(self.keys.shape[-2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        new = key_states.shape[-2]
        if self.columns is not None and new > 1 and self.entered is False:
            raise ValueError(EVICTED)
        self.entered = self.entered and False
        keys, values = super().update(key_states, value_states)
        if self.columns is not None:
            fresh = torch.arange(self.seen, self.seen + new, device=self.columns.device)
            self.columns = torch.cat([self.columns, fresh.expand(*self.columns.shape[:2], new)], dim=2)
        for name, mark in self.marks.items():
            self.marks[name] = torch.cat([mark, mark.new_zeros(*mark.shape[:2], new, *mark.shape[3:])], dim=2)
        self.seen += new
        self._fresh += new
        return keys, values

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def all_columns(self) -> torch.Tensor:
        """The column of every slot, int64 [batch, kv heads, stored]."""
        if self.columns is not None:
            return self.columns
        assert self.keys is not None
        return torch.arange(self.stored, device=self.keys.device).expand(*self.keys.shape[:2], -1)

    def retain(self, slots: torch.Tensor) -> None:
        """Keep these slots and forget the others.

        Args:
            slots: ascending int64 [batch, kv heads, kept].
        """
        self.columns = self.all_columns().gather(2, slots)
        index = slots[..., None]
        self.keys = self.keys.gather(2, index.expand(-1, -1, -1, self.keys.shape[3]))
        self.values = self.values.gather(2, index.expand(-1, -1, -1, self.values.shape[3]))
        for name, mark in self.marks.items():
            own = slots.reshape(*slots.shape, *[1] * (mark.dim() - 3))
            self.marks[name] = mark.gather(2, own.expand(*slots.shape, *mark.shape[3:]))
        self._fresh = 0

    def crop(self, tokens_to_remove: int) -> None:
        removed = abs(tokens_to_remove)
        if not removed or not self.is_initialized:
            return
        if self.columns is not None and removed > self._fresh:
            raise ValueError(
                f"{removed} tokens cannot be taken back: only {self._fresh} came since slots were evicted; evict at "
                "the prompt only (phase='prefill')."
            )
        super().crop(-removed)
        if self.columns is not None:
            self.columns = self.columns[..., :-removed]
        self.marks = {name: mark[:, :, :-removed] for name, mark in self.marks.items()}
        self.seen -= removed
        self._fresh -= removed

    def roll_right(self, shift: torch.Tensor) -> None:
        """Move row b's slots `shift[b]` to the right; what falls off the end is to be cropped, what opens is empty."""
        shift = shift.to(self.keys.device)
        columns = self.all_columns()
        source = torch.arange(self.stored, device=shift.device)[None] - shift[:, None]  # [batch, stored]
        slots = source.clamp(min=0)[:, None].expand(columns.shape)
        fresh = self._fresh
        self.retain(slots)
        self._fresh = fresh
        assert self.columns is not None
        moved = torch.where(self.columns >= 0, self.columns + shift[:, None, None], -1)
        self.columns = torch.where(source[:, None] >= 0, moved, -1)
        self.holes = True

    def stack(self, other: EvictingLayer) -> None:
        """The rows of both, right-aligned; the shorter one is filled with empty slots on its left."""
        each = []
        for layer in (self, other):
            slots, own = layer.budget
            each.append(layer.keys.new_full((len(layer.keys),), slots, dtype=torch.long) if own is None else own)
        rows = torch.cat(each)
        most = int(rows.max())
        self.budget = most, None if bool((rows == most).all()) else rows
        seen = max(self.seen, other.seen)
        width = max(self.stored, other.stored)
        self.holes = self.holes or other.holes or self.stored != other.stored
        parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for layer in (self, other):
            columns = layer.all_columns()
            columns = torch.where(columns >= 0, columns + (seen - layer.seen), -1)
            gap = width - layer.stored
            parts.append((_widened(layer.keys, gap, 0.0), _widened(layer.values, gap, 0.0), _widened(columns, gap, -1)))
        self.marks = {name: mark for name, mark in self.marks.items() if name in other.marks}
        for name in self.marks:
            both = [_widened(layer.marks[name], width - layer.stored, 0) for layer in (self, other)]
            self.marks[name] = torch.cat(both)
        self.keys, self.values, self.columns = (torch.cat(pair) for pair in zip(*parts, strict=True))
        self.seen, self._fresh = seen, min(self._fresh, other._fresh)
        self.generating = self.generating or other.generating

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        if self.columns is not None:
            self.columns = self.columns[indices]
        if self.budget[1] is not None:
            self.budget = self.budget[0], self.budget[1][indices]
        self.marks = {name: mark[indices] for name, mark in self.marks.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.columns is not None:
            self.columns = self.columns.repeat_interleave(repeats, dim=0)
        if self.budget[1] is not None:
            self.budget = self.budget[0], self.budget[1].repeat_interleave(repeats)
        self.marks = {name: mark.repeat_interleave(repeats, dim=0) for name, mark in self.marks.items()}

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.batch_select_indices(beam_idx.to(self.keys.device))

    def reset(self) -> None:
        super().reset()
        self.seen, self._fresh, self.columns, self.marks = 0, 0, None, {}
        self.holes = self.generating = False
        self.budget = 0, None

    def __copy__(self) -> EvictingLayer:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.marks = dict(self.marks)
        return twin


def _widened(tensor: torch.Tensor, gap: int, value: float) -> torch.Tensor:
    """`gap` more slots on the left of [batch, kv heads, slots, ...]."""
    if not gap:
        return tensor
    return torch.cat([tensor.new_full((*tensor.shape[:2], gap, *tensor.shape[3:]), value), tensor], dim=2)
