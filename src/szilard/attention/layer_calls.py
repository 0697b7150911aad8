"""Standing around the layers of a model: every call of a layer's forward goes through a function of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

# (layer, what enters it [batch, new, hidden], a function that runs it) -> what the next layer gets
Around = Callable[[int, torch.Tensor, Callable[[], torch.Tensor]], torch.Tensor]


@contextlib.contextmanager
def around_layers(layers: Sequence[Any], around: Around) -> Iterator[None]:
    """While this is open, `around` decides what becomes of every call of these decoder layers.

    Raises:
        ValueError: inside the call of a layer that takes or gives anything but hidden states [batch, new, hidden].
    """
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for index, layer in enumerate(layers):
            layer.forward = _wrapped(index, layer.forward, around)
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if own is not None:  # somebody else's, such as accelerate's
                layer.forward = own


def _wrapped(index: int, forward: Callable[..., Any], around: Around) -> Callable[..., torch.Tensor]:
    def call(*arguments: Any, **options: Any) -> torch.Tensor:
        hidden = arguments[0] if arguments else options["hidden_states"]

        def run() -> torch.Tensor:
            out = forward(*arguments, **options)
            if not isinstance(out, torch.Tensor) or out.shape != hidden.shape or out.dim() != 3:
                raise ValueError("this model's layers do not map one stream of hidden states: they cannot be skipped.")
            return out

        return around(index, hidden, run)

    return call
