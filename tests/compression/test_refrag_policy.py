"""How REFRAG's policy chooses and learns: the printed numbers and the invariants."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.compression.refrag.curriculum import FACTORS, STAGES, TOTALS, curriculum, lengths, schedule
from szilard.compression.refrag.grpo import advantages, clipped_objective
from szilard.compression.refrag.policy import PolicyNetwork, drawn_orders, order_log_probs

WORKED = torch.tensor([[0.0, math.log(2), math.log(3)]])

# Samples of each length in the stages 1 to 9, as the paper prints them.
TABLE = {
    1: (1333, 445, 148, 49, 16, 6, 2, 1, 0),
    2: (333, 298, 267, 238, 213, 191, 171, 153, 137),
    4: (83, 102, 126, 156, 193, 238, 293, 362, 447),
    8: (20, 35, 61, 106, 185, 324, 565, 985, 1719),
    16: (5, 11, 23, 48, 103, 220, 468, 997, 2125),
    32: (1, 3, 7, 19, 50, 133, 353, 939, 2496),
    64: (1, 3, 9, 25, 73, 212, 618, 1802, 5259),
    128: (1, 3, 9, 25, 73, 212, 618, 1802, 5259),
    256: (1, 3, 9, 25, 73, 212, 618, 1802, 5259),
}


def _chances(logits: torch.Tensor, orders: list[tuple[int, ...]]) -> torch.Tensor:
    return order_log_probs(logits, torch.tensor([orders])).sum(-1).exp()[0]


# ---- choice without replacement ----------------------------------------------------------------------------------


def test_the_third_then_the_first_has_a_chance_of_a_sixth() -> None:
    steps = order_log_probs(WORKED, torch.tensor([[[2, 0]]])).exp()
    torch.testing.assert_close(steps, torch.tensor([[[1 / 2, 1 / 3]]]))
    pairs = list(itertools.permutations(range(3), 2))
    torch.testing.assert_close(_chances(WORKED, pairs).sum(), torch.tensor(1.0))


@given(seed=st.integers(0, 999), chunks=st.integers(1, 9), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_no_chunk_is_drawn_twice_and_all_when_all_are_wanted(seed: int, chunks: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, chunks, generator=generator) * 5
    count = int(share * chunks)
    for wanted in (count, chunks):
        for order in drawn_orders(logits, 4, torch.tensor([wanted]), generator=generator)[0].tolist():
            assert len(set(order)) == len(order) == wanted and set(order) <= set(range(chunks))


def test_rows_of_different_lengths_draw_their_own_counts() -> None:
    logits = torch.tensor([[0.3, 0.1, 2.0, 1.0], [0.5, 0.2, -torch.inf, -torch.inf]])
    orders = drawn_orders(logits, 50, torch.tensor([3, 1]), generator=torch.Generator().manual_seed(1))
    assert (orders[0] >= 0).all() and (orders[1, :, 1:] == -1).all() and int(orders[1].max()) <= 1
    steps = order_log_probs(logits, orders)
    assert torch.isfinite(steps).all() and not steps[1, :, 1:].any()
    alone = order_log_probs(logits[1:, :2], orders[1:, :, :1])
    torch.testing.assert_close(steps[1:, :, :1], alone)


def test_orders_are_drawn_as_often_as_their_chance_says() -> None:
    drawn = drawn_orders(WORKED, 20_000, torch.tensor([2]), generator=torch.Generator().manual_seed(0))[0]
    pairs = list(itertools.permutations(range(3), 2))
    seen = torch.tensor([float((drawn == torch.tensor(pair)).all(1).float().mean()) for pair in pairs])
    torch.testing.assert_close(seen, _chances(WORKED, pairs), atol=0.015, rtol=0)


def test_a_new_policy_has_no_preference_and_padding_does_not_matter() -> None:
    torch.manual_seed(0)
    policy = PolicyNetwork(8).eval()
    rows = torch.randn(2, 5, 8)
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert not policy(rows, real)[real].any()
    torch.nn.init.normal_(policy.head.weight)
    both = policy(rows, real)
    torch.testing.assert_close(both[1, :3], policy(rows[1:, :3], real[1:, :3])[0])
    assert (both[1, 3:] == -torch.inf).all()


# ---- GRPO --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-20, 0, width=32), min_size=2, max_size=9))
@settings(max_examples=60, deadline=None)
def test_advantages_have_mean_0_and_population_standard_deviation_1(rewards: list[float]) -> None:
    found = advantages(torch.tensor([rewards], dtype=torch.float64))[0]
    assert torch.isfinite(found).all() and abs(float(found.mean())) < 1e-6
    if max(rewards) - min(rewards) > 1e-2:
        assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-3)
    if max(rewards) == min(rewards):
        assert not found.any()


def test_equal_rewards_teach_nothing() -> None:
    for value in (-1.2345678, -0.1, -7.7777):
        assert not advantages(torch.full((2, 7), value)).any()


def test_where_nothing_has_changed_the_objective_is_the_policy_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, requires_grad=True)
    orders = drawn_orders(logits.detach(), 5, torch.tensor([3, 2]), generator=torch.Generator().manual_seed(2))
    real, advantage = orders >= 0, advantages(torch.randn(2, 5))
    steps = order_log_probs(logits, orders)
    objective = clipped_objective(steps, steps.detach(), advantage, real, 0.2)
    assert float(objective.detach()) == pytest.approx(float(advantage.mean()), abs=1e-6)
    (found,) = torch.autograd.grad(objective, logits, retain_graph=True)
    plain = ((advantage[..., None] * steps).sum(-1) / real.sum(-1)).mean()
    (expected,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(found, expected)


def test_ratios_beyond_the_clip_stop_learning_in_their_direction() -> None:
    old, real = torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool)
    new = torch.tensor([[[math.log(1.5)], [math.log(0.5)]]], requires_grad=True)
    objective = clipped_objective(new, old, torch.tensor([[1.0, -1.0]]), real, 0.2)
    assert float(objective.detach()) == pytest.approx((1.2 - 0.8) / 2)
    (gradient,) = torch.autograd.grad(objective, new)
    assert not gradient.any()
    other = clipped_objective(new, old, torch.tensor([[-1.0, 1.0]]), real, 0.2)
    assert float(other.detach()) == pytest.approx((-1.5 + 0.5) / 2)  # the wrong way, the whole ratio counts


# ---- the curriculum ----------------------------------------------------------------------------------------------


def test_the_rule_reproduces_the_papers_table() -> None:
    for stage in range(1, STAGES + 1):
        assert curriculum(stage) == {factor: row[stage - 1] for factor, row in TABLE.items()}


@given(samples=st.integers(1, 3000), chunks=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_a_small_run_has_its_samples_and_ends_with_the_longest(samples: int, chunks: int, seed: int) -> None:
    factors = lengths(chunks)
    assert factors[-1] == chunks and list(factors) == sorted(set(factors)) and factors[0] == 1
    order = schedule(factors, samples, seed)
    assert len(order) == samples and set(order) <= set(factors)
    if samples > 900 and len(factors) > 1:
        ninth = samples // 9
        assert sum(order[:ninth]) < sum(order[-ninth:])


def test_a_small_run_keeps_the_shares_of_the_table() -> None:
    order = schedule(FACTORS, sum(TOTALS) // 10, 0)
    for factor, total in zip(FACTORS, TOTALS, strict=True):
        assert order.count(factor) == pytest.approx(total / 10, rel=0.03)


def test_curricula_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and 9"):
        curriculum(10)
    for factors, totals in (((1, 2), (5,)), ((2, 1), (5, 5)), ((), ()), ((0, 1), (5, 5))):
        with pytest.raises(ValueError, match="ascending factors"):
            curriculum(1, factors, totals)
    with pytest.raises(ValueError, match="above 0"):
        curriculum(1, (1, 2), (5, 0))
