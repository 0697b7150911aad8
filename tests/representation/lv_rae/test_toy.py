"""Why decoders break: the toy model's closed forms."""

from __future__ import annotations

import pytest
import torch

from szilard.representation.lv_rae.toy import ToyDecoder, expected_error, expected_jacobian, spiral


def measured(dimensions: int, alpha: float, beta: float, sigma: float, draws: int = 150) -> tuple[float, float]:
    """Mean squared error under noise, and |J|^2 on the manifold, over decoders."""
    chance = torch.Generator().manual_seed(0)
    errors, norms = [], []
    for seed in range(draws):
        decoder = ToyDecoder.drawn(dimensions, alpha, beta, seed=seed)
        x = spiral(200, seed=seed).double()
        z = decoder.encode(x)
        noise = torch.randn(z.shape, generator=chance, dtype=z.dtype)
        errors.append(float((decoder.decode(z + sigma * noise) - x).square().sum(-1).mean()))
        norms.append(float(decoder.jacobian(z[0]).square().sum()))
    return sum(errors) / draws, sum(norms) / draws


@pytest.mark.parametrize(("dimensions", "alpha", "beta", "sigma"), [(3, 1.0, 1.0, 0.5), (32, 2.0, 1.5, 0.3)])
def test_error_and_jacobian_have_their_closed_forms_whatever_the_width(
    dimensions: int, alpha: float, beta: float, sigma: float
) -> None:
    error, norm = measured(dimensions, alpha, beta, sigma)
    spread = 0.25 if dimensions == 3 else 0.06  # of W's norm over 150 draws
    assert error == pytest.approx(expected_error(sigma, alpha, beta), rel=spread)
    assert norm == pytest.approx(expected_jacobian(alpha, beta), rel=spread)


@pytest.mark.parametrize("dimensions", [3, 8, 64])
def test_without_a_gain_only_the_noise_in_the_plane_counts(dimensions: int) -> None:
    assert measured(dimensions, 0.0, 1.0, 0.3, draws=40)[0] == pytest.approx(2 * 0.3**2, rel=0.05)


def test_on_the_manifold_every_gain_decodes_exactly() -> None:
    x = spiral(100).double()
    for alpha in (0.0, 5.0):
        decoder = ToyDecoder.drawn(16, alpha)
        torch.testing.assert_close(decoder.decode(decoder.encode(x)), x)
        assert float(decoder.off_manifold(decoder.encode(x)).max()) < 1e-12


def test_the_jacobian_is_the_derivative() -> None:
    decoder = ToyDecoder.drawn(12, 1.3, 0.7)
    z = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(decoder.jacobian(z), torch.autograd.functional.jacobian(decoder.decode, z))


def test_a_plane_alone_has_no_outside() -> None:
    with pytest.raises(ValueError, match="dimensions"):
        ToyDecoder.drawn(2, 1.0)
