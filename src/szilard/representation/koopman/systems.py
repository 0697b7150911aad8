"""Systems whose trajectories are integrated on the spot: [sequences, time, state], float32, in steps of equal time.

    pendulum      theta'' = -sin theta - friction theta'                                       2 numbers
    duffing       x'' = x - x^3 - friction x'                                                  2
    lorenz        Lorenz (1963), sigma 10, rho 28, beta 8/3, by Runge-Kutta                     3
    oscillator    r' = r (1 - r^2), theta' = 1, seen through a fixed random tanh network       32
    oscillators   five such oscillators of different speed, all in one view                    32
    burgers       u_t = -u u_x + 0.1 u_xx on a ring                                            64
    kuramoto      Kuramoto-Sivashinsky, u_t = -u u_x - u_xx - u_xxxx on a ring, by ETDRK4       64

Noise is added to what is seen, not to what happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from szilard.options import check_choice, check_number

STEPS = {
    "pendulum": 0.1,
    "duffing": 0.1,
    "lorenz": 0.02,
    "oscillator": 0.2,
    "oscillators": 0.2,
    "burgers": 0.05,
    "kuramoto": 1.0,
}
VIEW, RING = 32, 64


def trajectories(
    system: str, sequences: int, length: int, *, seed: int = 0, noise: float = 0.0, step: float | None = None
) -> Tensor:
    """Integrate a system from random first states.

    Args:
        system: one of `STEPS`.
        sequences: S.
        length: L, states of each.
        seed: of the first states and the noise.
        noise: standard deviation of what is added to each channel, in its own standard deviations.
        step: seconds between states; None: the system's.

    Returns:
        [S, L, state], float32.

    Raises:
        ValueError: no such system, or a number out of range.
    """
    check_choice("system", system, tuple(STEPS))
    for name, value in (("sequences", sequences), ("length", length)):
        check_number(name, value, low=1, integer=True)
    check_number("noise", noise, low=0, high=1e6)
    check_number("step", step, low=1e-6, high=1e6, optional=True)
    check_number("seed", seed, low=0, integer=True)
    if system == "kuramoto" and step is not None and abs(step / 0.25 - round(step / 0.25)) > 1e-9:
        raise ValueError(f"kuramoto is integrated in steps of 0.25: step must be a multiple of it, not {step!r}.")
    chance = np.random.default_rng([seed, sorted(STEPS).index(system)])
    found = _MADE[system](chance, sequences, length, STEPS[system] if step is None else step)
    if noise:
        found = found + noise * found.std((0, 1)) * chance.standard_normal(found.shape)
    return torch.from_numpy(found.astype(np.float32))


Field = Callable[[np.ndarray], np.ndarray]


def _integrated(field: Field, start: np.ndarray, length: int, step: float) -> np.ndarray:
    """[S, L, n] by SciPy's adaptive Runge-Kutta of order 8, all sequences at once."""
    from scipy.integrate import solve_ivp

    shape = start.shape
    times = np.arange(length) * step
    found = solve_ivp(
        lambda _, x: field(x.reshape(shape)).reshape(-1),
        (0.0, times[-1] + 1e-9),
        start.reshape(-1),
        method="DOP853",
        t_eval=times,
        rtol=1e-8,
        atol=1e-8,
    )
    if not found.success:
        raise ValueError(f"the system could not be integrated: {found.message}")
    return np.moveaxis(found.y.reshape(*shape, length), -1, 1)


def _pendulum(chance: np.random.Generator, sequences: int, length: int, step: float) -> np.ndarray:
    start = np.stack([chance.uniform(-2.5, 2.5, sequences), chance.uniform(-1, 1, sequences)], 1)
    return _integrated(lambda x: np.stack([x[:, 1], -np.sin(x[:, 0]) - 0.05 * x[:, 1]], 1), start, length, step)


def _duffing(chance: np.random.Generator, sequences: int, length: int, step: float) -> np.ndarray:
    start = chance.uniform(-1.8, 1.8, (sequences, 2))
    return _integrated(lambda x: np.stack([x[:, 1], x[:, 0] - x[:, 0] ** 3 - 0.05 * x[:, 1]], 1), start, length, step)


def _lorenz(chance: np.random.Generator, sequences: int, length: int, step: float) -> np.ndarray:
    def field(x: np.ndarray) -> np.ndarray:
        a, b, c = x.T
        return np.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)

    state = chance.normal(0, 1, (sequences, 3)) * [8, 8, 6] + [0, 0, 25]
    parts = math.ceil(step / 0.01)  # smaller steps inside, of the classical method of order 4
    small, path = step / parts, []
    for at in range(round(5 / step) + length):  # five seconds to reach the attractor
        if at >= round(5 / step):
            path.append(state)
        for _ in range(parts):
            first = field(state)
            second = field(state + small / 2 * first)
            third = field(state + small / 2 * second)
            state = state + small / 6 * (first + 2 * second + 2 * third + field(state + small * third))
    return np.stack(path, 1)


def _seen(hidden: np.ndarray) -> np.ndarray:
    """A fixed random network of one tanh layer, the same for every seed of the data."""
    fixed = np.random.default_rng(20251013)
    wide = np.tanh(hidden @ fixed.normal(0, 1.2, (hidden.shape[-1], 64)) + fixed.normal(0, 0.3, 64))
    return wide @ fixed.normal(0, 1 / 8, (64, VIEW))


def _cycles(chance: np.random.Generator, sequences: int, length: int, step: float, speeds: np.ndarray) -> np.ndarray:
    """Limit cycles in closed form: 1 / r^2 - 1 decays as exp(-2 t)."""
    radius = chance.uniform(0.3, 1.6, (sequences, 1, len(speeds)))
    angle = chance.uniform(0, 2 * np.pi, (sequences, 1, len(speeds)))
    time = (np.arange(length) * step)[None, :, None]
    r = 1 / np.sqrt(1 + (1 / radius**2 - 1) * np.exp(-2 * time))
    turned = angle + speeds * time
    return np.concatenate([r * np.cos(turned), r * np.sin(turned)], -1)


def _oscillator(chance: np.random.Generator, sequences: int, length: int, step: float) -> np.ndarray:
    return _seen(_cycles(chance, sequences, length, step, np.array([1.0])))


def _oscillators(chance: np.random.Generator, sequences: int, length: int, step: float) -> np.ndarray:
    return _seen(_cycles(chance, sequences, length, step, np.array([0.3, 0.7, 1.1, 1.9, 3.1])))


def _waves(chance: np.random.Generator, sequences: int, most: int) -> np.ndarray:
    """Smooth random functions on a ring, [S, RING]."""
    place = np.arange(RING) * 2 * np.pi / RING
    found = np.zeros((sequences, RING))
    for wave in range(1, most + 1):
        size = chance.normal(0, 1 / wave, (2, sequences, 1))
        found += size[0] * np.cos(wave * place) + size[1] * np.sin(wave * place)
    return found


def _burgers(chance: np.random.Generator, sequences: int, length: int, step: float) -> np.ndarray:
    width = 2 * np.pi / RING
    wave = np.fft.rfftfreq(RING, width / (2 * np.pi))

    def field(u: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(u)
        slope = np.fft.irfft(1j * wave * spectrum, RING)
        return -u * slope + 0.1 * np.fft.irfft(-(wave**2) * spectrum, RING)

    return _integrated(field, 0.5 * _waves(chance, sequences, 3), length, step)


def _kuramoto(chance: np.random.Generator, sequences: int, length: int, step: float) -> np.ndarray:
    """Kassam and Trefethen (2005), on a ring of 22 units: a chaos of few dimensions."""
    ring, small = 22.0, 0.25
    wave = 2 * np.pi * np.fft.rfftfreq(RING, ring / RING)
    linear = wave**2 - wave**4
    half, whole = np.exp(small * linear / 2), np.exp(small * linear)
    circle = np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
    points = small * linear[:, None] + circle
    q = small * np.real(np.mean((np.exp(points / 2) - 1) / points, 1))
    f1 = small * np.real(np.mean((-4 - points + np.exp(points) * (4 - 3 * points + points**2)) / points**3, 1))
    f2 = small * np.real(np.mean((2 + points + np.exp(points) * (-2 + points)) / points**3, 1))
    f3 = small * np.real(np.mean((-4 - 3 * points - points**2 + np.exp(points) * (4 - points)) / points**3, 1))

    def bent(v: np.ndarray) -> np.ndarray:
        return -0.5j * wave * np.fft.rfft(np.fft.irfft(v, RING) ** 2)

    v, path = np.fft.rfft(0.5 * _waves(chance, sequences, 4)), []
    every = max(1, round(step / small))
    for at in range(800 + length * every):  # 200 units to reach the attractor
        if at >= 800 and (at - 800) % every == 0:
            path.append(np.fft.irfft(v, RING))
        n = bent(v)
        a = half * v + q * n
        n_a = bent(a)
        b = half * v + q * n_a
        n_b = bent(b)
        c = half * a + q * (2 * n_b - n)
        v = whole * v + n * f1 + 2 * (n_a + n_b) * f2 + bent(c) * f3
    return np.stack(path, 1)


_MADE: dict[str, Callable[[np.random.Generator, int, int, float], np.ndarray]] = {
    "pendulum": _pendulum,
    "duffing": _duffing,
    "lorenz": _lorenz,
    "oscillator": _oscillator,
    "oscillators": _oscillators,
    "burgers": _burgers,
    "kuramoto": _kuramoto,
}
