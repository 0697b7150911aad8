"""Cache layers of model layers that may be skipped: they know who runs them, and count the tokens they never held."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from szilard.engines.growing_layer import GrowingLayer


class SkippableLayer(DynamicLayer):
    """What a layer stores, and for which rows it is run. All of it moves with the cache: forks, selections, joins.

    A layer that no row runs holds nothing and only counts, so that positions and masks go on rightly whichever layer
    they are read from. It cannot be run again: its cache would have holes.

    Attributes:
        keep: of each row, whether it runs the layer; None: not decided yet.
        evidence: what a decision is made of, [batch] each; None: no prompt was looked at yet.
        generating: whether the prompt is over, and with it the time to decide.
        absent: whether the layer was left by every row.
    """

    keys: Any
    values: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._forget()

    def _forget(self) -> None:
        self.keep: tuple[bool, ...] | None = None
        self.evidence: tuple[torch.Tensor, ...] | None = None
        self.generating = self.absent = False
        self._length = 0  # tokens that came, of an absent layer

    @property
    def stored(self) -> int:
        """Slots that are held per row and head."""
        return 0 if self.keys is None or self.keys.numel() == 0 else int(self.keys.shape[-2])

    def leave(self, hidden: torch.Tensor) -> None:
        """These tokens pass by, [batch, new, hidden]; what is stored of earlier ones is given back."""
        if not self.absent:
            self._length, self.absent = self.get_seq_length(), True
            self.keys = self.values = hidden.new_empty(0)
            self.is_initialized = True
        self._grow(hidden.shape[1])

    def _grow(self, tokens: int) -> None:
        self._length += tokens
        if self.is_sliding:
            self.cumulative_length = self._length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.absent:
            raise ValueError("this layer was skipped, so its cache has holes: read the prompt anew with a new cache.")
        return super().update(key_states, value_states, *args, **kwargs)

    def get_seq_length(self) -> int:
        return self._length if self.absent else super().get_seq_length()

    def crop(self, tokens_to_remove: int) -> None:
        if self.absent:
            self._grow(-min(abs(tokens_to_remove), self._length))
        else:
            super().crop(tokens_to_remove)

    def stack(self, other: SkippableLayer) -> None:
        """The rows of both, right-aligned; rows that never run the layer get empty slots in it."""
        if self.keep is None or other.keep is None:
            raise ValueError("rows can be joined once their prompts were read under the open method.")
        seen = max(self.get_seq_length(), other.get_seq_length())
        if self.absent and other.absent:
            self._grow(seen - self._length)
        else:
            width = max(self.stored, other.stored)
            like = other if self.absent else self
            tensors = []
            for name in ("keys", "values"):
                parts = []
                for layer in (self, other):
                    whole = getattr(like, name)
                    rows = len(layer.keep or ())
                    room = whole.new_zeros(rows, whole.shape[1], width, whole.shape[3])
                    if layer.stored:
                        room[:, :, width - layer.stored :] = getattr(layer, name)
                    parts.append(room)
                tensors.append(torch.cat(parts))
            if self.absent:
                self.dtype, self.device = like.dtype, like.device
            self.keys, self.values = tensors
            self.absent, self.is_initialized = False, True
            if self.is_sliding:
                self.cumulative_length = seen
        self.keep, self.evidence = self.keep + other.keep, None
        self.generating = self.generating or other.generating

    def _pick(self, indices: torch.Tensor) -> None:
        """What is known of the rows, for these of them."""
        if self.keep is not None:
            self.keep = tuple(self.keep[row] for row in indices.tolist())
        if self.evidence is not None:
            self.evidence = tuple(part[indices.to(part.device)] for part in self.evidence)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._pick(indices)
        if self.stored:
            super().batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = len(self.keep) if self.keep is not None else len(self.evidence[0]) if self.evidence else 0
        self._pick(torch.arange(rows).repeat_interleave(repeats))
        if self.stored:
            super().batch_repeat_interleave(repeats)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._pick(beam_idx)
        if self.stored:
            super().reorder_cache(beam_idx)

    def reset(self) -> None:
        if self.absent:
            self.keys = self.values = None
            self.is_initialized = False
        super().reset()
        self._forget()


class SkippableSlidingLayer(SkippableLayer, DynamicSlidingWindowLayer):
    """The same for a layer that sees a window."""


def skippable(layer: Any) -> SkippableLayer | None:
    """A layer of ours in the place of transformers' own, with what it holds; None for a layer of another kind."""
    if isinstance(layer, SkippableLayer):
        return layer
    ours: SkippableLayer
    if type(layer) in (DynamicLayer, GrowingLayer):
        ours = SkippableLayer()
    elif type(layer) is DynamicSlidingWindowLayer:
        ours = SkippableSlidingLayer(layer.sliding_window)
    else:
        return None
    ours.__dict__.update(layer.__dict__)
    return ours
