"""Latent quantisation: nearest values, and which loss moves what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.representation.qlae import LatentQuantizer


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_codebooks_begin_evenly_spaced_from_minus_a_half_to_a_half_ends_included() -> None:
    for count in (2, 5, 10):
        for row in LatentQuantizer(3, count).values:
            assert torch.equal(row, torch.linspace(-0.5, 0.5, count))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2))
@settings(max_examples=30, deadline=None)
def test_a_fine_codebook_is_within_half_a_spacing_and_outside_it_the_last_value_is_taken(pair: list[float]) -> None:
    continuous = torch.tensor([pair])
    found = LatentQuantizer(2, 2001)(continuous)
    inside = continuous.abs() <= 0.5
    assert ((found.quantized - continuous).abs()[inside] <= 0.5 / 2000 + 1e-6).all()
    assert torch.equal(found.quantized[~inside], 0.5 * continuous[~inside].sign())


def test_of_two_equally_near_values_the_first_is_taken() -> None:
    assert LatentQuantizer(1, 2)(torch.zeros(1, 1)).indices.item() == 0


def test_reconstruction_moves_the_encoder_and_never_the_codebook() -> None:
    quantizer, continuous = LatentQuantizer(4), numbers(8, 4).requires_grad_()
    quantizer(continuous).latent.square().sum().backward()
    assert quantizer.codebook.grad is None
    assert (continuous.grad != 0).all()


def test_the_quantisation_loss_moves_the_codebook_alone() -> None:
    quantizer, continuous = LatentQuantizer(4), numbers(8, 4).requires_grad_()
    quantizer(continuous).quantization_loss.backward()
    assert continuous.grad is None
    assert quantizer.codebook.grad is not None and quantizer.codebook.grad.abs().sum() > 0


def test_the_commitment_loss_moves_the_encoder_alone() -> None:
    quantizer, continuous = LatentQuantizer(4), numbers(8, 4).requires_grad_()
    quantizer(continuous).commitment_loss.backward()
    assert quantizer.codebook.grad is None
    assert continuous.grad is not None and continuous.grad.abs().sum() > 0


def test_both_losses_are_the_mean_squared_distance_before_the_straight_through_step() -> None:
    found = LatentQuantizer(4)(numbers(8, 4))
    expected = (found.continuous - found.quantized).square().mean()
    assert expected > 0.01
    assert torch.equal(found.quantization_loss, expected) and torch.equal(found.commitment_loss, expected)


def test_equal_weights_do_not_cancel_the_encoders_gradient() -> None:
    continuous = numbers(8, 4).requires_grad_()
    found = LatentQuantizer(4)(continuous)
    (found.quantization_loss + found.commitment_loss).backward()
    assert continuous.grad is not None and continuous.grad.abs().sum() > 0


def test_the_straight_through_output_is_the_value_up_to_rounding() -> None:
    quantizer = LatentQuantizer(4)
    torch.nn.init.normal_(quantizer.codebook, generator=torch.Generator().manual_seed(1))
    found = quantizer(numbers(1000, 4))
    assert torch.allclose(found.latent, found.quantized, atol=1e-6)
    assert len(found.latent[:, 0].unique()) >= len(found.indices[:, 0].unique())


@given(seed=st.integers(0, 1000), shared=st.booleans())
@settings(max_examples=20, deadline=None)
def test_indices_decode_to_values_that_are_quantised_to_the_same_indices(seed: int, shared: bool) -> None:
    quantizer = LatentQuantizer(3, 6, shared_codebook=shared)
    torch.nn.init.normal_(quantizer.codebook, generator=torch.Generator().manual_seed(seed))
    codes = quantizer.sample(20, torch.Generator().manual_seed(seed))
    values = quantizer.decode(codes)
    assert torch.equal(quantizer(values).indices, codes)
    assert torch.equal(quantizer(values).quantized, values)


def test_latents_may_have_different_numbers_of_values() -> None:
    quantizer = LatentQuantizer(3, [2, 5, 3])
    assert [len(row) for row in quantizer.values] == [2, 5, 3]
    found = quantizer(numbers(500, 3) * 3)
    assert found.indices.max(0).values.tolist() == [1, 4, 2]
    nearest = [
        min(range(5), key=lambda k: abs(float(quantizer.values[1][k]) - float(c))) for c in found.continuous[:, 1]
    ]
    assert found.indices[:, 1].tolist() == nearest
    with pytest.raises(ValueError, match="codes must be from 0"):
        quantizer.decode(torch.tensor([[0, 0, 3]]))


def test_drawn_codes_use_every_value_about_equally() -> None:
    codes = LatentQuantizer(2, [3, 4]).sample(12000, torch.Generator().manual_seed(0))
    assert codes[:, 0].bincount().tolist() == pytest.approx([4000] * 3, rel=0.05)
    assert codes[:, 1].bincount().tolist() == pytest.approx([3000] * 4, rel=0.07)


def test_a_shared_codebook_is_one_for_all_and_moved_by_all() -> None:
    quantizer = LatentQuantizer(4, 10, shared_codebook=True)
    assert quantizer.codebook.shape == (1, 10)
    assert all(torch.equal(row, quantizer.values[0]) for row in quantizer.values)


def test_frozen_codebooks_want_no_gradients() -> None:
    quantizer = LatentQuantizer(2, learn_values=False)
    assert not any(parameter.requires_grad for parameter in quantizer.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"num_latents": 0}, ValueError, "num_latents must be"),
        ({"num_latents": 2, "num_values": 1}, ValueError, "num_values must be"),
        ({"num_latents": 2, "num_values": [3]}, ValueError, "give one per latent"),
        ({"num_latents": 2, "num_values": [3, 4], "shared_codebook": True}, ValueError, "one number of values"),
        ({"num_latents": 2, "learn_values": 1}, TypeError, "learn_values must be True or False"),
    ],
)
def test_bad_sizes_are_refused(arguments: dict, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        LatentQuantizer(**arguments)


def test_latents_and_codes_of_another_shape_are_refused() -> None:
    quantizer = LatentQuantizer(3)
    with pytest.raises(ValueError, match=r"latents must be \[\.\.\., 3\]"):
        quantizer(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="codes must be whole numbers"):
        quantizer.decode(torch.zeros(2, 3))
