"""Matrix entropy: closed forms and invariances."""

import math

import pytest
import torch

from szilard.information.matrix_entropy import effective_rank, matrix_entropy, spectrum


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_opposite_vectors_have_no_entropy():
    v = vectors(1, 8)
    assert float(matrix_entropy(torch.cat([v, -v, v, -v]))) == pytest.approx(0.0, abs=1e-8)


def test_directions_that_are_used_alike_have_all_entropy():
    basis = torch.eye(6, dtype=torch.float64)
    isotropic = torch.cat([basis, -basis])
    assert float(matrix_entropy(isotropic, normalize=True)) == pytest.approx(1.0, abs=1e-12)
    assert float(effective_rank(isotropic)) == pytest.approx(6.0, abs=1e-9)


@pytest.mark.parametrize("h", [2, 3, 5, 9])
def test_a_regular_simplex_has_the_entropy_of_its_directions(h):
    assert float(matrix_entropy(torch.eye(h, dtype=torch.float64))) == pytest.approx(math.log(h - 1), abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (7, 7)])
def test_both_gram_matrices_have_the_same_spectrum(shape):
    x = vectors(*shape)
    centred = torch.nn.functional.normalize(x - x.mean(0), dim=-1)
    for gram in (centred.T @ centred, centred @ centred.T):
        values = torch.linalg.eigvalsh(gram / gram.trace()).clamp(min=0)
        expected = -torch.xlogy(values, values).sum()
        torch.testing.assert_close(matrix_entropy(x), expected, atol=1e-10, rtol=0)


def test_shifts_scales_rotations_and_orders_do_not_matter():
    x = vectors(3, 10, 6)
    turn = torch.linalg.qr(vectors(6, 6, seed=1)).Q
    same = (x + vectors(3, 1, 6, seed=2), x * 7.5, x @ turn, x[:, torch.randperm(10)])
    for other in same:
        torch.testing.assert_close(matrix_entropy(other), matrix_entropy(x), atol=1e-9, rtol=0)


def test_more_eigenvalues_never_have_less_entropy_and_all_add_up_to_one():
    x = vectors(20, 8)
    found = [float(matrix_entropy(x, top=top)) for top in range(1, 9)]
    assert found == sorted(found)
    assert float(spectrum(x).sum()) == pytest.approx(1.0)


def test_masked_vectors_are_not_of_the_set():
    x, mask = vectors(2, 9, 4), torch.ones(2, 9, dtype=torch.bool)
    mask[0, :3] = False
    torch.testing.assert_close(matrix_entropy(x, mask=mask)[0], matrix_entropy(x[0, 3:]), atol=1e-9, rtol=0)


def test_one_vector_and_equal_vectors_give_zero_and_no_nan():
    assert float(matrix_entropy(torch.ones(1, 4))) == 0.0
    assert float(matrix_entropy(torch.ones(5, 4))) == 0.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="shape"):
        spectrum(torch.ones(4))
    with pytest.raises(ValueError, match="top"):
        matrix_entropy(torch.ones(2, 2), top=0)
