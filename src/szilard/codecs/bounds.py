"""Parameters that stay above a bound, and generalised divisive normalisation.

Ballé, Laparra, Simoncelli, "Density Modeling of Images using a Generalized Normalization Transformation", ICLR 2016.
Parameters and buffers have CompressAI's names, so that state dicts are interchangeable.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_OFFSET = 2.0**-18  # keeps the square root's gradient finite


class _Bounded(torch.autograd.Function):
    """max(x, bound), whose gradient also passes where it lets x climb back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, bound = ctx.saved_tensors
        return gradient * ((x >= bound) | (gradient < 0)), None


class LowerBound(nn.Module):
    """max(x, bound); a value below it still gets the gradient that raises it."""

    bound: Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([float(bound)]))

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            bounded: Tensor = _Bounded.apply(x, self.bound)
            return bounded
        return torch.max(x, self.bound.to(x.dtype))


class NonNegativeParametrizer(nn.Module):
    """v >= minimum, kept as sqrt(v + offset^2)."""

    pedestal: Tensor

    def __init__(self, minimum: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([_OFFSET**2]))
        self.lower_bound = LowerBound((minimum + _OFFSET**2) ** 0.5)

    def init(self, value: Tensor) -> Tensor:
        """What is kept for a value."""
        return torch.sqrt(torch.max(value + self.pedestal, self.pedestal))

    def forward(self, kept: Tensor) -> Tensor:
        return self.lower_bound(kept) ** 2 - self.pedestal


class GDN(nn.Module):
    """y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2); inverse: times that root.

    Args:
        channels: C of x [B, C, H, W].
        inverse: for a synthesis.
    """

    def __init__(self, channels: int, inverse: bool = False, beta_min: float = 1e-6, gamma_init: float = 0.1) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_reparam = NonNegativeParametrizer(beta_min)
        self.beta = nn.Parameter(self.beta_reparam.init(torch.ones(channels)))
        self.gamma_reparam = NonNegativeParametrizer()
        self.gamma = nn.Parameter(self.gamma_reparam.init(gamma_init * torch.eye(channels)))

    def forward(self, x: Tensor) -> Tensor:
        gamma = self.gamma_reparam(self.gamma)[:, :, None, None]
        energy = F.conv2d(x * x, gamma, self.beta_reparam(self.beta))
        return x * (energy.sqrt() if self.inverse else energy.rsqrt())
