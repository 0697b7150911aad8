"""Transport plans: their sums, their limits, and what the library POT says of the same problems."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information import sinkhorn

RECORDED = json.loads((Path(__file__).parent / "data" / "pot_plans.json").read_text(encoding="utf-8"))
PROBLEMS = RECORDED["problems"]


def _tensors(problem: dict[str, Any]) -> list[torch.Tensor]:
    return [torch.tensor(problem[name], dtype=torch.float64) for name in ("cost", "row_mass", "column_mass")]


def _problem(seed: int, rows: int, columns: int, batch: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(batch, rows, columns, generator=generator) * 2
    a, b = (torch.rand(batch, size, generator=generator) + 0.05 for size in (rows, columns))
    return [cost, a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 6), st.integers(1, 40))
def test_columns_are_exact_and_no_mass_is_negative(seed: int, rows: int, columns: int, turns: int) -> None:
    cost, a, b = _problem(seed, rows, columns)
    plan = sinkhorn(cost, a, b, 0.1, turns)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(-2), b, atol=1e-6, rtol=0)


def test_rows_come_to_their_masses_as_turns_are_added() -> None:
    cost, a, b = (tensor.double() for tensor in _problem(0, 32, 8))
    errors = [(sinkhorn(cost, a, b, 0.1, turns).sum(-1) - a).abs().max().item() for turns in (1, 5, 30, 300)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6 < errors[0]


@pytest.mark.parametrize("epsilon", [1e6, math.inf])
def test_with_endless_entropy_every_row_is_spread_as_the_columns(epsilon: float) -> None:
    cost, a, b = _problem(1, 9, 4)
    torch.testing.assert_close(sinkhorn(cost, a, b, epsilon, 5), a[..., None] * b[..., None, :], atol=1e-6, rtol=1e-4)


def test_a_constant_cost_spreads_likewise() -> None:
    _, a, b = _problem(2, 9, 4)
    plan = sinkhorn(torch.full((3, 9, 4), 0.7), a, b, 0.1, 3)
    torch.testing.assert_close(plan, a[..., None] * b[..., None, :], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_plans_are_those_that_pot_found(problem: dict[str, Any]) -> None:
    cost, a, b = _tensors(problem)
    for turns, name in ((30, "after_30_turns"), (3000, "converged")):
        wanted = torch.tensor(problem[name], dtype=torch.float64)
        torch.testing.assert_close(sinkhorn(cost, a, b, problem["epsilon"], turns), wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_with_little_entropy_the_cost_is_that_of_the_exact_plan(problem: dict[str, Any]) -> None:
    cost, a, b = _tensors(problem)
    found = (sinkhorn(cost, a, b, 0.002, 5000) * cost).sum().item()
    assert problem["exact_cost"] - 1e-6 <= found <= problem["exact_cost"] + 0.005


@pytest.mark.parametrize("problem", PROBLEMS)
def test_pot_still_finds_what_was_recorded(problem: dict[str, Any]) -> None:
    ot = pytest.importorskip("ot")
    batch = pytest.importorskip("ot.batch")
    cost, a, b = _tensors(problem)
    kernel = (-cost / problem["epsilon"])[None].requires_grad_()
    theirs = batch.bregman_log_projection_batch(kernel, a[None], b[None], max_iter=30, tol=-1, grad="autodiff")["T"][0]
    ours_cost = cost.clone().requires_grad_()
    ours = sinkhorn(ours_cost, a, b, problem["epsilon"], 30)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)
    weights = torch.linspace(0, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    (theirs * weights).sum().backward()
    (ours * weights).sum().backward()
    torch.testing.assert_close(ours_cost.grad, -kernel.grad[0] / problem["epsilon"], atol=1e-9, rtol=1e-7)
    assert ot.emd2(a.numpy(), b.numpy(), cost.numpy()) == pytest.approx(problem["exact_cost"], abs=1e-6)


def test_what_has_no_mass_changes_nothing_and_gets_nothing() -> None:
    cost, a, b = _problem(3, 7, 3)
    alone = sinkhorn(cost, a, b, 0.1, 30)
    wide = torch.full((3, 10, 5), 0.3)
    wide[:, 1:8, 1:4] = cost
    rows, columns = torch.zeros(3, 10), torch.zeros(3, 5)
    rows[:, 1:8], columns[:, 1:4] = a, b
    plan = sinkhorn(wide, rows, columns, 0.1, 30)
    torch.testing.assert_close(plan[:, 1:8, 1:4], alone, atol=1e-6, rtol=1e-4)
    plan[:, 1:8, 1:4] = 0
    assert not plan.any()


def test_gradients_stay_numbers_where_there_is_no_mass() -> None:
    cost, a, b = _problem(4, 6, 3)
    a[0], b[0] = 0, 0  # a problem without any
    a[1, 4:], b[1, 2] = 0, 0
    leaves = [tensor.requires_grad_() for tensor in (cost, a, b)]
    plan = sinkhorn(*leaves, 0.1, 30)
    assert not plan[0].any() and torch.isfinite(plan).all()
    (plan * torch.linspace(0, 1, 3)).square().sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)
    assert not cost.grad[0].any() and not cost.grad[1, 4:].any() and cost.grad[2].any()


def test_gradients_are_those_of_the_turns() -> None:
    cost, a, b = (tensor[:1].double().requires_grad_() for tensor in _problem(5, 4, 3))
    assert torch.autograd.gradcheck(lambda *given: sinkhorn(*given, 0.5, 6), (cost, a, b))


def test_half_precision_is_computed_in_float32() -> None:
    cost, a, b = _problem(6, 16, 4)
    plan = sinkhorn(cost.bfloat16(), a, b, 0.1, 30)
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan.sum(-2), b, atol=1e-6, rtol=0)
    assert sinkhorn(cost.double(), a.double(), b.double(), 0.1, 3).dtype == torch.float64


def test_a_batch_is_its_problems_one_by_one() -> None:
    cost, a, b = _problem(7, 12, 5, batch=4)
    each = [sinkhorn(*problem, 0.1, 10) for problem in zip(cost, a, b, strict=True)]
    together = sinkhorn(cost.view(2, 2, 12, 5), a.view(2, 2, 12), b.view(2, 2, 5), 0.1, 10)
    torch.testing.assert_close(together.flatten(0, 1), torch.stack(each))


def test_what_does_not_fit_is_refused() -> None:
    cost, a, b = _problem(8, 4, 3)
    with pytest.raises(ValueError, match="needs masses of shape"):
        sinkhorn(cost, b, a, 0.1, 3)
    with pytest.raises(TypeError, match="row_mass must be a floating-point tensor"):
        sinkhorn(cost, a.long(), b, 0.1, 3)
    for epsilon, turns in ((0.0, 3), (-1.0, 3), (math.nan, 3), (0.1, 0)):
        with pytest.raises(ValueError, match="must be"):
            sinkhorn(cost, a, b, epsilon, turns)
