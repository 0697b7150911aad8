"""Distances between sets of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from szilard.information.frechet_distance import energy_distance, frechet_distance, nearest_distance


def drawn(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_distance_is_the_formula_with_a_root_of_a_matrix() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x = drawn(200, 5, 0) @ drawn(5, 5, 1) + 1
    y = drawn(150, 5, 2) @ drawn(5, 5, 3)
    cx, cy = np.cov(x.T.numpy()), np.cov(y.T.numpy())
    root = linalg.sqrtm(cx @ cy).real
    wanted = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(cx + cy - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-6)


def test_frechet_distance_of_a_shift_is_its_square_and_of_itself_nothing() -> None:
    x = drawn(100, 8, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 8)
    few = drawn(4, 8, 1)  # fewer rows than columns
    assert frechet_distance(few, few + 1) == pytest.approx(8)


def test_the_nearest_is_found_in_pieces() -> None:
    x, y = drawn(7, 3, 0), drawn(9, 3, 1)
    torch.testing.assert_close(nearest_distance(x, y, chunk=2), torch.cdist(x, y).min(1).values)
    assert float(nearest_distance(y[:2], y).max()) < 1e-6


def test_energy_distance_is_nothing_for_one_distribution_and_grows_with_a_shift() -> None:
    x, y = drawn(800, 2, 0), drawn(800, 2, 1)
    assert abs(energy_distance(x, y)) < 0.02
    assert energy_distance(x, y + 3) > energy_distance(x, y + 1) > 0.2


def test_sets_that_do_not_belong_together_are_refused() -> None:
    for measure in (frechet_distance, nearest_distance, energy_distance):
        with pytest.raises(ValueError, match="same d"):
            measure(drawn(4, 3, 0), drawn(4, 2, 0))
        with pytest.raises(ValueError, match="finite"):
            measure(drawn(4, 3, 0) / 0, drawn(4, 3, 0))
        with pytest.raises(ValueError, match=r"\[n, d\]"):
            measure(drawn(1, 3, 0), drawn(4, 3, 0))
