"""Some of a prompt's tokens, for layers that run on these alone: their hidden states, positions and rotations."""

from __future__ import annotations

from typing import Any

import torch


class TokenSubset:
    """Tokens of every row, as the layers of one forward get them.

    Args:
        at: their places in the prompt, int64 [batch, kept], -1 for none.
    """

    def __init__(self, at: torch.Tensor) -> None:
        self.at = at
        self._gathered: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of a layer with the positions and rotations of these tokens; gathered once, since all
        layers are given the same tensors."""
        options = dict(options)
        if isinstance(options.get("position_ids"), torch.Tensor):
            options["position_ids"] = self._once(options["position_ids"], 0)
        rotations = options.get("position_embeddings")
        if isinstance(rotations, (tuple, list)):
            options["position_embeddings"] = tuple(self._once(table, 1) for table in rotations)
        return options

    def _once(self, tensor: torch.Tensor, trailing: int) -> torch.Tensor:
        known = self._gathered.get(id(tensor))
        if known is None:  # the tensor is held, so that its id stays its own
            known = self._gathered[id(tensor)] = tensor, taken(tensor, self.at, trailing)
        return known[1]


def taken(tensor: torch.Tensor, at: torch.Tensor, trailing: int) -> torch.Tensor:
    """The tokens `at` of a tensor [..., batch or 1, tokens, and `trailing` further axes]."""
    batch, kept = at.shape
    axis = tensor.dim() - 1 - trailing
    lead, rest = tensor.shape[: axis - 1], tensor.shape[axis + 1 :]
    whole = tensor.expand(*lead, batch, *tensor.shape[axis:])
    index = at.clamp(min=0).reshape(*[1] * len(lead), batch, kept, *[1] * trailing)
    return whole.gather(axis, index.expand(*lead, batch, kept, *rest))
