"""The nuclear norm from Gram matrices is the sum of singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information.nuclear_norm import nuclear_norm, nuclear_norm_of_product, singular_values


def test_an_outer_product_has_the_product_of_the_lengths() -> None:
    matrix = torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0, 2.0]))
    assert float(nuclear_norm(matrix)) == pytest.approx(15.0, abs=1e-6)
    assert float(nuclear_norm(matrix.T.numpy())) == pytest.approx(15.0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_gram_matrices_give_what_a_decomposition_gives(rows: int, columns: int, inner: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inner, generator=chance, dtype=torch.float64)
    w = torch.randn(columns, inner, generator=chance, dtype=torch.float64)
    known = torch.linalg.svdvals(x @ w.T)
    torch.testing.assert_close(nuclear_norm(x @ w.T), known.sum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nuclear_norm_of_product(x, w), known.sum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(singular_values(x @ w.T).flip(0), known, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(30, 4, 20), (3, 9, 20), (30, 9, 4)])
def test_the_gradient_is_that_of_the_decomposition(shape: tuple[int, int, int]) -> None:
    n, d, m = shape
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    w = torch.randn(m, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(nuclear_norm_of_product(x, w), (x, w))
    known = torch.autograd.grad(torch.linalg.matrix_norm(x @ w.T, "nuc"), (x, w))
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_equal_and_vanishing_singular_values_have_finite_gradients() -> None:
    for matrix in (torch.eye(4), torch.zeros(3, 5), torch.ones(4, 4)):
        matrix.requires_grad_()
        (gradient,) = torch.autograd.grad(nuclear_norm(matrix), matrix)
        assert bool(torch.isfinite(gradient).all())
    x, w = torch.zeros(8, 2), torch.zeros(5, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(nuclear_norm_of_product(x, w), w)
    assert bool(torch.isfinite(gradient).all())


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a matrix"):
        nuclear_norm(np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        nuclear_norm(torch.tensor([[float("nan")]]))
    with pytest.raises(ValueError, match="as many columns"):
        nuclear_norm_of_product(torch.ones(3, 2), torch.ones(3, 4))
