"""The trained part of Lexical Unit Decoding: a placeholder's embedding, and what was tuned in the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn

from szilard.training.add_on import AddOn


class LudAdapter(AddOn):
    """Changes of a model's weights, as low-rank products or whole, and the vector that stands for "a token to come".

    Args:
        base: of the model, as `AddOn`.
        shapes: of every tuned weight by name: [out, in, rank] for a low-rank change, else the weight's own shape.
        scale: of the low-rank products, alpha / rank.
        transposed: names of weights that are stored [in, out] (GPT-2's).
        window: k, for which it was trained.
    """

    slug: ClassVar[str] = "lud"

    def __init__(
        self,
        base: dict[str, Any],
        shapes: dict[str, list[int]],
        scale: float = 1.0,
        transposed: list[str] | None = None,
        window: int = 4,
        low_rank: bool = True,
    ) -> None:
        super().__init__(base)
        self.shapes = dict(sorted(shapes.items()))  # JSON's order is not ours
        self.scale, self.transposed = scale, set(transposed or ())
        self.window, self.low_rank = window, low_rank
        self.placeholder = nn.Parameter(torch.zeros(self.hidden_size))
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        self.whole = nn.ParameterList()
        for shape in self.shapes.values():
            if low_rank:
                rows, columns, rank = shape
                self.down.append(nn.Parameter(torch.zeros(rank, columns)))
                self.up.append(nn.Parameter(torch.zeros(rows, rank)))
            else:
                self.whole.append(nn.Parameter(torch.zeros(shape)))

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """While this is open the model has the tuned weights; behind it its own again, bit for bit.

        Raises:
            ValueError: a model without these weights.
        """
        own = dict(model.named_parameters())
        missing = [name for name in self.shapes if name not in own]
        if missing:
            raise ValueError(f"{type(model).__name__} has no weight {missing[0]!r} that this lud adapter changes.")
        before = {name: own[name].data for name in self.shapes}
        try:
            for index, name in enumerate(self.shapes):
                own[name].data = self._tuned(index, name, before[name])
            yield
        finally:
            for name, data in before.items():
                own[name].data = data

    @torch.no_grad()
    def _tuned(self, index: int, name: str, weight: torch.Tensor) -> torch.Tensor:
        if not self.low_rank:
            return self.whole[index].to(weight)
        change = self.up[index].to(weight.device) @ self.down[index].to(weight.device) * self.scale
        if name in self.transposed:
            change = change.T
        return (weight + change).to(weight.dtype)
