"""Categorical entropies, predictive geometry and similarity, and the surplus of finite chains."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information.categorical_entropy import DIVERGENCES, categorical_entropy
from szilard.information.markov_surplus import (
    entropy_rate,
    markov_surplus,
    next_token_information,
    sample_chain,
    stationary_distribution,
)
from szilard.information.predictive_geometry import (
    mean_pullback_metric,
    pullback_metric,
    spectrum_numbers,
    symmetrised_divergence,
)
from szilard.information.predictive_similarity import (
    KERNELS,
    dirichlet_energy,
    hellinger_distance,
    linear_cka,
    operator_spectrum,
    predictive_similarity,
    spectral_alignment,
    subspace_overlap,
    total_variation,
)

P = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
U = torch.tensor([[1, 0], [0, 1], [-1, 1], [0.5, -0.5]], dtype=torch.float64)
H, OTHER = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([-0.5, 0.4], dtype=torch.float64)
ONES = torch.tensor([[[0.9, 0.2], [0.7, 0.4]]], dtype=torch.float64)[0]  # P(1 | the two before)
CHAIN = torch.stack([1 - ONES, ONES], -1)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("divergence", "value"),
    [("kl", 1.213008), ("tv", 0.65625), ("renyi", 1.134997), ("hellinger", 0.866117), ("chi_square", 3)],
)
def test_entropies_have_their_known_values(divergence: str, value: float) -> None:
    assert float(categorical_entropy(P, divergence)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_point_mass_has_no_entropy(divergence: str) -> None:
    assert float(categorical_entropy(torch.tensor([0.0, 1.0, 0.0]), divergence)) == pytest.approx(0, abs=1e-6)


def test_uniform_distributions_have_the_most() -> None:
    uniform = torch.full((8,), 1 / 8)
    assert float(categorical_entropy(uniform)) == pytest.approx(math.log(8), abs=1e-5)
    assert float(categorical_entropy(uniform, "tv")) == pytest.approx(7 / 8, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(0, 999), st.floats(0.1, 1.9))
def test_closed_forms_equal_the_table_of_two_draws(size: int, seed: int, alpha: float) -> None:
    p = draws(size, seed=seed).softmax(0)
    table, copied = torch.outer(p, p), torch.diag(p)
    kl = float((p * (p / p.square()).log()).sum())
    assert float(categorical_entropy(p)) == pytest.approx(kl)
    assert float(categorical_entropy(p, "tv")) == pytest.approx(float(0.5 * (copied - table).abs().sum()))
    overlap = float((copied.sqrt() * table.sqrt()).sum())
    assert float(categorical_entropy(p, "hellinger")) == pytest.approx(2 * (1 - overlap))
    chi = float(((copied - table).square() / table).sum())
    assert float(categorical_entropy(p, "chi_square")) == pytest.approx(chi, rel=1e-6)
    if abs(alpha - 1) > 0.01:
        renyi = math.log(float((p**alpha * p.square() ** (1 - alpha)).sum())) / (alpha - 1)
        assert float(categorical_entropy(p, "renyi", alpha=alpha)) == pytest.approx(renyi, rel=1e-6)


def test_the_pullback_metric_has_its_known_values() -> None:
    metric = pullback_metric(U, H)
    expected = torch.tensor([[0.444575, -0.294360], [-0.294360, 0.392973]], dtype=torch.float64)
    torch.testing.assert_close(metric, expected, atol=1e-6, rtol=0)
    numbers = spectrum_numbers(metric, top=1)
    assert numbers["trace"] == pytest.approx(0.837548, abs=1e-6)
    assert numbers["largest"] == pytest.approx(0.714263, abs=1e-6)


def test_small_steps_cost_half_the_metric_in_divergence() -> None:
    v = torch.tensor([0.6, 0.8], dtype=torch.float64)
    ratios = []
    for step in (0.1, 0.01, 0.001):
        log_p, log_q = ((U @ h).log_softmax(0) for h in (H + step * v, H))
        kl = (log_p.exp() * (log_p - log_q)).sum()
        ratios.append(float(kl / (step**2 / 2 * pullback_metric(U, H, v[None])[0])))
    assert ratios == pytest.approx([0.99468, 0.99951, 0.99995], abs=1e-5)


def test_a_long_step_costs_the_integral_of_the_metric() -> None:
    import numpy as np

    places, weights = np.polynomial.legendre.leggauss(20)
    step = H - OTHER
    total = length = 0.0
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        form = float(pullback_metric(U, OTHER + place * step, step[None])[0])
        total += weight * form
        length += weight * math.sqrt(form)
    assert total == pytest.approx(0.81299966, abs=1e-7)
    assert float(symmetrised_divergence(U, H, OTHER)) == pytest.approx(total, abs=1e-7)
    p, q = ((U @ h).softmax(0) for h in (H, OTHER))
    angle = 2 * math.acos(float((p.sqrt() * q.sqrt()).sum()))
    assert angle == pytest.approx(0.898914, abs=1e-6) and length == pytest.approx(0.901342, abs=1e-6)


def test_the_mean_metric_is_the_mean_of_the_metrics_and_a_shift_of_all_tokens_changes_nothing() -> None:
    head, hidden = draws(30, 5), draws(17, 5, seed=1)
    mean = mean_pullback_metric(head, hidden, chunk=4)
    torch.testing.assert_close(mean, pullback_metric(head, hidden).mean(0), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(mean_pullback_metric(head + 3.0, hidden), mean, atol=1e-9, rtol=1e-7)


def test_directions_give_the_quadratic_form_without_the_matrix() -> None:
    head, hidden, v = draws(30, 5), draws(4, 5, seed=1), draws(3, 5, seed=2)
    whole = torch.einsum("ki,nij,kj->nk", v, pullback_metric(head, hidden), v)
    torch.testing.assert_close(pullback_metric(head, hidden, v), whole)


def test_a_chain_of_order_two_has_its_known_surplus() -> None:
    assert stationary_distribution(CHAIN).flatten().tolist() == pytest.approx([0.125, 0.375, 0.375, 0.125])
    assert next_token_information(CHAIN) == pytest.approx(0.151660, abs=1e-6)
    assert [markov_surplus(CHAIN, k) for k in (1, 2, 3, 4)] == pytest.approx(
        [0, 0.020848, 0.020848, 0.020848], abs=1e-6
    )


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_chain_of_order_one_has_no_surplus_and_independent_draws_no_information(horizon: int) -> None:
    first = draws(3, 3).softmax(-1)
    assert markov_surplus(first, horizon) == pytest.approx(0, abs=1e-9)
    same = draws(3).softmax(0).expand(3, 3)
    assert next_token_information(same) == pytest.approx(0, abs=1e-9)


def test_the_surplus_never_falls_with_the_horizon_and_draws_follow_the_chain() -> None:
    chain = draws(3, 3, 3, 3, seed=4).mul(2).softmax(-1)
    values = [markov_surplus(chain, k) for k in (1, 2, 3, 4)]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(values)) and values[2] > 1e-3
    seen = sample_chain(CHAIN, 400, 200)
    after = seen[:, 2:][(seen[:, :-2] == 0) & (seen[:, 1:-1] == 1)].double().mean()
    assert float(after) == pytest.approx(0.2, abs=0.01)
    assert entropy_rate(CHAIN) == pytest.approx(-math.log(0.5) - next_token_information(CHAIN), abs=1e-6)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "prototype"])
def test_kernels_are_symmetric_and_largest_for_equal_predictions(kernel: str) -> None:
    p = draws(12, 9).softmax(-1)
    k = predictive_similarity(p, kernel)
    torch.testing.assert_close(k, k.T)
    if kernel != "expected_likelihood":
        torch.testing.assert_close(k.diagonal(), torch.ones(12, dtype=torch.float64), atol=1e-6, rtol=0)
        assert bool((k <= 1 + 1e-9).all())


def test_jensen_shannon_and_prototypes_are_what_they_say() -> None:
    p, g = draws(3, 5).softmax(-1), draws(5, 2, seed=3)
    middle = (p[0] + p[1]) / 2
    js = 0.5 * sum(float((q * (q / middle).log()).sum()) for q in p[:2])
    assert float(predictive_similarity(p, "jensen_shannon", beta=2.0)[0, 1]) == pytest.approx(math.exp(-2 * js))
    torch.testing.assert_close(predictive_similarity(p, "prototype", prototypes=g), (p @ g) @ (p @ g).T)


@pytest.mark.parametrize("holdout", [True, False])
def test_states_that_are_the_prototypes_align_wholly_and_permuted_ones_do_not(holdout: bool) -> None:
    g = draws(200, 4)
    h = g @ draws(4, 4, seed=1) + 5
    assert spectral_alignment(h, g, prototypes=True, holdout=holdout, ridge=1e-9) == pytest.approx(1, abs=1e-6)
    assert spectral_alignment(h, g @ g.T, holdout=False, ridge=1e-9) == pytest.approx(1, abs=1e-6)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert abs(spectral_alignment(h[order], g, prototypes=True, holdout=holdout)) < 0.06


def test_in_the_sample_as_many_inputs_as_contexts_explain_anything_and_held_out_nothing() -> None:
    h, g = draws(40, 60), draws(40, 3, seed=1)
    assert spectral_alignment(h, g, prototypes=True, holdout=False, ridge=1e-9) == pytest.approx(1, abs=1e-3)
    assert spectral_alignment(h, g, prototypes=True) < 0.2


def test_the_dirichlet_energy_is_the_laplacians_and_one_for_an_unrelated_projection() -> None:
    k = predictive_similarity(draws(50, 9).softmax(-1), "hellinger")
    phi = draws(50, seed=7)
    by_pairs = 0.5 * (k * (phi[:, None] - phi[None]).square()).mean() / (k.mean() * phi.var(correction=0))
    assert float(dirichlet_energy(k, phi)) == pytest.approx(float(by_pairs))
    assert float(dirichlet_energy(torch.ones(50, 50), phi)) == pytest.approx(1)
    group = (torch.arange(50) % 2).double()
    blocks = (group[:, None] == group[None]).double()
    assert float(dirichlet_energy(blocks, group)) == pytest.approx(0, abs=1e-12)


def test_companions_of_the_alignment() -> None:
    h = draws(60, 5)
    assert linear_cka(h, h @ h.T) == pytest.approx(1)
    assert subspace_overlap(h, h @ h.T, 4) == pytest.approx(1)
    spectrum = operator_spectrum(h @ h.T)
    assert bool((spectrum[:-1] >= spectrum[1:]).all()) and float(spectrum[5:].abs().max()) < 1e-9


def test_distances_are_bounded_by_the_divergence() -> None:
    p, q = draws(10_000, 6).mul(2).softmax(-1), draws(10_000, 6, seed=1).mul(2).softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    assert bool((hellinger_distance(p, q).square() <= kl + 1e-12).all())
    assert bool((total_variation(p, q).square() <= kl / 2 + 1e-12).all())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: categorical_entropy(torch.tensor([0.5, 0.9])), "add up to 1"),
        (lambda: categorical_entropy(P, "js"), "divergence"),
        (lambda: categorical_entropy(P, "renyi", alpha=1.0), "order 1"),
        (lambda: categorical_entropy(P, "renyi", alpha=2.5), "alpha"),
        (lambda: pullback_metric(U, torch.zeros(3)), "head must be"),
        (lambda: spectrum_numbers(torch.zeros(3, 3)), "every direction"),
        (lambda: predictive_similarity(P), "\\[n, V\\]"),
        (lambda: predictive_similarity(P[None], "prototype"), "prototypes"),
        (lambda: spectral_alignment(draws(4, 2), draws(4, 2)), "eight contexts"),
        (lambda: spectral_alignment(draws(20, 2), torch.ones(20, 3), prototypes=True), "predict alike"),
        (lambda: dirichlet_energy(torch.ones(4, 4), torch.ones(4)), "does not vary"),
        (lambda: markov_surplus(torch.ones(2, 3) / 3, 2), "order m"),
        (lambda: stationary_distribution(torch.eye(2)), "several stationary"),
        (lambda: markov_surplus(CHAIN, 0), "horizon"),
    ],
)
def test_what_cannot_be_measured_is_said(call, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()
