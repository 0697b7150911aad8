"""Learnable softmax temperatures: how sharply a head looks.

    a_ij(t) = softmax_j(q_i k_j / (t_i sqrt(d_k))),   t > 1 raises the entropy, t < 1 lowers it

The queries are divided by t, which is the same, and leaves every attention kernel and cache of transformers as it is.
A rotation of queries (Llama) commutes with it. t = softplus(rho) is positive whatever is learned.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class Temperature(nn.Module):
    """Of the heads of a layer.

    Args:
        heads: how many, H.
        length: T: a temperature per head and position, [H, T]; None: one per head, [H].
        start: of all temperatures.
    """

    def __init__(self, heads: int, length: int | None, start: float) -> None:
        super().__init__()
        shape = (heads,) if length is None else (heads, length)
        self.rho = nn.Parameter(torch.full(shape, start + math.log(-math.expm1(-start))))  # softplus(rho) = start
        self.positions: torch.Tensor | None = None  # of the call that runs, [batch or 1, new]

    @property
    def t(self) -> torch.Tensor:
        """The temperatures, [H] or [H, T]."""
        return nn.functional.softplus(self.rho)

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """Queries divided by their temperatures, [batch, new, heads, head size].

        Raises:
            ValueError: positions behind the last temperature.
        """
        t = self.t.to(queries.dtype)
        if t.dim() == 1:
            return queries / t[:, None]
        assert self.positions is not None
        if int(self.positions.max()) >= t.shape[1]:
            raise ValueError(
                f"this model has a softmax temperature for each of {t.shape[1]} positions, and none for position "
                f"{int(self.positions.max())}: shorten the text."
            )
        return queries / t.T[self.positions][..., None]  # [batch or 1, new, heads, 1]

    def note_positions(self, attention: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """A hook in front of the attention."""
        self.positions = options["position_ids"]

    def divide(self, projection: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """A hook behind the projection whose first outputs are the queries."""
        heads = self.rho.shape[0]
        width = self.query_width
        queries = self(output[..., :width].unflatten(-1, (heads, -1))).flatten(-2)
        return queries if width == output.shape[-1] else torch.cat([queries, output[..., width:]], -1)

    query_width: int = 0

    def install(self, attention: Any, projection: nn.Module) -> None:
        """Let a layer's queries be divided."""
        self.query_width = self.rho.shape[0] * int(attention.head_dim)
        if self.rho.dim() == 2:
            attention.register_forward_pre_hook(self.note_positions, with_kwargs=True)
        projection.register_forward_hook(self.divide)
