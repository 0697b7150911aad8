"""Linear flow matching on latents: t = 0 is data, t = 1 noise.

    x_t = (1 - t) x + t eps,   v = eps - x;   a network learns v from (x_t, t)
    time shift: t' = a t / (1 + (a - 1) t),  a = sqrt(numbers of a latent / 4096)
    sampling: Euler steps from t = 1 to 0

The shift (Esser et al., "Scaling Rectified Flow Transformers", ICML 2024; RAE's code) gives wide latents more noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from szilard.options import check_number

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x_t [B, ...], t [B]) -> v
_BASE = 4096


def shift_of(numbers: int, base: int = _BASE) -> float:
    """a of a latent with so many numbers: 16 x 16 x 768 give 6.928."""
    check_number("numbers", numbers, low=1, integer=True)
    return math.sqrt(numbers / base)


def shifted(t: Tensor, a: float) -> Tensor:
    """t' of t in [0, 1]; keeps 0 and 1."""
    return a * t / (1 + (a - 1) * t)


def flow_loss(velocity: Velocity, x: Tensor, a: float = 1.0) -> Tensor:
    """Mean squared error of v at times drawn uniformly and shifted; draws from torch's own generator.

    Args:
        velocity: the network.
        x: data [B, ...].
        a: the shift.
    """
    t = shifted(torch.rand(len(x), device=x.device), a)
    wide = t.view(-1, *(1,) * (x.dim() - 1))
    noise = torch.randn_like(x)
    return F.mse_loss(velocity((1 - wide) * x + wide * noise, t), noise - x)


@torch.no_grad()
def euler(velocity: Velocity, noise: Tensor, steps: int = 50, a: float = 1.0) -> Tensor:
    """Samples of noise [B, ...], by Euler steps at evenly spaced, shifted times."""
    check_number("steps", steps, low=1, integer=True)
    times = shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), a).tolist()
    x = noise
    for now, then in pairwise(times):
        x = x + (then - now) * velocity(x, x.new_full((len(x),), now))
    return x
