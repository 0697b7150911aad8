"""The concept alignment test: does a probe's weight point where the concept's pairs differ?

Liu et al., "I Predict Therefore I Am", ICLR 2026, arXiv:2503.08980. For concepts k = 1..n with pairs (u_i, v_i):

    a_k = mean_i (e(u_i) - e(v_i)), of norm 1        A_s [n, d]
    w_k = weight of the logistic probe, of norm 1    W_s [d, n]
    M = A_s W_s [n, n]: the identity, if each concept has a direction of its own
    || A_s^T W_s^T - P_S ||_F,  P_S the projection on the span of the directions

Paper: a_k and w_k from the same pairs, at C = 1e-4; here: a_k from one part of the pairs and w_k from the rest, C by
cross-validation, because at that C w_k *is* the difference of the means, and the diagonal is 1 for any data. The null
swaps the words of half of the pairs, drawn anew for directions and probes. `folds=1, penalty=1e-4` is the paper's form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from szilard.options import check_number
from szilard.representation.concept_sae.probe import Spanned, logistic, penalty_grid, validated
from szilard.representation.concept_sae.states import checked_states

_INNER = 5  # folds of the choice of C


@dataclass(frozen=True)
class ConceptAlignment:
    """What the test found. Tensors are float64.

    Attributes:
        names: of the concepts, [n].
        directions: A_s [n, d], from all pairs.
        probe_weights: W_s [d, n], from all pairs.
        matrix: M [n, n]: a row per direction, a column per probe; the mean over folds.
        projection_error: || A_s^T W_s^T - P_S ||_F, the mean over folds.
        null_matrix: M with swapped words, the mean over permutations; None: no permutations.
        null_diagonals: [permutations, n]; None: no permutations.
        probe_accuracy: [n] on pairs that the probe has not seen; with one fold on those that it has.
        penalties: C [n] of the probes from all pairs.
        pairs: how many, by concept.
        folds: of the cross-fitting; 1: none.
    """

    names: tuple[str, ...]
    directions: Tensor
    probe_weights: Tensor
    matrix: Tensor
    projection_error: float
    null_matrix: Tensor | None
    null_diagonals: Tensor | None
    probe_accuracy: Tensor
    penalties: Tensor
    pairs: tuple[int, ...]
    folds: int

    @property
    def diagonal(self) -> Tensor:
        """a_k^T w_k, [n]."""
        return self.matrix.diagonal()

    @property
    def off_diagonal(self) -> Tensor:
        """a_k^T w_j for k != j, [n (n - 1)], row by row."""
        return self.matrix[~torch.eye(len(self.names), dtype=torch.bool)]

    @property
    def mean_off_diagonal(self) -> float:
        """Mean of |a_k^T w_j|; 0 for one concept."""
        return float(self.off_diagonal.abs().mean()) if len(self.names) > 1 else 0.0

    @property
    def null_bound(self) -> Tensor | None:
        """[n]: the largest diagonal among the permutations."""
        return None if self.null_diagonals is None else self.null_diagonals.amax(0)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, without the vectors."""
        return {
            "names": list(self.names),
            "pairs": list(self.pairs),
            "matrix": self.matrix.tolist(),
            "diagonal": self.diagonal.tolist(),
            "mean_diagonal": float(self.diagonal.mean()),
            "mean_off_diagonal": self.mean_off_diagonal,
            "projection_error": self.projection_error,
            "probe_accuracy": self.probe_accuracy.tolist(),
            "penalties": self.penalties.tolist(),
            "folds": self.folds,
            "null_matrix": None if self.null_matrix is None else self.null_matrix.tolist(),
            "null_bound": None if self.null_bound is None else self.null_bound.tolist(),
        }


def concept_alignment(
    states: Any,
    *,
    penalty: str | float = "cv",
    folds: int = 2,
    null_permutations: int = 20,
    iterations: int = 500,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> ConceptAlignment:
    """Compare every concept's direction with every concept's probe.

    Args:
        states: (E1 [N, d], E0 [N, d]) by concept, as `concept_states` gives them.
        penalty: "cv": C by cross-validation over a probe's own pairs; or C.
        folds: a direction is of the pairs of one fold, its probe of the others'; 1: both of all pairs.
        null_permutations: of the null; 0: none. They keep the C that was chosen for the true pairs.
        iterations: of a probe's fit, at most.
        seed: of folds and permutations.
        progress: called with the number of concepts done.

    Raises:
        TypeError, ValueError: states as `checked_states` says, or a concept with fewer than two pairs a fold.
        ImportError: scikit-learn is not installed.
    """
    given = checked_states(states)
    check_number("folds", folds, low=1, integer=True)
    check_number("null_permutations", null_permutations, low=0, integer=True)
    check_number("iterations", iterations, low=1, integer=True)
    check_number("seed", seed, low=0, integer=True)
    names = tuple(given)
    least = min(names, key=lambda name: len(given[name][0]))
    if len(given[least][0]) < 2 * folds:
        raise ValueError(f"{folds} folds need {2 * folds} pairs; concept {least!r} has {len(given[least][0])}.")
    d = given[names[0]][0].shape[1]
    runs = 1 + null_permutations  # the first is of the pairs as they are
    directions = torch.zeros(runs, folds, len(names), d, dtype=torch.float64)
    weights = torch.zeros(runs, folds, len(names), d, dtype=torch.float64)
    accuracy = torch.zeros(len(names), dtype=torch.float64)
    whole_directions, whole_weights = torch.zeros(2, len(names), d, dtype=torch.float64)
    penalties = torch.zeros(len(names), dtype=torch.float64)
    for at, name in enumerate(names):
        first, second = given[name]
        spanned = Spanned.of(first, second, f"concept {name!r}")
        grid = penalty_grid(penalty, spanned.scale)
        everything = np.arange(len(first))

        def probe(
            rows: np.ndarray[Any, Any], swapped: np.ndarray[Any, Any], strength: float, s: Spanned = spanned
        ) -> Any:
            flip = swapped[rows, None]
            one = np.where(flip, s.negative[rows], s.positive[rows])
            other = np.where(flip, s.positive[rows], s.negative[rows])
            return s.raw(*logistic(one, other, strength, iterations))

        def choose(rows: np.ndarray[Any, Any], s: Spanned = spanned, grid: tuple[float, ...] = grid) -> float:
            return grid[0] if len(grid) == 1 else validated(s, rows, grid, _INNER, seed, iterations)[0]

        straight = np.zeros(len(first), dtype=bool)
        chosen = choose(everything)
        penalties[at] = chosen / spanned.scale**2
        whole_directions[at] = (first - second).mean(0)
        whole_weights[at] = probe(everything, straight, chosen)[0]
        draws = np.random.default_rng([seed, at])
        right = 0
        for fold, held in enumerate(np.array_split(draws.permutation(len(first)), folds)):
            used = everything if folds == 1 else np.setdiff1d(everything, held)
            strength = choose(used)
            for run in range(runs):
                swapped = straight if run == 0 else _swapped(draws, held, used, len(first))
                signs = torch.from_numpy(1.0 - 2.0 * swapped[held])
                directions[run, fold, at] = ((first - second)[held] * signs[:, None]).mean(0)
                weight, intercept = probe(used, swapped, strength)
                weights[run, fold, at] = weight
                if run == 0:
                    right += int((first[held] @ weight + intercept > 0).sum())
                    right += int((second[held] @ weight + intercept < 0).sum())
        accuracy[at] = right / (2 * len(first))
        if progress is not None:
            progress(at + 1)
    directions, weights = F.normalize(directions, dim=-1), F.normalize(weights, dim=-1)
    matrices = torch.einsum("rfid,rfjd->rfij", directions, weights).mean(1)
    errors = [_projection_error(a, w) for a, w in zip(directions[0], weights[0], strict=True)]
    return ConceptAlignment(
        names=names,
        directions=F.normalize(whole_directions, dim=-1),
        probe_weights=F.normalize(whole_weights, dim=-1).T.contiguous(),
        matrix=matrices[0],
        projection_error=sum(errors) / len(errors),
        null_matrix=matrices[1:].mean(0) if null_permutations else None,
        null_diagonals=matrices[1:].diagonal(dim1=1, dim2=2).clone() if null_permutations else None,
        probe_accuracy=accuracy,
        penalties=penalties,
        pairs=tuple(len(given[name][0]) for name in names),
        folds=folds,
    )


def _swapped(draws: np.random.Generator, held: Any, used: Any, count: int) -> np.ndarray[Any, Any]:
    """Which pairs change sides: half of those held and half of those used, so that the concept itself cancels."""
    found = np.zeros(count, dtype=bool)
    for rows in (held, used) if len(held) < count else (held,):
        found[rows] = False
        half = (len(rows) + int(draws.integers(2))) // 2  # of an odd number, one more or one fewer
        found[draws.permutation(rows)[:half]] = True
    return found


def _projection_error(directions: Tensor, weights: Tensor) -> float:
    """|| A^T W^T - P ||_F of A [n, d] and W^T [n, d], without a matrix of d x d.

    As A P = A: || A^T W^T ||^2 - 2 tr(A W) + rank(A).
    """
    own, other = directions @ directions.T, weights @ weights.T
    square = (own * other).sum() - 2 * (directions * weights).sum() + torch.linalg.matrix_rank(own, hermitian=True)
    return float(square.clamp(min=0.0).sqrt())
