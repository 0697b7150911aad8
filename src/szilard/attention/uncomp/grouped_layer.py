"""A cache layer whose heads are stored in groups of different lengths: one pair of tensors per group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from szilard.attention.layers import EVICTED, EvictingLayer


class GroupedLayer(DynamicLayer):
    """Groups of key-value heads, each in an `EvictingLayer` of its own.

    `update` gives back the new tokens only, for all heads: what was there before is read group by group.

    Args:
        heads: the key-value heads of every group; a head that is in none is not stored.
        rewindable: whether tokens can be taken back.

    Attributes:
        parts: keys and values of every group, [batch, heads of the group, slots, head size].
        donors: of every head that is not stored the one whose output it takes, int64 [batch, heads not stored].
        entered: whether an open method sees to the forward that comes next; None: no method was ever open on this.
    """

    def __init__(self, heads: Sequence[Sequence[int]], *, rewindable: bool = True) -> None:
        # Not DynamicLayer's own: it would set keys and values, which here are those of the parts.
        self.is_initialized = False
        self.is_croppable = rewindable
        self.heads = [torch.tensor(group) for group in heads]
        self.parts = [EvictingLayer(rewindable=rewindable) for _ in heads]
        self.donors: torch.Tensor | None = None
        self.entered: bool | None = None

    @property
    def keys(self) -> Any:  # type: ignore[override]
        """Those of the first group: they tell whether something is stored."""
        return self.parts[0].keys

    @property
    def values(self) -> Any:  # type: ignore[override]
        """Those of the first group."""
        return self.parts[0].values

    @property
    def seen(self) -> int:
        """Tokens that came, padding included."""
        return self.parts[0].seen

    @property
    def generating(self) -> bool:
        """Whether single tokens came after the prompt."""
        return self.parts[0].generating

    @property
    def held(self) -> int:
        """Slots of a row, added over the heads."""
        return sum(part.stored * len(heads) for part, heads in zip(self.parts, self.heads, strict=True))

    @property
    def held_bytes(self) -> int:
        """Memory of keys and values."""
        kept = [tensor for part in self.parts for tensor in (part.keys, part.values) if part.stored]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def start_generating(self) -> None:
        """Single tokens come from now on."""
        for part in self.parts:
            part.generating = True

    def place(self, columns: torch.Tensor, seen: int) -> None:
        """Tell what the slots hold when only some tokens of a prompt came here.

        Args:
            columns: of every token that came, int64 [batch, tokens].
            seen: tokens of the whole prompt.
        """
        for part in self.parts:
            came = part.all_columns()
            part.columns = columns[:, None].expand(-1, came.shape[1], -1).gather(2, came)
            part.seen, part._fresh = seen, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.heads = [group.to(key_states.device) for group in self.heads]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.seen and self.entered is False:  # the model alone would read the new tokens only
            raise ValueError(EVICTED)
        self.entered = self.entered and False
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for part, heads in zip(self.parts, self.heads, strict=True):
            part.entered = None
            if len(heads) == key_states.shape[1]:
                part.update(key_states, value_states)
            else:
                part.update(key_states[:, heads], value_states[:, heads])
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def crop(self, tokens_to_remove: int) -> None:
        for part in self.parts:
            part.crop(tokens_to_remove)

    def roll_right(self, shift: torch.Tensor) -> None:
        """Move row b's slots `shift[b]` to the right, in every group."""
        for part in self.parts:
            part.roll_right(shift)

    def stack(self, other: GroupedLayer) -> None:
        """The rows of both, right-aligned in every group."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.stack(theirs)
        if self.donors is not None and other.donors is not None:
            self.donors = torch.cat([self.donors, other.donors])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        for part in self.parts:
            part.batch_select_indices(indices)
        if self.donors is not None:
            self.donors = self.donors[indices]

    def batch_repeat_interleave(self, repeats: int) -> None:
        for part in self.parts:
            part.batch_repeat_interleave(repeats)
        if self.donors is not None:
            self.donors = self.donors.repeat_interleave(repeats, dim=0)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        if self.seen:
            self.batch_select_indices(beam_idx.to(self.device))

    def reset(self) -> None:
        for part in self.parts:
            part.reset()
        self.is_initialized, self.donors = False, None

    def offload(self) -> None:
        for part in self.parts:
            part.offload()

    def prefetch(self) -> None:
        for part in self.parts:
            part.prefetch()

    def __copy__(self) -> GroupedLayer:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.parts = [part.__copy__() for part in self.parts]
        return twin
