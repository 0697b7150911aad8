"""Flow matching between noise and thoughts, as LaDiR uses it.

    z_t = (1 - t) z_0 + t eps,   t in [0, 1]: 0 is clean, 1 is noise       u* = dz/dt = eps - z_0
    L_FM = E || u(z_t, t, context) - u* ||^2  (mean over entries, t uniform)
    Euler, T steps of dt = 1 / T from t = 1 down to 0:  z <- z - dt u

The network may also be asked for z_0, eps or v = (1 - t) eps - t z_0 (the paper's ablation); on the line z_t each of
them fixes the velocity. A predicted eps fixes it badly where 1 - t is small, which divides its error. So the block that
it stands for, (z_t - t eps) / (1 - t), is kept to a root mean square of 3 (ours; normalised latents have 1), or the
enlarged noise that a block begins as (sigma_0 = 2) would grow a thousandfold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from szilard.options import check_choice, check_number

OBJECTIVES: Final = ("flow", "x0", "eps", "v")
_LEAST_NOISE = 1e-6  # of t in a division
_LEAST_CLEAN = 1e-3  # of 1 - t: in pure noise a prediction of the noise says nothing of the block
_LARGEST_BLOCK = 3.0  # root mean square; that of normalised latents is about 1
_TIME_SCALE = 1000.0  # the sinusoids count time in thousandths


def flow_interpolate(z0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """z_t = (1 - t) z_0 + t eps.

    Args:
        z0, eps: [..., L_b, d_z].
        t: [...] or a scalar tensor, in [0, 1].
    """
    t = _as_wide(t, z0)
    return (1 - t) * z0 + t * eps


def wanted(objective: str, z0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the network is to say under an objective, shaped as z0; arguments as `flow_interpolate`."""
    check_choice("objective", objective, OBJECTIVES)
    if objective == "flow":
        return eps - z0
    if objective == "x0":
        return z0
    if objective == "eps":
        return eps
    t = _as_wide(t, z0)
    return (1 - t) * eps - t * z0


def as_velocity(objective: str, said: torch.Tensor, zt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The velocity eps - z_0 that a prediction at z_t stands for; shapes as `flow_interpolate`, t above 0."""
    check_choice("objective", objective, OBJECTIVES)
    if objective == "flow":
        return said
    t = _as_wide(t, zt)
    if objective == "x0":
        return (zt - said) / t.clamp(min=_LEAST_NOISE)
    if objective == "eps":
        z0 = (zt - t * said) / (1 - t).clamp(min=_LEAST_CLEAN)
        size = z0.pow(2).mean((-2, -1), keepdim=True).sqrt()
        z0 = z0 * (_LARGEST_BLOCK / size.clamp(min=_LARGEST_BLOCK))
        return (zt - z0) / t.clamp(min=_LEAST_NOISE)
    # z_0 = ((1-t) z_t - t v) / ((1-t)^2 + t^2), eps = (t z_t + (1-t) v) / ((1-t)^2 + t^2)
    return ((2 * t - 1) * zt + said) / ((1 - t) ** 2 + t**2)


def _as_wide(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return t.to(z)[(..., *[None] * (z.dim() - t.dim()))]


@dataclass(frozen=True)
class FlowSchedule:
    """Equal steps from noise to clean.

    Attributes:
        num_steps: T.
    """

    num_steps: int = 50

    def __post_init__(self) -> None:
        check_number("num_steps", self.num_steps, low=1, integer=True)

    def pairs(self) -> Iterator[tuple[float, float]]:
        """(t, dt) of every Euler step; the last ends at t = 0."""
        for step in range(self.num_steps):
            yield 1 - step / self.num_steps, 1 / self.num_steps


class TimeEmbedding(nn.Module):
    """Sinusoids of the time and an MLP: t [...] -> [..., width].

    Args:
        width: d.
        frequencies: cos | sin values in all, with periods up to 10,000 thousandths.
        scale: size of the numbers that come out, to begin with.
    """

    def __init__(self, width: int, frequencies: int = 256, scale: float = 1.0) -> None:
        super().__init__()
        self.waves = frequencies // 2
        self.inner = nn.Linear(2 * self.waves, width)
        self.outer = nn.Linear(width, width)
        nn.init.normal_(self.inner.weight, std=1 / math.sqrt(self.waves))
        nn.init.normal_(self.outer.weight, std=2.0 * scale / math.sqrt(width))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        # In float32 whatever the model's precision: in bfloat16 neighbouring times are one.
        at = torch.arange(self.waves, device=t.device, dtype=torch.float32) / self.waves
        angles = t.float()[..., None] * _TIME_SCALE * torch.exp(-math.log(10_000.0) * at)
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        return self.outer(nn.functional.silu(self.inner(waves.to(self.inner.weight))))


class VelocityHead(nn.Module):
    """DiT's last layer: hidden [..., L_b, d] and time embedding [..., d] -> [..., L_b, d_z].

    A layer norm without weights, shifted and scaled by the time, and a linear layer, which begins as zero.
    """

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, latent_dim)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        shift, scale = self.modulation(nn.functional.silu(time))[..., None, :].chunk(2, dim=-1)
        return self.out(self.norm(hidden.to(self.out.weight)) * (1 + scale) + shift)
