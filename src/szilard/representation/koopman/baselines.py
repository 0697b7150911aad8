"""Forecasts by dynamic mode decomposition, from PyDMD: the linear models that a learned one is measured against.

DMD (Schmid 2010) fits x_{n+1} = A x_n of a rank to all pairs of states. EDMD (Williams et al. 2015) does so between
functions of the states; here between polynomials of the leading principal components, the dictionary that small states
are commonly given, with the state among them to be read back.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from szilard.options import check_number


class DmdForecast:
    """DMD over all sequences at once.

    Args:
        rank: of the decomposition; 0: all of it.
    """

    def __init__(self, rank: int = 0) -> None:
        check_number("rank", rank, low=0, integer=True)
        self.rank = rank

    def fit(self, trajectories: Tensor) -> DmdForecast:
        """To [S, L, n].

        Raises:
            ValueError: another shape, fewer than two pairs of states, or numbers that are none.
            ImportError: PyDMD is not installed.
        """
        if (
            trajectories.dim() != 3
            or len(trajectories) * (trajectories.shape[1] - 1) < 2
            or not bool(torch.isfinite(trajectories).all())
        ):
            raise ValueError(
                "trajectories must be finite numbers [sequences, time, n] with two pairs of states, not "
                f"{list(trajectories.shape)}."
            )
        lifted = self._lift_first(trajectories)
        pairs = lifted.reshape(len(lifted), lifted.shape[1], -1)
        before = np.concatenate([one[:-1] for one in pairs]).T
        after = np.concatenate([one[1:] for one in pairs]).T
        model = _dmd(self.rank or 0)
        model.fit(before, after)
        values, modes = model.eigs, model.modes
        # K = modes diag(values) pinv(modes): what PyDMD's own forecast steps with.
        self.matrix = np.real(modes @ np.diag(values) @ np.linalg.pinv(modes))
        self.values = values
        return self

    def rollout(self, start: Tensor, steps: int) -> Tensor:
        """[B, n] -> [B, steps, n].

        Raises:
            ValueError: before `fit`, or another shape.
        """
        check_number("steps", steps, low=1, integer=True)
        if not hasattr(self, "matrix"):
            raise ValueError("there is nothing to forecast with yet: call fit first.")
        if start.dim() != 2 or start.shape[1] != len(self.mean):
            raise ValueError(f"states must be [batch, {len(self.mean)}], not {list(start.shape)}.")
        state, path = self._lift(start.double().numpy()), []
        for _ in range(steps):
            state = np.clip(state @ self.matrix.T, -1e12, 1e12)
            path.append(self._read(state))
        return torch.from_numpy(np.stack(path, 1)).float()

    def eigenvalues(self) -> Tensor:
        """Complex, by falling modulus."""
        found = torch.from_numpy(np.asarray(self.values))
        return found[found.abs().argsort(descending=True)]

    def _lift_first(self, trajectories: Tensor) -> np.ndarray:
        x = trajectories.double().numpy()
        self.mean, self.spread = x.mean((0, 1)), x.std((0, 1)) + 1e-12
        return self._lift(x)

    def _lift(self, x: np.ndarray) -> np.ndarray:
        scaled = (x - self.mean) / self.spread
        return np.concatenate([scaled, np.ones((*x.shape[:-1], 1))], -1)

    def _read(self, lifted: np.ndarray) -> np.ndarray:
        return lifted[..., :-1] * self.spread + self.mean


class EdmdForecast(DmdForecast):
    """EDMD with polynomials.

    Args:
        degree: of the polynomials.
        components: principal components that they are of; states of fewer numbers keep them all.
        rank: as in DMD.
    """

    def __init__(self, degree: int = 3, components: int = 4, rank: int = 0) -> None:
        super().__init__(rank)
        check_number("degree", degree, low=1, integer=True)
        check_number("components", components, low=1, integer=True)
        self.degree, self.components = degree, components

    def _lift_first(self, trajectories: Tensor) -> np.ndarray:
        x = trajectories.double().numpy()
        self.mean, self.spread = x.mean((0, 1)), x.std((0, 1)) + 1e-12
        flat = ((x - self.mean) / self.spread).reshape(-1, x.shape[-1])
        self.axes = np.linalg.svd(flat[:20000], full_matrices=False)[2][: self.components].T
        self.size = np.abs(flat @ self.axes).std(0) + 1e-12
        return self._lift(x)

    def _lift(self, x: np.ndarray) -> np.ndarray:
        scaled = (x - self.mean) / self.spread
        inner = scaled @ self.axes / self.size
        terms = [
            np.prod(inner[..., list(chosen)], -1, keepdims=True)
            for degree in range(2, self.degree + 1)
            for chosen in itertools.combinations_with_replacement(range(inner.shape[-1]), degree)
        ]
        return np.clip(np.concatenate([scaled, *terms, np.ones((*x.shape[:-1], 1))], -1), -1e12, 1e12)

    def _read(self, lifted: np.ndarray) -> np.ndarray:
        return lifted[..., : len(self.mean)] * self.spread + self.mean


def _dmd(rank: int) -> Any:
    try:
        from pydmd import DMD
    except ImportError:
        raise ImportError("DMD and EDMD need the package pydmd: pip install 'szilard[koopman]'") from None
    return DMD(svd_rank=rank or -1, exact=True)
