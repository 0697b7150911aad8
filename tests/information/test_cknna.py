"""CKNNA: alike up to rotation and scale, unlike for strangers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information.cknna import cknna


def drawn(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 29))
def test_equal_features_up_to_rotation_and_scale_agree_wholly(seed: int, k: int) -> None:
    x = drawn(30, 5, seed)
    turn = torch.linalg.qr(drawn(5, 5, seed + 1)).Q
    assert cknna(x, x, k) == pytest.approx(1)
    assert cknna(x, 3 * x @ turn, k) == pytest.approx(1)
    assert cknna(x, drawn(30, 4, seed + 2), k) == pytest.approx(cknna(drawn(30, 4, seed + 2), x, k))


def test_strangers_do_not_agree_and_noise_lowers_agreement() -> None:
    x = drawn(300, 8, 0)
    assert abs(cknna(x, drawn(300, 8, 1))) < 0.1
    near, far = cknna(x, x + 0.2 * drawn(300, 8, 2)), cknna(x, x + drawn(300, 8, 2))
    assert 1 > near > far > 0


def test_with_all_neighbours_it_is_centred_kernel_alignment_off_the_diagonal() -> None:
    x, y = drawn(12, 4, 0), drawn(12, 3, 1)
    middle = torch.eye(12, dtype=torch.float64) - 1 / 12
    k, l = (middle @ one @ one.T @ middle for one in (x, y))
    k, l = (one - one.diag().diag() for one in (k, l))
    assert cknna(x, y, 11) == pytest.approx(float((k * l).sum() / (k.norm() * l.norm())))


def test_arrays_are_taken_and_what_makes_no_sense_is_refused() -> None:
    x = drawn(20, 3, 0)
    assert cknna(np.asarray(x), x) == pytest.approx(1)
    with pytest.raises(ValueError, match="the same things"):
        cknna(x, x[:10])
    with pytest.raises(ValueError, match="k must be"):
        cknna(x, x, 20)
    with pytest.raises(ValueError, match="not finite"):
        cknna(x, x / 0)
    with pytest.raises(ValueError, match=r"\[n, d\]"):
        cknna(x[0], x[0])
    with pytest.raises(ValueError, match="all the same"):
        cknna(torch.ones(5, 2), x[:5], 2)
