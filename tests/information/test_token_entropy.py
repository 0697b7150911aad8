"""Matrix entropy of a token over its heads, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from szilard.information import token_matrix_entropy


@pytest.fixture
def states():
    return torch.randn(2, 6, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def one(heads):
    """The entropy of a single token whose heads are these rows, [heads, head size]."""
    return float(token_matrix_entropy(heads[None, :, None])[0, 0])


def test_it_is_the_entropy_of_the_primal_covariance(states):
    found = token_matrix_entropy(states)
    for row in range(2):
        for token in range(5):
            m = states[row, :, token]
            m = m - m.mean(0)
            m = m / m.norm(dim=1, keepdim=True)
            sigma = m.T @ m / len(m)  # [head size, head size]
            assert float(sigma.trace()) == pytest.approx(1, abs=1e-12)
            values = torch.linalg.eigvalsh(sigma).clamp(min=0)
            assert float(found[row, token]) == pytest.approx(float(-torch.xlogy(values, values).sum()), abs=1e-10)


def test_it_does_not_see_scale_shift_order_of_heads_or_rotation(states):
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64)).Q
    shift = torch.randn(1, 1, 1, 9, generator=generator, dtype=torch.float64)
    plain = token_matrix_entropy(states)
    order = torch.randperm(6, generator=generator)
    for changed in (states * 7.5, states + shift, states[:, order], states @ turn):
        assert torch.allclose(token_matrix_entropy(changed), plain, atol=1e-10)


def test_two_heads_point_to_opposite_sides_and_have_none(states):
    assert torch.allclose(token_matrix_entropy(states[:, :2]), torch.zeros(2, 5, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("heads", [3, 4, 9])
def test_a_regular_simplex_of_heads_has_the_most_there_is(heads, states):
    assert one(torch.eye(heads, dtype=torch.float64)) == pytest.approx(math.log(heads - 1), abs=1e-12)
    assert float(token_matrix_entropy(states).max()) < math.log(5)


def test_equal_heads_and_a_single_one_have_none():
    assert one(torch.ones(4, 3)) == 0 and one(torch.randn(1, 3)) == 0
    assert float(token_matrix_entropy(torch.randn(1, 1, 1, 3), "released")) == 0


def test_the_released_score_is_of_raw_eigenvalues_and_depends_on_length():
    heads = 3 * torch.eye(3, dtype=torch.float64)  # eigenvalues of the centred Gram matrix / 3: 3, 3, 0
    found = float(token_matrix_entropy(heads[None, :, None], "released"))
    assert found == pytest.approx(-2 * 3 * math.log(3) / math.log(3), abs=1e-6)


def test_other_shapes_and_variants_are_refused(states):
    with pytest.raises(ValueError, match="batch, heads, tokens, head size"):
        token_matrix_entropy(states[0])
    with pytest.raises(ValueError, match="variant must be one of"):
        token_matrix_entropy(states, "code")
