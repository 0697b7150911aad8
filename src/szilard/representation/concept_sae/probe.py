"""A linear probe of one concept: log p(c | h) as a logistic regression on hidden states gives it.

    logit(h) = w^T h + w_0,   log p(c = 1 | h) = log sigmoid(logit(h))
    min over w, w_0:  1/2 ||w||^2 + C sum_i log(1 + exp(-y_i logit(h_i))),   y = +1 for E1, -1 for E0

Liu et al., "I Predict Therefore I Am", ICLR 2026, arXiv:2503.08980. Paper: C = 1e-4; here: C by cross-validation over
pairs because at a C so small w becomes the difference of the class means, for any data. C is in the units of the states
as they are. Inside, states are centred, divided by one number and turned into the few directions that they span: the
solution is the same, and found faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from szilard.options import check_choice, check_number
from szilard.representation.concept_sae.states import checked_pair

GRID = tuple(10.0**power for power in range(-2, 5))  # C for states of mean squared norm 1
_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Spanned:
    """Both sides' states in coordinates of their span.

    Attributes:
        positive, negative: [N, r].
        basis: [r, d], rows of norm 1.
        centre: [d].
        scale: root of the mean squared norm of the centred states.
    """

    positive: _Array
    negative: _Array
    basis: _Array
    centre: _Array
    scale: float

    @classmethod
    def of(cls, positive: Tensor, negative: Tensor, name: str = "the concept") -> Spanned:
        """From float64 [N, d] twice."""
        both = torch.cat([positive, negative]).numpy()
        centre = both.mean(0)
        moved = both - centre
        scale = float(np.sqrt((moved**2).sum(1).mean()))
        gap = float((positive - negative).mean(0).norm())
        if gap <= 1e-12 * max(1.0, float(np.abs(both).max())):
            raise ValueError(f"the two sides of {name} have the same mean state: there is no direction between them.")
        left, values, basis = np.linalg.svd(moved / scale, full_matrices=False)
        kept = values > values[0] * 1e-10
        rows = left[:, kept] * values[kept]
        return cls(rows[: len(positive)], rows[len(positive) :], basis[kept], centre, scale)

    def raw(self, weight: _Array, intercept: float) -> tuple[Tensor, float]:
        """w [d] and w_0 for the states as they are, of what was found in coordinates [r]."""
        found = weight @ self.basis / self.scale
        return torch.from_numpy(found), float(intercept - found @ self.centre)


def logistic(positive: _Array, negative: _Array, strength: float, iterations: int) -> tuple[_Array, float]:
    """The solution [r] and its intercept, for C = strength in the coordinates' units."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ImportError("probes need the package scikit-learn: pip install 'szilard[eval]'") from None
    rows = np.concatenate([positive, negative])
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    found = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=iterations, tol=1e-8).fit(rows, labels)
    return found.coef_[0], float(found.intercept_[0])


def validated(
    spanned: Spanned, rows: _Array, grid: Sequence[float], folds: int, seed: int, iterations: int
) -> tuple[float, float]:
    """The C (in coordinates' units) with the least held-out loss over pairs, and its held-out accuracy.

    Args:
        spanned: the states.
        rows: pairs that may be used; both sides of a pair are held out together.
        grid: C to choose from, rising; the smallest of equals is taken.
        folds: at most; never more than pairs.
        seed: of the folds.
        iterations: of a fit.
    """
    parts = np.array_split(np.random.default_rng(seed).permutation(rows), min(folds, len(rows)))
    losses, right = np.zeros(len(grid)), np.zeros(len(grid))
    for held in parts:
        used = np.setdiff1d(rows, held)
        for at, strength in enumerate(grid):
            weight, intercept = logistic(spanned.positive[used], spanned.negative[used], strength, iterations)
            margins = np.concatenate(
                [spanned.positive[held] @ weight + intercept, -(spanned.negative[held] @ weight + intercept)]
            )
            losses[at] += np.logaddexp(0.0, -margins).sum()
            right[at] += (margins > 0).sum()
    best = int(losses.argmin())
    return float(grid[best]), float(right[best] / (2 * len(rows)))


def penalty_grid(penalty: str | float, scale: float) -> tuple[float, ...]:
    """What C is chosen from, in coordinates' units.

    Raises:
        ValueError, TypeError: neither "cv" nor a number above 0.
    """
    if isinstance(penalty, str):
        check_choice("penalty", penalty, ("cv",))
        return GRID
    check_number("penalty", penalty, low=1e-12)
    return (float(penalty) * scale**2,)


@dataclass(frozen=True)
class ConceptProbe:
    """The log-posterior of a binary concept, linear in hidden states up to the softmax.

    Attributes:
        weight: w [d], float64.
        intercept: w_0.
        direction: mean of E1 - E0 [d]: A~_k up to its length.
        penalty: C, in the units of the states as they are.
        accuracy: held out, over pairs, with the C that was chosen.
    """

    weight: Tensor
    intercept: float
    direction: Tensor
    penalty: float
    accuracy: float

    @classmethod
    def fit(
        cls,
        positive: Any,
        negative: Any,
        *,
        penalty: str | float = "cv",
        folds: int = 5,
        iterations: int = 500,
        seed: int = 0,
    ) -> ConceptProbe:
        """Fit to pairs of states.

        Args:
            positive, negative: E1, E0 [N, d]; row i of both is a pair.
            penalty: "cv", or C.
            folds: of the cross-validation over pairs.
            iterations: of a fit, at most.
            seed: of the folds.

        Raises:
            ValueError: shapes that do not match, fewer than 4 pairs, values that are no numbers, or two equal sides.
            ImportError: scikit-learn is not installed.
        """
        first, second = checked_pair("the concept", positive, negative)
        check_number("folds", folds, low=2, integer=True)
        check_number("iterations", iterations, low=1, integer=True)
        check_number("seed", seed, low=0, integer=True)
        spanned = Spanned.of(first, second)
        grid = penalty_grid(penalty, spanned.scale)
        chosen, accuracy = validated(spanned, np.arange(len(first)), grid, folds, seed, iterations)
        weight, intercept = spanned.raw(*logistic(spanned.positive, spanned.negative, chosen, iterations))
        return cls(weight, intercept, (first - second).mean(0), chosen / spanned.scale**2, accuracy)

    def logit(self, states: Any) -> Tensor:
        """log p(c = 1 | h) - log p(c = 0 | h), float64 [...], of [..., d].

        Raises:
            TypeError: states that are no numbers.
            ValueError: states of another width.
        """
        read = self._read(states).double()
        return read @ self.weight.to(read.device) + self.intercept

    def _read(self, states: Any) -> Tensor:
        """States [..., d] as a tensor."""
        try:
            found = torch.as_tensor(states)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"states must be numbers [..., {len(self.weight)}], not {type(states).__name__}."
            ) from error
        if found.is_complex():
            raise TypeError(f"states must be real numbers, not {found.dtype}.")
        if not found.dim() or found.shape[-1] != len(self.weight):
            given = f"{found.shape[-1]}" if found.dim() else "a single number"
            raise ValueError(f"this probe reads states of width {len(self.weight)}, not {given}.")
        return found

    def log_posterior(self, states: Any, value: int = 1) -> Tensor:
        """log p(c = value | h) in nats, float64 [...], of [..., d].

        Raises:
            TypeError, ValueError: a value that is neither 0 nor 1, or states as `logit` says.
        """
        if not isinstance(value, int) or value not in (0, 1):
            raise ValueError(f"value must be 0 or 1, not {value!r}.")
        return torch.nn.functional.logsigmoid(self.logit(states) * (1 if value else -1))

    def steer(self, states: Any, strength: float) -> Tensor:
        """States [..., d] moved along the concept's direction until the logit has risen by `strength` nats.

        The direction is the mean difference, not w: it is how the model itself moves between the two sides.

        Raises:
            TypeError: states that are no floats (rounded, a step would be nothing), or a strength that is no number.
            ValueError: states of another width, or a strength that is not finite.
        """
        check_number("strength", strength, low=-1e12, high=1e12)
        read = self._read(states)
        if not read.is_floating_point():
            raise TypeError(f"states to steer must be floats, not {read.dtype}: give states.float().")
        step = self.direction / (self.weight @ self.direction)
        return read + (strength * step).to(read)
