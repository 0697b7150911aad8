"""The exponential rate-distortion curve of a system that answers from compressed texts.

He, Narayan, Khare, Linderman, Re, Biderman, "An Information Theoretic Perspective on Agentic System Design", 2025,
arXiv 2512.21720:

    D(R) = C exp(-b R) + D_0,    C, b, D_0 >= 0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_NOTHING = 1e-6  # explained share below which there is no curve
_STARTS = (0.3, 1.0, 3.0, 10.0, 30.0)  # decays to start from, over the span of the rates


@dataclass(frozen=True)
class RateDistortion:
    """A fitted curve.

    Attributes:
        scale: C, the distortion above the floor at rate 0.
        decay: b, per unit of the rate.
        floor: D_0, what no rate takes away: the predictor's own errors.
        r2: explained share of the variance of the distortions; 0 where they are all alike.
        points: measured points that it was fitted to.
    """

    scale: float
    decay: float
    floor: float
    r2: float
    points: int

    def __call__(self, rate: float) -> float:
        """Distortion at a rate."""
        return self.scale * math.exp(-self.decay * rate) + self.floor


def rate_distortion(
    points: Sequence[tuple[float, float]], *, highest: float = math.inf, highest_floor: float | None = None
) -> RateDistortion:
    """Fit the curve by least squares within its bounds (inferred: the paper names no procedure).

    Args:
        points: (rate, distortion), at least three different rates; any unit of rate, as in bits per token.
        highest: bound of C.
        highest_floor: bound of D_0; None: the largest distortion measured.

    Returns:
        The curve. Where distortions do not fall with the rate it is flat: C = b = 0, D_0 their mean.

    Raises:
        ValueError: too few points, numbers that are not finite, or scipy is missing (it comes with the extra `eval`).
    """
    try:
        from scipy.optimize import least_squares
    except ModuleNotFoundError:
        raise ValueError("the rate-distortion fit needs scipy: pip install 'szilard[eval]'") from None
    found = np.asarray(points, dtype=float)
    if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
        raise ValueError("the points of a rate-distortion curve are pairs (rate, distortion) of finite numbers.")
    rates, distortions = found.T
    if len(np.unique(rates)) < 3 or (rates < 0).any() or (distortions < 0).any():
        raise ValueError(
            f"C, b and D_0 take at least three different rates, none of rate and distortion below 0; these are "
            f"{len(np.unique(rates))} rates."
        )
    span = float(rates.max() - rates.min())
    top = float(distortions.max()) if highest_floor is None else highest_floor
    top = max(top, 1e-12)

    def residuals(values: np.ndarray) -> np.ndarray:
        return values[0] * np.exp(-values[1] * rates) + values[2] - distortions

    best: Any = None
    for start in _STARTS:  # the curve is not convex in b: the best of a few starts
        decay = start / span
        guess = [min(max(np.ptp(distortions), 1e-6) * math.exp(min(decay * rates.min(), 50.0)), highest), decay]
        first = [*guess, min(float(distortions.min()), top)]
        fit = least_squares(
            residuals, first, bounds=([0, 0, 0], [highest, np.inf, top]), x_scale=np.maximum(first, 1e-6), xtol=1e-12
        )
        if best is None or fit.cost < best.cost:
            best = fit
    scale, decay, floor = map(float, best.x)
    spread = float(((distortions - distortions.mean()) ** 2).sum())
    r2 = 1 - 2 * float(best.cost) / spread if spread > 0 else 0.0
    if r2 < _NOTHING:  # any C and b that vanish between the points would do, so it is said that there is no decay
        return RateDistortion(0.0, 0.0, float(distortions.mean()), max(r2, 0.0), len(found))
    return RateDistortion(scale, decay, floor, r2, len(found))
