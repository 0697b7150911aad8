"""Diversity guidance: parallel thoughts about one question push each other apart while they are noisy.

Over the trajectories i of a question, with flattened blocks z_i and sigma their median distance (Kang et al. 2025):

    F(z_i) = sum_{j != i} 2 (1 - r_ij) exp(-r_ij) (z_i - z_j),      r_ij = ||z_i - z_j||^2 / sigma^2
    gamma_t = gamma_max t

F is the gradient, at constant sigma, of sum_j ||z_i - z_j||^2 exp(-||z_i - z_j||^2 / sigma^2): it repels what is nearer
than sigma, is zero at sigma, and draws together what is farther apart. So two trajectories, whose median distance is
their own, feel nothing under the median: take three or more, or a number as the bandwidth.

# Paper: the prediction gets + gamma_t F, and the released code adds that to the velocity, which Euler's step subtracts:
# near trajectories are pulled together. Here: F is added to the latents (guidance_sign="repulsive"), which is what the
# paper wants of it; "official" is the released sign, for comparison.
# Released code: differences between thought tokens inside one sample. Here: between trajectories, as the paper says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from szilard.options import check_choice, check_number

SIGNS: Final = ("repulsive", "official")
SCHEDULES: Final = ("linear", "official")
_OFFICIAL_LEAST = 0.1  # of gamma in the released code
_FAR = 1e3  # of r_ij, where exp(-r_ij) is nothing


def diversity_force(z: torch.Tensor, sigma: float | torch.Tensor | None = None) -> torch.Tensor:
    """F of every trajectory.

    Args:
        z: [trajectories, ...], compared as flat vectors.
        sigma: the bandwidth; None: the median distance (with an even number of pairs, the mean of the middle two).

    Returns:
        Shaped as z; zeros for one trajectory, and where all are in one place.
    """
    return _forces(z.flatten(1)[None], sigma)[0].view_as(z)


def _forces(z: torch.Tensor, sigma: float | torch.Tensor | None) -> torch.Tensor:
    """F within each of some questions, [questions, trajectories, d]."""
    count = z.shape[1]
    if count < 2 or (count == 2 and sigma is None):  # of two, the median is their own distance
        return torch.zeros_like(z)
    apart = z[:, :, None] - z[:, None]  # [questions, i, j, d]
    squared = apart.pow(2).sum(-1)
    if sigma is None:
        one, other = torch.triu_indices(count, count, 1, device=z.device)
        sigma = squared[:, one, other].sqrt().quantile(0.5, dim=1)[:, None, None]
    bandwidth = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).pow(2)
    ratio = (squared / bandwidth.clamp(min=torch.finfo(z.dtype).tiny)).clamp(max=_FAR)  # a median may be zero
    weight = 2 * (1 - ratio) * torch.exp(-ratio)
    return torch.einsum("qij,qijd->qid", weight, apart)


@dataclass(frozen=True)
class DiversityGuidance:
    """How strongly, and which way, trajectories act on each other.

    Attributes:
        gamma_max: strength at t = 1; 0: none. The paper's best are 0.3 to 0.5.
        bandwidth: sigma: "median", or a number.
        guidance_sign: "repulsive", or "official" (see above).
        schedule: "linear": gamma_max t (paper); "official": 0.1 + (gamma_max - 0.1) t^2 (released code).
    """

    gamma_max: float = 0.3
    bandwidth: float | str = "median"
    guidance_sign: str = "repulsive"
    schedule: str = "linear"

    def __post_init__(self) -> None:
        check_number("gamma_max", self.gamma_max, low=0, high=1e6)
        if isinstance(self.bandwidth, str):
            check_choice("bandwidth", self.bandwidth, ("median",))
        else:
            check_number("bandwidth", self.bandwidth, low=1e-9)
        check_choice("guidance_sign", self.guidance_sign, SIGNS)
        check_choice("schedule", self.schedule, SCHEDULES)

    def gamma(self, t: float) -> float:
        """The strength at time t."""
        if self.schedule == "linear" or self.gamma_max == 0:
            return self.gamma_max * t
        return _OFFICIAL_LEAST + (self.gamma_max - _OFFICIAL_LEAST) * t**2

    def step(self, z: torch.Tensor, velocity: torch.Tensor, t: float, dt: float, groups: torch.Tensor) -> torch.Tensor:
        """One Euler step.

        Args:
            z, velocity: [rows, L_b, d_z].
            t, dt: the time and its step.
            groups: number of the question of every row, int64 [rows].
        """
        moved = z - dt * velocity
        strength = self.gamma(t)
        if strength == 0:
            return moved
        force = torch.zeros_like(z).flatten(1)
        sigma = None if isinstance(self.bandwidth, str) else self.bandwidth
        _, number, counts = groups.unique(return_inverse=True, return_counts=True)
        order = number.argsort(stable=True)
        for count in counts.unique().tolist():  # questions with as many trajectories at once
            rows = order[(counts == count)[number[order]]].view(-1, count)
            force[rows] = _forces(z.flatten(1)[rows], sigma)
        force = force.view_as(z)
        return moved + strength * force if self.guidance_sign == "repulsive" else moved - dt * strength * force
