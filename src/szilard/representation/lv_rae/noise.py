"""Noise on latents while a decoder is trained: one deviation per picture."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn_noise(z: Tensor, tau: float, kind: str, generator: torch.Generator | None = None) -> Tensor:
    """sigma eps, [B, N, D]: one sigma per picture, spread over its tokens and channels.

    Args:
        z: [B, N, D].
        tau: largest deviation ("uniform"), that of the half-normal's normal, or the deviation itself ("fixed").
        kind: of `config.NOISES`.
        generator: None: torch's own.
    """
    if kind == "none" or tau == 0:
        return torch.zeros_like(z)
    place = place_of(generator, z)
    shape = (len(z), 1, 1)
    if kind == "uniform":
        sigma = tau * torch.rand(shape, generator=generator, device=place)
    elif kind == "half_normal":
        sigma = tau * torch.randn(shape, generator=generator, device=place).abs()
    else:
        sigma = torch.full(shape, tau, device=place)
    return (sigma * torch.randn(z.shape, generator=generator, device=place)).to(z)


def place_of(generator: torch.Generator | None, z: Tensor) -> torch.device:
    """Where noise is drawn: a generator has a device of its own."""
    return z.device if generator is None else generator.device
