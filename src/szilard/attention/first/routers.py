"""The trained part of FiRST: a router in front of every layer, and what was tuned to bridge the gaps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn

from szilard.options import check_bool, check_number
from szilard.training.add_on import AddOn
from szilard.training.low_rank import LowRank


class LayerRouters(AddOn):
    """Keep-probabilities rho_i(x) = sigmoid(w_i x + b_i) of tokens by the hidden state x that enters layer i.

    One linear unit per layer (inferred). At the start w = 0 and b = +3: every layer is kept with probability 0.95.

    Args:
        base: of the model, as `AddOn`.
        layers: of the model, L.
        normalised: whether x is divided by its root mean square first. (ours: residual streams grow by orders of
            magnitude over the layers, and one learning rate is to fit all routers; False: x as it is)
        shapes: of every weight that was tuned with the routing active, by name: [out, in, rank].
        scale: of the low-rank changes.
        transposed: names of tuned weights that are stored [in, out] (GPT-2's).
    """

    slug: ClassVar[str] = "first"

    def __init__(
        self,
        base: dict[str, Any],
        layers: int,
        normalised: bool = True,
        shapes: dict[str, list[int]] | None = None,
        scale: float = 2.0,
        transposed: list[str] | None = None,
    ) -> None:
        super().__init__(base)
        check_number("layers", layers, low=1, integer=True)
        check_bool("normalised", normalised)
        self.layers, self.normalised = layers, normalised
        self.weight = nn.Parameter(torch.zeros(layers, self.hidden_size))
        self.bias = nn.Parameter(torch.full((layers,), 3.0))
        self.tuned = LowRank(shapes, scale, transposed) if shapes else None

    def keep_probability(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """rho of one layer for tokens, from the hidden states that enter it: [..., hidden] -> [...]."""
        dtype = torch.promote_types(hidden.dtype, self.weight.dtype)
        weight, x = self.weight[layer].to(hidden.device, dtype), hidden.to(dtype)
        product = x @ weight
        if self.normalised:
            product = product * (x.square().mean(-1) + 1e-6).rsqrt()
        return torch.sigmoid(product + self.bias[layer].to(product))

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """While this is open the model has the tuned weights, if there are any; behind it its own again, bit for bit.

        Raises:
            ValueError: a model without these weights.
        """
        with contextlib.nullcontext() if self.tuned is None else self.tuned.applied(model):
            yield
