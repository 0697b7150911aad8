"""LaDiR's masks, flow and diversity force, against brute force and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.reasoning.ladir.diversity import DiversityGuidance, diversity_force
from szilard.reasoning.ladir.flow import (
    OBJECTIVES,
    FlowSchedule,
    TimeEmbedding,
    as_velocity,
    flow_interpolate,
    wanted,
)
from szilard.reasoning.ladir.mask import block_mask, blockwise_mask, span_in_block
from szilard.reasoning.ladir.vae import kl_divergence

# ---- masks ---------------------------------------------------------------------------------------------------------


def brute_force(length: int, width: int, spans: list[tuple[int, int]]) -> torch.Tensor:
    seen = torch.zeros(width, width, dtype=torch.bool)
    for query in range(width):
        for key in range(width):
            inside = any(start <= query < end and start <= key < end for start, end in spans)
            seen[query, key] = query == key or (max(query, key) < length and (key <= query or inside))
    return seen


@st.composite
def rows(draw):
    length = draw(st.integers(0, 12))
    cuts = sorted(draw(st.sets(st.integers(0, length), max_size=6))) if length else []
    return length, list(zip(cuts[::2], cuts[1::2], strict=False))


@settings(max_examples=60, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=3))
def test_the_blockwise_mask_is_the_brute_force_one_and_finite(batch):
    width = max(1, max(length for length, _ in batch))
    mask = blockwise_mask([length for length, _ in batch], [spans for _, spans in batch], width=width)
    assert torch.isfinite(mask).all()
    assert torch.isfinite(torch.softmax(mask, dim=-1)).all()
    for row, (length, spans) in enumerate(batch):
        assert torch.equal(mask[row, 0] == 0, brute_force(length, width, spans))


def test_without_spans_the_mask_is_causal():
    mask = blockwise_mask([5, 3], [[], []])
    assert torch.equal(mask[0, 0] == 0, torch.ones(5, 5).tril().bool())
    assert torch.equal(mask[1, 0, :3, :3] == 0, torch.ones(3, 3).tril().bool())


def test_latents_of_a_block_see_each_other_and_nothing_sees_a_later_block():
    # question 0 1, block 2..5 (<BOT> z z <EOT>), block 6..9, answer 10
    seen = blockwise_mask([11], [[(2, 6), (6, 10)]])[0, 0] == 0
    assert seen[2:6, 2:6].all() and seen[6:10, 6:10].all()
    assert not seen[:6, 6:].any() and not seen[:2, 2:].any()
    assert seen[6:10, :6].all() and seen[10].all()
    assert not seen[0, 1]


@pytest.mark.parametrize("timestep", [False, True])
@pytest.mark.parametrize("span", ["block", "latents"])
def test_a_blocks_own_mask_is_the_blockwise_mask_of_its_span(span, timestep):
    length = 3 + 2 + timestep
    expected = blockwise_mask([length], [[span_in_block(3, span, timestep=timestep)]])[0, 0] == 0
    assert torch.equal(block_mask(3, span, timestep=timestep), expected)
    assert expected[0, -1] == (span == "block")


@pytest.mark.parametrize(
    ("lengths", "spans", "words"),
    [([3], [[(1, 5)]], "outside row 0"), ([5], [[(0, 3), (2, 4)]], "overlaps"), ([3, 3], [[]], "1 rows")],
)
def test_spans_that_fit_no_row_are_refused(lengths, spans, words):
    with pytest.raises(ValueError, match=words):
        blockwise_mask(lengths, spans)


# ---- flow ----------------------------------------------------------------------------------------------------------


def pair(seed: int = 0, shape: tuple[int, ...] = (4, 2, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=chance, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def test_interpolation_goes_from_the_block_to_the_noise():
    z0, eps = pair()
    assert torch.equal(flow_interpolate(z0, eps, torch.zeros(4)), z0)
    assert torch.equal(flow_interpolate(z0, eps, torch.ones(4)), eps)


@given(st.floats(0, 1))
def test_the_target_velocity_does_not_depend_on_time_and_leads_back(t):
    z0, eps = pair()
    velocity = wanted("flow", z0, eps, torch.full((4,), t))
    assert torch.equal(velocity, eps - z0)
    zt = flow_interpolate(z0, eps, torch.full((4,), t, dtype=torch.float64))
    assert torch.allclose(zt - t * velocity, z0)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(t=st.floats(0.01, 0.99))
def test_a_right_prediction_of_any_objective_is_the_velocity(objective, t):
    z0, eps = pair()
    at = torch.full((4,), t, dtype=torch.float64)
    said = wanted(objective, z0, eps, at)
    assert torch.allclose(as_velocity(objective, said, flow_interpolate(z0, eps, at), at), eps - z0)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_euler_with_a_perfect_oracle_returns_the_block(steps):
    z0, z = pair()
    for t, dt in FlowSchedule(steps).pairs():
        z = z - dt * (z - z0) / t
    assert torch.allclose(z, z0, atol=1e-12)


def test_the_schedule_is_even_and_ends_at_zero():
    pairs = list(FlowSchedule(8).pairs())
    assert pairs[0][0] == 1.0 and len(pairs) == 8
    assert all(dt == 1 / 8 for _, dt in pairs) and math.isclose(pairs[-1][0] - pairs[-1][1], 0.0)
    with pytest.raises(ValueError, match="num_steps"):
        FlowSchedule(0)


def test_the_time_embedding_tells_neighbouring_thousandths_apart_even_in_bfloat16():
    embedding = TimeEmbedding(16).bfloat16()
    near = embedding(torch.tensor([0.998, 0.999]))
    assert near.dtype == torch.bfloat16 and not torch.equal(near[0], near[1])


def test_the_kl_is_a_mean_and_zero_for_a_standard_normal():
    assert kl_divergence(torch.zeros(3, 2, 5), torch.zeros(3, 2, 5)) == 0
    mean = torch.ones(3, 2, 5)
    assert kl_divergence(mean, torch.zeros_like(mean)) == pytest.approx(0.5)


# ---- diversity -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31), st.one_of(st.none(), st.floats(0.2, 5)))
def test_forces_sum_to_zero_and_do_not_know_where_they_are(count, seed, sigma):
    z = torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    force = diversity_force(z, sigma)
    assert torch.allclose(force.sum(0), torch.zeros(2, 3, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(diversity_force(z + 3.5, sigma), force, atol=1e-6)


def test_two_trajectories_feel_nothing_under_the_median():
    z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(diversity_force(z), torch.zeros_like(z))
    assert diversity_force(z, sigma=10.0).abs().sum() > 0


def test_the_force_is_the_gradient_of_the_published_reward():
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    squared = (z[:, None] - z[None]).pow(2).sum(-1)
    reward = (squared * torch.exp(-squared / 1.7**2)).sum() / 2  # every pair once
    (gradient,) = torch.autograd.grad(reward, z)
    assert torch.allclose(diversity_force(z.detach(), 1.7), gradient)


def test_pairs_nearer_than_the_bandwidth_are_repelled_and_others_drawn_together():
    near, far = (torch.tensor([[0.0], [gap]]) for gap in (0.5, 1.5))
    assert diversity_force(near, 1.0)[1, 0] > 0 > diversity_force(far, 1.0)[1, 0]
    assert diversity_force(torch.tensor([[0.0], [1.0]]), 1.0).abs().max() == 0


def mean_distance(z: torch.Tensor) -> float:
    return float(torch.pdist(z.flatten(1)).mean())


@pytest.mark.parametrize(("sign", "apart"), [("repulsive", True), ("official", False)])
def test_a_nearly_collapsed_batch_is_driven_apart_by_the_repulsive_sign_only(sign, apart):
    z = 0.01 * torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(3))
    guidance = DiversityGuidance(gamma_max=0.5, bandwidth=1.0, guidance_sign=sign)
    moved = guidance.step(z, torch.zeros_like(z), 1.0, 0.1, torch.zeros(5, dtype=torch.long))
    assert (mean_distance(moved) > mean_distance(z)) == apart


def test_questions_do_not_push_each_other_and_no_strength_is_plain_euler():
    z, velocity = pair(4, (6, 2, 3))
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    guidance = DiversityGuidance(gamma_max=0.5)
    together = guidance.step(z, velocity, 0.8, 0.1, groups)
    alone = guidance.step(z[3:], velocity[3:], 0.8, 0.1, groups[3:])
    assert torch.allclose(together[3:], alone)
    none = DiversityGuidance(gamma_max=0.0).step(z, velocity, 0.8, 0.1, groups)
    assert torch.equal(none, z - 0.1 * velocity)


def test_strength_falls_with_time_as_the_schedules_say():
    assert DiversityGuidance(gamma_max=0.4).gamma(0.5) == pytest.approx(0.2)
    assert DiversityGuidance(gamma_max=0.4, schedule="official").gamma(0.5) == pytest.approx(0.1 + 0.3 * 0.25)
    for bad in ({"bandwidth": "mean"}, {"guidance_sign": "up"}, {"schedule": "cosine"}, {"gamma_max": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DiversityGuidance(**bad)


MODES = 4.0 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
SPREAD = 0.3


def exact_velocity(z: torch.Tensor, t: float) -> torch.Tensor:
    """E[eps - z_0 | z_t] of four equal Gaussians of spread .3, [n, 2]."""
    centred = MODES - MODES.mean(0)
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    apart = z[:, None] - (1 - t) * centred  # [n, modes, 2]
    weight = torch.softmax(-apart.pow(2).sum(-1) / (2 * variance), dim=1)
    mode = centred + (1 - t) * SPREAD**2 / variance * apart  # E[z_0 | z_t, mode]
    noise = t / variance * apart
    return (weight[..., None] * (noise - mode)).sum(1)


def modes_hit(guidance: DiversityGuidance, trajectories: int, draws: int) -> float:
    """Different modes that the trajectories of a question reach, a mean over questions."""
    z = torch.randn(draws * trajectories, 2, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(draws).repeat_interleave(trajectories)
    for t, dt in FlowSchedule(50).pairs():
        z = guidance.step(z, exact_velocity(z, t), t, dt, groups)
    apart = torch.cdist(z, MODES - MODES.mean(0))
    distance, nearest = apart.min(1)
    nearest = torch.where(distance < 4 * SPREAD, nearest, -1).view(draws, trajectories)
    return sum(((nearest == mode).any(1)).float().mean().item() for mode in range(4))


def test_repulsion_reaches_more_modes_than_plain_flow_and_the_official_sign_no_more():
    plain, repulsive, official = (
        modes_hit(DiversityGuidance(gamma_max=gamma, guidance_sign=sign), 4, 400)
        for gamma, sign in ((0.0, "repulsive"), (0.05, "repulsive"), (0.3, "official"))
    )
    assert repulsive > plain >= official - 0.02
