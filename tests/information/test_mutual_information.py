"""Mutual information from log-likelihoods: closed forms, bounds and invariances; the rate-distortion fit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information import mutual_information_from_log_likelihood as estimate
from szilard.information import rate_distortion


def scores(rows, *, spread=30.0, seed=0, samples=2):
    generator = torch.Generator().manual_seed(seed)
    return -spread * torch.rand(rows, samples, rows, dtype=torch.float64, generator=generator)


def test_texts_that_say_nothing_of_their_source_carry_no_information():
    found = estimate(torch.full((5, 3, 5), -123.4))
    assert found.nats == found.raw == 0.0 and found.saturation == 0.0


def test_texts_that_only_their_source_can_have_produced_reach_the_ceiling_without_underflow():
    matrix = torch.full((3, 2, 3), -5000.0)
    for context in range(3):
        matrix[context, :, context] = -800.0
    found = estimate(matrix)
    assert found.nats == pytest.approx(math.log(3), abs=1e-12)
    assert found.saturation == 1.0 and found.standard_error == pytest.approx(0.0)
    assert found.bits == pytest.approx(math.log2(3)) and found.ceiling_bits == pytest.approx(math.log2(3))


def test_the_worked_number_of_two_contexts():
    found = estimate(torch.tensor([[[-10.0, -12.0]], [[-9.0, -5.0]]]))
    assert found.nats == pytest.approx(0.620608, abs=1e-6)


def test_a_binary_symmetric_channel_gives_its_capacity():
    flip, count = 0.1, 100_000
    generator = torch.Generator().manual_seed(1)
    flipped = torch.rand(2, count, generator=generator) < flip
    z = torch.tensor([0, 1])[:, None] ^ flipped.long()
    likelihood = torch.stack([torch.where(z == x, 1 - flip, flip) for x in (0, 1)], dim=2).double().log()
    found = estimate(likelihood)
    assert found.nats == pytest.approx(0.368064, abs=0.01) and found.bits == pytest.approx(0.531004, abs=0.015)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.integers(0, 10_000), st.floats(0.1, 2000))
def test_no_term_exceeds_the_ceiling_and_the_estimate_lies_between_0_and_it(rows, seed, spread):
    found = estimate(scores(rows, seed=seed, spread=spread))
    assert float(found.terms.max()) <= found.ceiling == math.log(rows)
    assert 0 <= found.nats <= found.ceiling and found.nats == max(0.0, found.raw)
    assert found.raw == pytest.approx(float(found.terms.mean()))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_a_factor_of_one_texts_likelihoods_and_the_order_of_contexts_change_nothing(rows, seed):
    matrix = scores(rows, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shifted = matrix + 1000 * torch.randn(rows, matrix.shape[1], 1, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(estimate(shifted).terms, estimate(matrix).terms, atol=1e-9, rtol=0)
    order = torch.randperm(rows, generator=generator)
    permuted = estimate(matrix[order][:, :, order])
    torch.testing.assert_close(permuted.terms, estimate(matrix).terms[order])


def test_a_clearly_negative_estimate_is_clipped_but_told():
    matrix = torch.tensor([[[-9.0, -5.0]], [[-5.0, -9.0]]])  # each text fits the other context better
    found = estimate(matrix)
    assert found.nats == 0.0 and found.raw < -3


def test_hard_negatives_of_each_context_have_columns_of_their_own():
    matrix = torch.tensor([[[-5.0, -5.0, -900.0]], [[-900.0, -900.0, -3.0]]])
    found = estimate(matrix, own=[0, 2])
    assert found.terms[:, 0].tolist() == pytest.approx([math.log(3) - math.log(2), math.log(3)])
    assert found.ceiling == math.log(3) and found.saturation == 0.5


def test_texts_that_other_contexts_cannot_produce_are_allowed():
    matrix = torch.tensor([[[-1.0, -math.inf]], [[-math.inf, -1.0]]])
    assert estimate(matrix).nats == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("matrix", "own", "words"),
    [
        (torch.zeros(3, 3), None, "contexts, samples, contexts"),
        (torch.zeros(0, 1, 0), None, "contexts, samples, contexts"),
        (torch.zeros(2, 1, 3), None, "own column"),
        (torch.zeros(2, 1, 3), [0, 3], "0 to 2"),
        (torch.full((2, 1, 2), math.nan), None, "NaN"),
        (torch.full((2, 1, 2), -math.inf), None, "own context"),
    ],
)
def test_bad_matrices_are_refused_in_a_sentence(matrix, own, words):
    with pytest.raises(ValueError, match=words):
        estimate(matrix, own=own)


def test_the_bootstrap_agrees_with_the_standard_error_of_a_mean():
    found = estimate(scores(40, seed=5, spread=6.0))
    means = found.terms.mean(1)
    assert found.standard_error == pytest.approx(float(means.std()) / math.sqrt(40), rel=0.1)


def test_the_fit_recovers_a_noise_free_curve():
    pytest.importorskip("scipy")
    rates = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8]
    fit = rate_distortion([(rate, 0.6 * math.exp(-8 * rate) + 0.2) for rate in rates])
    assert (fit.scale, fit.decay, fit.floor) == pytest.approx((0.6, 8.0, 0.2), rel=1e-4)
    assert fit.r2 == pytest.approx(1.0) and fit(0.1) == pytest.approx(0.6 * math.exp(-0.8) + 0.2)


def test_rates_that_buy_nothing_give_a_flat_curve_within_the_bounds():
    pytest.importorskip("scipy")
    rising = rate_distortion([(0.1, 0.2), (0.2, 0.3), (0.3, 0.4)])
    assert rising.scale >= 0 and rising.decay >= 0 and 0 <= rising.floor <= 0.4
    assert rising(0.1) >= rising(0.3) and rising.r2 <= 1e-6
    flat = rate_distortion([(0.1, 0.3), (0.2, 0.3), (0.3, 0.3)])
    assert flat(0.2) == pytest.approx(0.3) and flat.r2 == 0.0


def test_a_fit_of_too_few_rates_is_refused():
    pytest.importorskip("scipy")
    with pytest.raises(ValueError, match="three different rates"):
        rate_distortion([(0.1, 0.5), (0.1, 0.4), (0.2, 0.3)])
    with pytest.raises(ValueError, match="finite"):
        rate_distortion([(0.1, math.nan)])
