"""Stochastic Gumbel annealing: its published numbers, and that it never makes a picture worse."""

from __future__ import annotations

import pytest
import torch

import szilard.codecs.annealing
from szilard.codecs.annealing import anneal, own_lambda, probability_down, refine, temperature, true_cost
from szilard.codecs.coding import encode
from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.images import Picture
from tests.codecs.conftest import pixels, samples, tiny_codec


def test_the_chance_of_rounding_down() -> None:
    v = torch.tensor([0.3, 0.5, -0.7], dtype=torch.float64)
    assert probability_down(v, 0.5).tolist() == pytest.approx([0.753165, 0.5, 0.753165], abs=1e-6)


def test_hard_draws_have_that_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = anneal(torch.full((40_000,), 0.3), 0.5, generator)
    assert float((drawn < 0.5).double().mean()) == pytest.approx(0.753165, abs=0.01)


def test_without_heat_a_number_is_rounded() -> None:
    v = torch.tensor([-1.6, -0.2, 0.0, 0.3, 0.7, 2.0])
    assert torch.allclose(anneal(v, 1e-3, torch.Generator().manual_seed(0)), v.round())


def test_whole_numbers_stay_and_have_finite_gradients() -> None:
    v = torch.tensor([-1.0, 0.0, 3.0], requires_grad=True)
    found = anneal(v, 0.5, torch.Generator().manual_seed(0))
    found.sum().backward()
    assert torch.allclose(found, v, atol=1e-2)
    assert v.grad is not None
    assert v.grad.isfinite().all()


def test_the_temperature_of_a_step() -> None:
    assert [temperature(step) for step in (0, 700)] == [0.5, 0.5]
    assert temperature(1000) == pytest.approx(0.370409, abs=1e-6)
    assert temperature(10**6) == 1e-8


def test_no_steps_are_plain_compression() -> None:
    codec = tiny_codec()
    found = refine(codec, pixels(), 0.01, 0)
    assert found.before == found.after
    assert codec.compress_latents(found.y, found.z)["strings"] == codec.compress(pixels())["strings"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_few_steps_lower_the_true_cost_of_a_trained_codec(trained: MeanScaleHyperprior, seed: int) -> None:
    x = pixels(seed=20 + seed)
    found = refine(trained, x, 0.01, 30, 1e-2, seed=seed)
    assert found.after < found.before
    assert len(found.history) == 30
    with torch.no_grad():
        y = trained.g_a(x)
        assert found.before == true_cost(trained, x, y, trained.h_a(y), 0.01)
    assert found.after == true_cost(trained, x, found.y, found.z, 0.01)
    coded = trained.compress_latents(found.y, found.z)
    trained.decompress(coded["strings"], coded["shape"], coded["checks"])


def test_a_search_that_finds_nothing_gives_the_codecs_own_latents() -> None:
    codec = tiny_codec()
    found = refine(codec, pixels(), 0.01, 2, 1e3)
    assert found.after == found.before
    assert torch.equal(found.y, codec.g_a(pixels()))


def test_weights_and_modes_stay_as_they_are() -> None:
    codec = tiny_codec()
    weights = codec.weights_id()
    refine(codec, pixels(), 0.01, 2)
    assert codec.weights_id() == weights
    assert not codec.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in codec.parameters())


def test_compress_searches_with_the_codecs_own_lambda(
    trained: MeanScaleHyperprior, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, seen = pixels(seed=20), []

    def short(codec: MeanScaleHyperprior, x: torch.Tensor, lmbda: float) -> object:
        seen.append((lmbda, refine(codec, x, lmbda, 3)))
        return seen[0][1]

    monkeypatch.setattr(szilard.codecs.annealing, "refine", short)
    coded = trained.compress(x, refine=True)
    ((lmbda, found),) = seen
    assert lmbda == trained.trained_on["lambda"]
    assert len(found.history) == 3
    assert coded["strings"] == trained.compress_latents(found.y, found.z)["strings"]


def test_a_search_needs_a_lambda_of_squared_errors_and_tables() -> None:
    codec = MeanScaleHyperprior(HyperpriorConfig(4, 4)).eval()
    with pytest.raises(ValueError, match="does not say with which lambda"):
        own_lambda(codec)
    codec.trained_on = {"lambda": 8.73, "distortion": "ms-ssim"}
    with pytest.raises(ValueError, match=r"trained for MS-SSIM, with lambda 8\.73"):
        own_lambda(codec)
    with pytest.raises(ValueError, match=r"call update\(\)"):  # before the search, which is none
        encode(codec, Picture(samples(20, 30)), refine=lambda _: pytest.fail("searched"))


def test_wrong_numbers_are_told() -> None:
    with pytest.raises(ValueError, match="steps must be at least 0"):
        refine(tiny_codec(), pixels(), 0.01, -1)
    with pytest.raises(ValueError, match="multiples of 64"):
        refine(tiny_codec(), torch.zeros(1, 3, 60, 64), 0.01, 1)
