"""What a linear Gaussian latent keeps over time, in closed form, and how a budget of variance is best spent.

Cheng et al., "Information Shapes Koopman Representation", ICLR 2026, arXiv:2510.13025. For z_t = K^n z_{t-n} + noise
with process noise Sigma, state covariance C and M_n = sum_{i<n} K^i Sigma (K^i)^T:

    I(z_{t-n}; z_t) = 1/2 [log det(K^n C K^n^T + M_n) - log det M_n]

Maximising 1/2 sum_i log(1 + g_i p_i) under sum p_i <= c is water-filling, which gives weak modes nothing (collapse);
with gamma S(p/c) added, S the entropy, every mode gets something. Nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.information.arrays import as_floats
from szilard.information.matrix_entropy import spectrum
from szilard.options import check_number

_FLOOR = 1e-8  # of eigenvalues: the published code's
_HALVINGS = 100


def von_neumann_entropy(features: Any, *, floor: float = _FLOOR) -> Tensor:
    """-sum lambda log lambda of the eigenvalues of Cov(features) / trace; exp of it is the effective dimension.

    Scale, rotation and place of the features do not matter. It can be differentiated.

    Args:
        features: [..., N, d], numpy or torch; at most min(N - 1, d) directions can be told.
        floor: eigenvalues are at least this, so that gradients stay finite.

    Returns:
        float64 [...], nats, between about 0 and log d.

    Raises:
        TypeError: no array of numbers.
        ValueError: fewer than two features, or numbers that are none.
    """
    check_number("floor", floor, low=0, high=1)
    x = as_floats("features", features)
    if x.dim() < 2 or x.shape[-2] < 2 or not x.numel():
        raise ValueError(f"a covariance needs [..., N, d] with at least two rows, not {list(x.shape)}.")
    # Whatever their size: the spectrum's smallest trace is a fixed one.
    x = x - x.mean(-2, keepdim=True)
    x = x / x.detach().abs().amax((-2, -1), keepdim=True).clamp(min=1e-300)
    values = spectrum(x, unit_rows=False, center=False).clamp(min=max(floor, 1e-300))
    return -(values * values.log()).sum(-1)


def effective_dimension(features: Any) -> Tensor:
    """exp of `von_neumann_entropy`, float64 [...]: how many directions the features use, between 1 and d."""
    return von_neumann_entropy(features).exp()


def gaussian_latent_information(operator: Any, noise: Any, state: Any, lag: int = 1) -> Tensor:
    """I(z_{t-n}; z_t) of a linear Gaussian latent.

    Args:
        operator: K, [d, d], columns: z_t = K z_{t-1}.
        noise: Sigma, [d, d], positive definite.
        state: C, the covariance of z_{t-n}, [d, d], positive semidefinite.
        lag: n, at least 1.

    Returns:
        float64, nats.

    Raises:
        TypeError: no arrays of numbers.
        ValueError: shapes that do not match, or a covariance that is none.
    """
    k, sigma, c = _matrices(operator=operator, noise=noise, state=state)
    _check_covariance("noise", sigma)
    _check_covariance("state", c, definite=False)
    power, gathered = _powers(k, sigma, lag)
    return 0.5 * (_log_det(power @ c @ power.T + gathered, "K C K^T + noise") - _log_det(gathered, "noise"))


def gaussian_dissipating_information(
    operator: Any, noise: Any, observation: Any, observation_noise: Any, lag: int
) -> Tensor:
    """I(z_t; x_{t-1} | z_{t-n}) with x = D z + e: what the last state tells beyond what was known n steps ago.

    Fast modes hold it, and it may be compressed (inferred from the joint covariance of z_t and x_{t-1} given z_{t-n}).

    Args:
        operator, noise: K and Sigma, as in `gaussian_latent_information`.
        observation: D, [m, d].
        observation_noise: R, covariance of e, [m, m], positive definite.
        lag: n; with 1 there is nothing between, and it is 0.
    """
    k, sigma = _matrices(operator=operator, noise=noise)
    d = as_floats("observation", observation)
    r = as_floats("observation_noise", observation_noise)
    if d.dim() != 2 or d.shape[1] != len(k) or r.shape != (len(d), len(d)):
        raise ValueError(
            f"observation must be [m, {len(k)}] and observation_noise [m, m], not {list(d.shape)} and {list(r.shape)}."
        )
    _check_covariance("noise", sigma)
    _check_covariance("observation_noise", r)
    _, now = _powers(k, sigma, lag)
    before = _powers(k, sigma, lag - 1)[1] if lag > 1 else torch.zeros_like(now)
    seen, cross = d @ before @ d.T + r, k @ before @ d.T
    joint = torch.cat([torch.cat([now, cross], 1), torch.cat([cross.T, seen], 1)])
    return 0.5 * (
        _log_det(now, "noise") + _log_det(seen, "observation_noise") - _log_det(joint, "the joint covariance")
    )


def water_filling(gains: Any, budget: float, entropy_weight: float = 0.0) -> Tensor:
    """Powers p that maximise 1/2 sum log(1 + g p) + gamma S(p / c) under sum p = c.

    Args:
        gains: g, [d], at least 0; one above 0.
        budget: c, above 0.
        entropy_weight: gamma. 0: p = max(0, 1 / (2 mu) - 1 / g). Above 0 the optimum has no closed form,
            p / c = exp((c / gamma) (g / (2 (1 + g p)) - mu) - 1); p and mu are found by halving.

    Returns:
        float64 [d], adding up to the budget.

    Raises:
        ValueError: a gain below 0, none above 0, or a number out of range.
    """
    check_number("budget", budget, low=1e-12, high=1e12)
    check_number("entropy_weight", entropy_weight, low=0, high=1e12)
    g = as_floats("gains", gains)
    if g.dim() != 1 or bool((g < 0).any()) or not bool((g > 0).any()):
        raise ValueError("gains must be a row of numbers of at least 0, one of them above 0.")
    if entropy_weight == 0:
        return _water(g, budget)
    scale = budget / entropy_weight
    low, high = g.new_tensor(-1e3 / scale), 0.5 * g.max() + g.new_tensor(1e3 / scale)
    for _ in range(_HALVINGS):
        mu = (low + high) / 2
        short = _shares(g, mu, budget, scale).sum() < 1
        low, high = torch.where(short, low, mu), torch.where(short, mu, high)
    share = _shares(g, (low + high) / 2, budget, scale)
    return budget * share / share.sum()


def _water(g: Tensor, budget: float) -> Tensor:
    """The level above the largest number of modes that all stand out of the floor 1 / g."""
    floors, order = (1 / g).sort()
    count = torch.arange(1, len(g) + 1, dtype=g.dtype, device=g.device)
    levels = (budget + floors.cumsum(0)) / count
    filled = int(((levels > floors) & floors.isfinite()).sum())
    powers = (levels[filled - 1] - floors).clamp(min=0)
    return torch.zeros_like(g).scatter(0, order, powers)


def _shares(g: Tensor, mu: Tensor, budget: float, scale: float) -> Tensor:
    """p / c of every mode at a level mu: log s + 1 = scale (g / (2 (1 + g c s)) - mu) rises in s on the left only."""
    low, high = torch.full_like(g, -700.0), torch.full_like(g, 5.0)  # of log s
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = middle + 1 > scale * (g / (2 * (1 + g * budget * middle.exp())) - mu)
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).exp()


def _powers(k: Tensor, sigma: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """K^n and M_n."""
    check_number("lag", lag, low=1, integer=True)
    power, gathered = torch.eye(len(k), dtype=k.dtype, device=k.device), torch.zeros_like(k)
    for _ in range(lag):
        gathered = gathered + power @ sigma @ power.T
        power = k @ power
    return power, gathered


def _matrices(**given: Any) -> list[Tensor]:
    found = [as_floats(name, one) for name, one in given.items()]
    if any(one.dim() != 2 or one.shape[0] != one.shape[1] or one.shape != found[0].shape for one in found):
        raise ValueError(f"{', '.join(given)} must all be [d, d], not {[list(one.shape) for one in found]}.")
    return found


def _check_covariance(name: str, matrix: Tensor, *, definite: bool = True) -> None:
    """Refuse what is no covariance; a determinant above 0 is not enough, two negative variances have it, too."""
    m = matrix.detach()
    size = m.abs().max()
    if not torch.allclose(m, m.T, rtol=0, atol=1e-6 * float(size)):
        raise ValueError(f"{name} must be a covariance, and so symmetric.")
    least = float(torch.linalg.eigvalsh((m + m.T) / 2)[0])
    if least <= 0 if definite else least < -1e-6 * float(size):
        word = "positive definite" if definite else "positive semidefinite"
        raise ValueError(f"{name} must be {word}, and its least eigenvalue is {least:.3g}.")


def _log_det(matrix: Tensor, name: str) -> Tensor:
    sign, value = torch.linalg.slogdet(matrix)
    if not bool(sign > 0) or not bool(torch.isfinite(value)):
        raise ValueError(f"the determinant of {name} is out of what numbers can hold at this lag: take a smaller one.")
    return value
