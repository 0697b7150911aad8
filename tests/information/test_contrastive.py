"""InfoNCE and the regressions it is compared with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from szilard.information.contrastive import (
    REGRESSIONS,
    alignment,
    info_nce,
    mean_pairwise_cosine,
    regression_loss,
    uniformity,
)


def pairs(count: int, width: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=chance), torch.randn(count, width, generator=chance)


def test_a_batch_of_one_costs_nothing() -> None:
    assert float(info_nce(*pairs(1), 14.0)) == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.floats(0.1, 40))
def test_equal_orthonormal_pairs_have_their_closed_form(count: int, scale: float) -> None:
    basis = torch.eye(count, 12, dtype=torch.float64)
    known = math.log1p((count - 1) * math.exp(-scale))
    assert float(info_nce(basis, basis, scale)) == pytest.approx(known, rel=1e-9, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 99), st.sampled_from(("ignored", "positives", "negatives")))
def test_predicted_and_true_may_change_places(count: int, seed: int, duplicates: str) -> None:
    p, t = (one.double() for one in pairs(count, seed=seed))
    groups = torch.arange(count) // 2
    there, back = (info_nce(*two, 5.0, groups=groups, duplicates=duplicates) for two in ((p, t), (t, p)))
    assert float(there) == pytest.approx(float(back), abs=1e-12)


def test_it_is_the_mean_of_both_directions_and_blind_to_lengths() -> None:
    p, t = pairs(6)
    logits = 3.0 * F.normalize(p, dim=1) @ F.normalize(t, dim=1).T
    known = -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2
    torch.testing.assert_close(info_nce(p, t, 3.0), known)
    lengths = torch.linspace(0.1, 9.0, 6).unsqueeze(1)
    torch.testing.assert_close(info_nce(p * lengths, t / lengths, 3.0), known)
    assert float(info_nce(p.numpy(), t.numpy(), 3.0)) == pytest.approx(float(known))


def test_equal_answers_are_no_negatives_of_each_other() -> None:
    p, t = pairs(3)
    t[1] = t[0]
    groups, no_two_alike = torch.tensor([7, 7, -2]), torch.tensor([1, 2, 3])
    logits = 4.0 * F.normalize(p, dim=1) @ F.normalize(t, dim=1).T
    without = logits.masked_fill(torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool(), -math.inf)
    known = -(without.log_softmax(1).diagonal().mean() + without.log_softmax(0).diagonal().mean()) / 2
    torch.testing.assert_close(info_nce(p, t, 4.0, groups=groups), known)
    share = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    several = -((share * logits.log_softmax(1)).sum() + (share * logits.log_softmax(0)).sum()) / 6
    torch.testing.assert_close(info_nce(p, t, 4.0, groups=groups, duplicates="positives"), several)
    plain = info_nce(p, t, 4.0)
    assert float(info_nce(p, t, 4.0, groups=groups)) < float(plain)
    for kind in ("ignored", "positives"):
        torch.testing.assert_close(info_nce(p, t, 4.0, groups=no_two_alike, duplicates=kind), plain)
    assert torch.equal(info_nce(p, t, 4.0, groups=groups, duplicates="negatives"), plain)


def test_a_batch_of_one_answer_teaches_nothing_where_duplicates_are_ignored() -> None:
    p, t = pairs(4)
    p.requires_grad_(True)
    loss = info_nce(p, t, 4.0, groups=torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0 and p.grad is not None and not bool(p.grad.any())


def test_a_row_moves_towards_its_own_and_away_from_others() -> None:
    p, t = pairs(5)
    p.requires_grad_(True)
    info_nce(p, t, 2.0).backward()
    assert p.grad is not None
    moved = F.normalize((p - 0.1 * p.grad).detach(), dim=1) @ F.normalize(t, dim=1).T
    before = F.normalize(p.detach(), dim=1) @ F.normalize(t, dim=1).T
    assert float((moved - before).diagonal().mean()) > 0
    off = ~torch.eye(5, dtype=torch.bool)
    assert float((moved - before)[off].mean()) < 0


def test_halves_and_autocast_do_not_blur_logits() -> None:
    p, t = pairs(16, 64)
    exact = float(info_nce(p, t, 100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(info_nce(p, t, 100.0)) == pytest.approx(exact, rel=1e-5)
    assert info_nce(p.bfloat16(), t, 100.0).dtype == torch.float32


def test_regressions_are_zero_for_equal_directions_only() -> None:
    p, t = pairs(6)
    for kind in REGRESSIONS:
        assert float(regression_loss(p, 3 * p, kind)) == pytest.approx(0, abs=1e-5)
        assert float(regression_loss(p, t, kind)) > 0.1
    assert float(regression_loss(p, t, "l2")) == pytest.approx(2 * float(regression_loss(p, t, "cosine")), rel=1e-5)
    assert float(alignment(p, -p)) == pytest.approx(4)


def test_a_point_is_neither_uniform_nor_spread() -> None:
    point, basis = torch.ones(5, 4), torch.eye(4)
    assert mean_pairwise_cosine(point) == pytest.approx(1) and mean_pairwise_cosine(basis) == pytest.approx(0)
    assert float(uniformity(point)) == pytest.approx(0) and float(uniformity(basis)) == pytest.approx(-4)
    v = pairs(7)[0]
    unit = F.normalize(v, dim=1)
    off = ~torch.eye(7, dtype=torch.bool)
    assert mean_pairwise_cosine(v.numpy()) == pytest.approx(float((unit @ unit.T)[off].mean()), abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, torch.ones(2)])
def test_a_scale_that_is_none_is_said(scale: float) -> None:
    with pytest.raises(ValueError, match="logit_scale must be one number above 0"):
        info_nce(*pairs(3), scale)


@pytest.mark.parametrize("shapes", [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((0, 4), (0, 4)), ((4,), (4,))])
def test_rows_that_do_not_belong_together_are_said(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must both be"):
        info_nce(torch.ones(shapes[0]), torch.ones(shapes[1]), 1.0)


def test_other_bad_input_is_said() -> None:
    p, t = pairs(3)
    with pytest.raises(ValueError, match="one number for each of 3 rows"):
        info_nce(p, t, 1.0, groups=torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="duplicates"):
        info_nce(p, t, 1.0, duplicates="dropped")
    with pytest.raises(TypeError, match=r"not torch\.int64"):
        info_nce(p.long(), t, 1.0)
    with pytest.raises(TypeError, match="not a list"):
        info_nce([[1.0]], [[1.0]], 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind"):
        regression_loss(p, t, "huber")
    for measure in (uniformity, mean_pairwise_cosine):
        with pytest.raises(ValueError, match="two vectors or more"):
            measure(np.ones((1, 3)))
