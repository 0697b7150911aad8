"""Information of linear Gaussian latents, the dimension of features, and budgets of variance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information.gaussian_latents import (
    effective_dimension,
    gaussian_dissipating_information,
    gaussian_latent_information,
    von_neumann_entropy,
    water_filling,
)
from szilard.information.temporal_infonce import temporal_infonce

ANGLES = torch.arange(8) * math.pi / 4
CIRCLE = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
K, SIGMA, C = torch.diag(torch.tensor([0.95, 0.5])), 0.1 * torch.eye(2), torch.diag(torch.tensor([1.0, 2.0]))
GAINS = torch.tensor([4.0, 1.0, 0.1])


def test_points_on_a_circle_use_two_directions_and_on_a_line_one() -> None:
    assert float(von_neumann_entropy(CIRCLE)) == pytest.approx(math.log(2))
    assert float(von_neumann_entropy(CIRCLE * torch.tensor([1, 0.5]))) == pytest.approx(0.500402, abs=1e-6)
    assert float(von_neumann_entropy(CIRCLE[:, :1] * torch.tensor([[1.0, 2.0]]))) == pytest.approx(0, abs=1e-6)
    assert float(effective_dimension(CIRCLE)) == pytest.approx(2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_scale_turn_and_place_do_not_matter(seed: int, scale: float, shift: float) -> None:
    chance = torch.Generator().manual_seed(seed)
    z = torch.randn(30, 4, generator=chance, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=chance, dtype=torch.float64))[0]
    assert float(von_neumann_entropy(scale * z @ turn + shift)) == pytest.approx(
        float(von_neumann_entropy(z)), abs=1e-6
    )


def test_a_step_up_the_entropy_raises_the_effective_dimension_and_gradients_are_finite() -> None:
    z = (
        torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5, 1, 1, 0.1, 0, 0])
    ).requires_grad_()
    von_neumann_entropy(z).backward()
    assert bool(torch.isfinite(z.grad).all())
    assert effective_dimension(z.detach() + 0.1 * z.grad) > effective_dimension(z.detach())


def test_information_of_a_linear_latent_has_its_known_values_and_falls_with_the_lag() -> None:
    found = [float(gaussian_latent_information(K, SIGMA, C, lag)) for lag in (1, 2, 5)]
    assert found == pytest.approx([2.048421, 1.178654, 0.456306], abs=1e-6)
    assert float(gaussian_latent_information(torch.zeros(2, 2), SIGMA, C)) == pytest.approx(0)


def test_it_is_half_the_log_ratio_of_determinants() -> None:
    chance = torch.Generator().manual_seed(0)
    k, root, noise = (torch.randn(3, 3, generator=chance, dtype=torch.float64) for _ in range(3))
    c, sigma = root @ root.T, noise @ noise.T + 0.1 * torch.eye(3)
    whole = torch.linalg.cholesky(sigma).inverse() @ k
    expected = 0.5 * torch.logdet(torch.eye(3) + whole @ c @ whole.T)
    assert float(gaussian_latent_information(k, sigma, c)) == pytest.approx(float(expected))


def test_what_dissipates_is_nothing_after_one_step_and_grows_with_the_steps_between() -> None:
    found = [float(gaussian_dissipating_information(K, SIGMA, torch.eye(2), SIGMA, lag)) for lag in (1, 2, 5)]
    assert found[0] == pytest.approx(0, abs=1e-12) and found[0] < found[1] < found[2]


def test_what_dissipates_is_what_a_joint_gaussian_says() -> None:
    k, sigma, d, r, n = (
        K.double(),
        SIGMA.double(),
        torch.tensor([[1.0, -2.0]]).double(),
        torch.tensor([[0.3]]).double(),
        3,
    )
    draws = 400_000
    chance = torch.Generator().manual_seed(0)
    z, before = torch.zeros(draws, 2, dtype=torch.float64), torch.zeros(draws, 2, dtype=torch.float64)
    for _ in range(n):
        before, z = z, z @ k.T + torch.randn(draws, 2, generator=chance, dtype=torch.float64) @ sigma.sqrt()
    x = before @ d.T + torch.randn(draws, 1, generator=chance, dtype=torch.float64) * r.sqrt()
    joint = torch.cov(torch.cat([z, x], 1).T)
    measured = 0.5 * (torch.logdet(joint[:2, :2]) + torch.logdet(joint[2:, 2:]) - torch.logdet(joint))
    assert float(gaussian_dissipating_information(k, sigma, d, r, n)) == pytest.approx(float(measured), abs=5e-3)


@pytest.mark.parametrize(
    ("budget", "powers"), [(0.5, [0.5, 0, 0]), (1.0, [0.875, 0.125, 0]), (20.0, [10.1667, 9.4167, 0.4167])]
)
def test_water_is_filled_to_one_level(budget: float, powers: list[float]) -> None:
    assert water_filling(GAINS, budget).tolist() == pytest.approx(powers, abs=1e-4)


def test_with_entropy_every_mode_gets_something() -> None:
    powers = water_filling(GAINS, 1.0, 0.5)
    assert powers.tolist() == pytest.approx([0.5272, 0.3121, 0.1607], abs=1e-4)
    assert float((-(powers * powers.log()).sum()).exp()) == pytest.approx(2.704, abs=1e-3)


def test_more_weight_on_the_entropy_uses_more_modes_and_none_is_water_filling() -> None:
    dimensions = []
    for weight in (0.01, 0.1, 0.5, 2.0, 10.0):
        share = water_filling(GAINS, 1.0, weight)
        dimensions.append(float((-torch.xlogy(share, share).sum()).exp()))
    assert dimensions == sorted(dimensions) and dimensions[-1] > 2.99
    assert water_filling(GAINS, 1.0, 1e-4).tolist() == pytest.approx(water_filling(GAINS, 1.0).tolist(), abs=1e-3)


def test_a_mode_without_gain_gets_nothing() -> None:
    assert water_filling(torch.tensor([0.0, 2.0]), 3.0).tolist() == pytest.approx([0, 3])


@pytest.mark.parametrize("negatives", ["sequence", "batch"])
def test_equal_latents_cost_the_log_of_candidates_over_positives(negatives: str) -> None:
    z, k = torch.ones(2, 12, 4), 3
    candidates = 11 if negatives == "sequence" else 23
    found = temporal_infonce(z, k, negatives=negatives)
    assert float(found) == pytest.approx(math.log(candidates / (2 * k)), abs=1e-5)
    outside = temporal_infonce(z, k, negatives=negatives, positives="mean_outside")
    assert float(outside) == pytest.approx(math.log(candidates), abs=1e-5)


def test_too_short_sequences_cost_nothing_and_still_carry_a_gradient() -> None:
    z = torch.randn(2, 6, 4, requires_grad=True)
    temporal_infonce(z, 3).backward()
    assert float(temporal_infonce(z, 3)) == 0 and z.grad is not None


def test_the_length_of_a_latent_does_not_matter() -> None:
    z = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    scaled = z * torch.rand(2, 12, 1, generator=torch.Generator().manual_seed(1)).add(0.1)
    assert float(temporal_infonce(scaled)) == pytest.approx(float(temporal_infonce(z)), abs=1e-5)


def by_hand(z: torch.Tensor, k: int, tau: float) -> float:
    unit = torch.nn.functional.normalize(z, dim=-1)
    losses = []
    for n in range(k, z.shape[1] - k):
        for b in range(len(z)):
            scores = {j: float(unit[b, n] @ unit[b, j]) / tau for j in range(z.shape[1]) if j != n}
            near = [value for j, value in scores.items() if abs(j - n) <= k]
            losses.append(math.log(sum(map(math.exp, scores.values()))) - math.log(sum(map(math.exp, near))))
    return sum(losses) / len(losses)


def test_the_loss_over_anchors_is_what_a_loop_over_them_gives() -> None:
    z = torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(2))
    assert float(temporal_infonce(z, 2, 0.5)) == pytest.approx(by_hand(z, 2, 0.5), abs=1e-5)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: von_neumann_entropy(torch.ones(1, 3)), "at least two rows"),
        (lambda: gaussian_latent_information(K, SIGMA, torch.eye(3)), "\\[d, d\\]"),
        (lambda: gaussian_latent_information(K, torch.zeros(2, 2), C), "positive definite"),
        (lambda: gaussian_latent_information(K, SIGMA, C, 0), "lag"),
        (lambda: gaussian_dissipating_information(K, SIGMA, torch.eye(3), SIGMA, 2), "observation"),
        (lambda: water_filling(torch.tensor([-1.0, 2]), 1.0), "gains"),
        (lambda: water_filling(torch.zeros(3), 1.0), "gains"),
        (lambda: water_filling(GAINS, 0.0), "budget"),
        (lambda: temporal_infonce(torch.ones(3, 4)), "\\[batch, time, dimensions\\]"),
        (lambda: temporal_infonce(torch.ones(1, 9, 4), temperature=0.0), "temperature"),
        (lambda: temporal_infonce(torch.ones(1, 9, 4), negatives="all"), "negatives"),
    ],
)
def test_what_cannot_be_measured_is_said(call, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()
