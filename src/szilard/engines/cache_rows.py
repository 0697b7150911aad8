"""Rows of a cache: right-aligned, stacked with those of another one, moved, copied; masks are the state's affair."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import Cache

from szilard.engines.growing_layer import GrowingLayer


def copied(cache: Cache) -> Cache:
    """A cache that can grow on its own. Layers that are copied grow into new tensors, so theirs may be shared."""
    if cache.is_compileable:
        return copy.deepcopy(cache)
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def stack(mine: Cache, theirs: Cache, model: Any) -> None:
    """Append the rows of a cache, in place, right-aligned.

    Raises:
        ValueError: recurrent states.
    """
    layers: Any = zip(mine.layers, theirs.layers, strict=True)
    for own, other in layers:
        if not hasattr(own, "keys") or getattr(own, "keys", None) is None:
            raise ValueError(f"{type(model).__name__} keeps a recurrent state, whose rows cannot be joined.")
        if hasattr(own, "stack"):
            own.stack(other)
            continue
        own.keys = stacked(own.keys, other.keys, axis=-2)
        own.values = stacked(own.values, other.values, axis=-2)
        if isinstance(own, GrowingLayer):
            own.let_go()
        if hasattr(own, "cumulative_length"):  # of a sliding window: slots that it has seen
            own.cumulative_length = max(own.cumulative_length, other.cumulative_length)


def stacked(a: torch.Tensor, b: torch.Tensor, *, axis: int, rows: int = 0) -> torch.Tensor:
    """The rows of both, the shorter padded with zeros at the start of `axis`."""
    width = max(a.shape[axis], b.shape[axis])
    padded = []
    for tensor in (a, b):
        shape = list(tensor.shape)
        shape[axis] = width - shape[axis]
        padded.append(torch.cat([tensor.new_zeros(shape), tensor], dim=axis) if shape[axis] else tensor)
    return torch.cat(padded, dim=rows)


def roll_right(cache: Cache, shift: torch.Tensor) -> None:
    """Move row b `shift[b]` slots to the right, in place; what it leaves behind holds its first slot again."""
    layers: list[Any] = cache.layers
    for layer in layers:
        if getattr(layer, "keys", None) is None or layer.keys.numel() == 0:
            continue
        if hasattr(layer, "roll_right"):
            layer.roll_right(shift)
            continue
        slots = layer.keys.shape[-2]
        source = torch.arange(slots, device=layer.keys.device)[None] - shift.to(layer.keys.device)[:, None]
        index = source.clamp(min=0)[:, None, :, None]  # [batch, 1, slots, 1]
        layer.keys = torch.gather(layer.keys, 2, index.expand_as(layer.keys))
        layer.values = torch.gather(layer.values, 2, index.expand_as(layer.values))


def gather_tail(cache: Cache, path: torch.Tensor, nodes: int) -> None:
    """Of the last `nodes` slots put those of a path first, in place.

    Args:
        path: int64 [batch, longest], places among the last slots; below 0: whatever.
        nodes: slots that the last feed made, so that nobody shares them.
    """
    width = path.shape[1]
    stored_in: list[Any] = [part for layer in cache.layers for part in getattr(layer, "parts", [layer])]
    for layer in stored_in:  # a layer of several parts keeps the heads apart
        if getattr(layer, "keys", None) is None or layer.keys.numel() == 0:
            continue
        index = path.clamp(min=0).to(layer.keys.device)[:, None, :, None]
        for stored in (layer.keys, layer.values):
            tail = stored[..., -nodes:, :]
            tail[..., :width, :] = torch.gather(tail, 2, index.expand(-1, tail.shape[1], -1, tail.shape[3]))
