"""A cache layer that grows in place: decoding copies one token per step, not the whole cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

ROOM = 256  # slots by which buffers grow, at least


class GrowingLayer(DynamicLayer):
    """Stores every token, in a buffer with room to grow: a step copies one token and not the whole cache.

    `keys` and `values` are views of the buffer, [batch, kv heads, slots, head size]. Whoever puts other tensors in
    their place, or copies the layer, makes it take a new buffer at the next step.

    Attributes:
        moves: how often it took a new buffer; what was computed of the slots before holds only while this stays.
    """

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.moves = 0
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None
        self._views: tuple[torch.Tensor, torch.Tensor] | None = None
        self._zeros = False  # behind what is stored

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old, new = self.get_seq_length(), key_states.shape[-2]
        if not self._fits(old + new):
            self._move(key_states, value_states, old, old + new)
        assert self._room is not None
        for buffer, states in zip(self._room, (key_states, value_states), strict=True):
            buffer[:, :, old : old + new] = states
        self.keys, self.values = (buffer[:, :, : old + new] for buffer in self._room)
        self._views = self.keys, self.values
        return self.keys, self.values

    def open(self, new: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The buffers of keys and values, numbers all through, with room for `new` more slots; `took` follows."""
        old = self.get_seq_length()
        if not self._fits(old + new):
            self._move(self.keys, self.values, old, old + new)
        assert self._room is not None
        if not self._zeros:
            for buffer in self._room:
                buffer[:, :, old:] = 0
            self._zeros = True
        return self._room

    def took(self, new: int) -> None:
        """`new` slots were written behind what was stored."""
        assert self._room is not None
        slots = self.get_seq_length() + new
        self.keys, self.values = (buffer[:, :, :slots] for buffer in self._room)
        self._views = self.keys, self.values

    def crop(self, tokens_to_remove: int) -> None:
        untouched = self.untouched
        super().crop(tokens_to_remove)
        if untouched:
            self._views = self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.let_go()

    def reset(self) -> None:
        super().reset()
        self.let_go()

    def let_go(self) -> None:
        """Forget the buffer once what is stored has left it: else it stays beside its copy until the next step."""
        self._room = self._views = None

    @property
    def untouched(self) -> bool:
        """Whether what is stored is still the beginning of our buffer: added to and cropped, nothing else."""
        return self._views is not None and self.keys is self._views[0] and self.values is self._views[1]

    def _fits(self, slots: int) -> bool:
        if self._room is None or not self.untouched or slots > self._room[0].shape[2]:
            return False
        return not self._room[0].is_inference() or torch.is_inference_mode_enabled()

    def _move(self, keys: torch.Tensor, values: torch.Tensor, old: int, slots: int) -> None:
        """Into a larger buffer."""
        room = -(-(slots + max(ROOM, slots // 8)) // ROOM) * ROOM
        buffers = []
        for stored, states in ((self.keys, keys), (self.values, values)):
            buffer = states.new_empty(*states.shape[:2], room, states.shape[3])
            if old:
                buffer[:, :, :old] = stored
            buffers.append(buffer)
        self._room, self._zeros = (buffers[0], buffers[1]), False
        self.moves += 1

    def __copy__(self) -> GrowingLayer:
        self._room = self._views = None  # neither may write into what the other reads
        twin = type(self)()
        twin.__dict__.update(self.__dict__)
        return twin


def grow_in_place(cache: Any) -> None:
    """Let the layers of a dynamic cache that keep every token grow in place, with what they hold."""
    if cache is None or getattr(cache, "offloading", False):
        return
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            grown = GrowingLayer()
            if layer.is_initialized and layer.get_seq_length():
                keys: Any = layer.keys
                grown.update(keys, layer.values)  # type: ignore[arg-type]
            cache.layers[index] = grown
