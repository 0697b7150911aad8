"""The entropy penalty: where it is nothing, which way it pulls, and what its two sums have to do with each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information import attention_entropy
from szilard.training.entropy_guided_attention import EntropyRegularizer
from szilard.training.entropy_guided_attention.regularizer import REDUCTIONS, comparable_weight

L, B, H, T = 2, 3, 4, 8


def rows_of(seed=0, batch=B, length=T):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(L, batch, H, length, generator=generator, dtype=torch.float64) * math.log(length)


def penalty(rows=None, lengths=None, mask=None, **options):
    made = EntropyRegularizer(L, H, lam=1.0, **options).double()
    return made.of_entropies(rows_of() if rows is None else rows, lengths, mask).detach()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_entropies_within_the_band_cost_nothing_and_a_wide_band_makes_all_free(reduction):
    inside = torch.full((L, B, H, T), 0.5 * math.log(T)).double() * 1.3
    assert float(penalty(inside, gamma=0.2, reduction=reduction)) == 0.0
    assert float(penalty(inside, gamma=0.1, reduction=reduction)) > 0.0
    assert float(penalty(gamma=1.0, reduction=reduction)) == 0.0


def test_the_penalty_is_the_loop_of_the_paper_over_layers_heads_and_rows():
    rows, theta, gamma = rows_of(), 0.4, 0.2
    most = math.log(T)
    total = 0.0
    for layer in range(L):
        for head in range(H):
            for delta in (rows[layer, :, head] - theta * most).flatten().tolist():
                total += delta**2 if abs(delta) > gamma * most else 0.0
    expected = total / (L * H)
    assert float(penalty(rows, gamma=gamma, theta_init=theta)) == pytest.approx(expected, rel=1e-6)
    means = rows.mean(-1) - theta * most  # algorithm 1 as it is printed
    expected = float(torch.where(means.abs() > 0.01 * most, means**2, 0).mean())
    found = penalty(rows, gamma=0.01, theta_init=theta, reduction="head_mean")
    assert float(found) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.2]), st.booleans(), st.sampled_from([None, "normalise"]))
def test_the_sum_over_rows_is_batch_times_length_times_their_mean(seed, gamma, one_sided, reference):
    options = {"gamma": gamma, "one_sided": one_sided, "per_row_reference": reference}
    total = penalty(rows_of(seed), **options, reduction="sum_rows")
    mean = penalty(rows_of(seed), **options, reduction="mean_rows")
    assert float(total) == pytest.approx(B * T * float(mean), rel=1e-9)


def test_one_side_and_the_other_make_both():
    above = float(penalty(gamma=0.2, one_sided=True))
    mirrored = rows_of()
    low = torch.where(mirrored < 0.5 * math.log(T), mirrored, 0.5 * math.log(T))
    assert above + float(penalty(low, gamma=0.2)) == pytest.approx(float(penalty(gamma=0.2)))
    assert above > 0


@pytest.mark.parametrize(("share", "sign"), [(0.9, -1), (0.1, 1)])
def test_thresholds_are_drawn_towards_the_heads_and_heads_towards_the_thresholds(share, sign):
    made = EntropyRegularizer(L, H, lam=1.0, gamma=0.2).double()
    rows = torch.full((L, B, H, T), share * math.log(T)).double().requires_grad_()
    made.of_entropies(rows).backward()
    delta = (share - 0.5) * math.log(T)
    expected = -2 * delta * math.log(T) * B * T / (H * L)
    assert made.theta.grad.sign().unique().tolist() == [sign]
    assert torch.allclose(made.theta.grad, torch.full((L, H), expected).double(), rtol=1e-6)
    assert rows.grad.sign().unique().tolist() == [-sign]
    assert torch.allclose(rows.grad, torch.full_like(rows, 2 * delta / (H * L)), rtol=1e-6)
    fixed = EntropyRegularizer(L, H, learn_theta=False)
    assert not fixed.theta.requires_grad


def test_every_layer_and_head_has_its_own_threshold():
    made = EntropyRegularizer(L, H, lam=1.0, gamma=0.0).double()
    with torch.no_grad():
        made.theta.copy_(torch.arange(L * H).view(L, H) / 10)
    rows = made.theta.detach()[:, None, :, None].expand(L, B, H, T) * math.log(T)
    assert float(made.of_entropies(rows).detach()) == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize("options", [{}, {"per_row_reference": "normalise"}, {"per_row_reference": "skip"}])
def test_padding_changes_nothing(options):
    lengths = torch.tensor([8, 5, 3])
    rows = rows_of()
    together = penalty(rows, lengths, **options)
    assert float(penalty(rows, lengths.tolist(), **options)) == float(together)
    alone = sum(float(penalty(rows[:, at : at + 1, :, :n], **options)) for at, n in enumerate(lengths.tolist()))
    assert float(together) == pytest.approx(alone)
    right = torch.arange(T) < lengths[:, None]
    assert float(penalty(rows, mask=right, **options)) == pytest.approx(float(together))
    left = torch.stack([torch.stack([r.roll(T - n, -1) for r in rows.flatten(2)[:, at].view(L, H, T)])
                        for at, n in enumerate(lengths.tolist())], 1)  # fmt: skip
    assert float(penalty(left, mask=right.flip(-1), **options)) == pytest.approx(float(together))
    mean = penalty(rows, lengths, reduction="head_mean", gamma=0.01)
    alone = [float(penalty(rows[:, at : at + 1, :, :n], reduction="head_mean", gamma=0.01)) for at, n in
             enumerate(lengths.tolist())]  # fmt: skip
    assert float(mean) == pytest.approx(sum(alone) / 3)


def test_early_rows_are_measured_by_what_they_see():
    uniform = torch.arange(1, T + 1).double().log().expand(L, B, H, T) * 0.5
    assert float(penalty(uniform, gamma=0.01)) > 0
    assert float(penalty(uniform, gamma=0.01, per_row_reference="normalise")) == pytest.approx(0.0, abs=1e-12)
    early = torch.zeros(L, B, H, T).double()
    early[..., 2:] = 0.5 * math.log(T)  # rows 1 and 2 see fewer than T^0.5 tokens
    assert float(penalty(early, gamma=0.1, per_row_reference="skip")) == 0.0 < float(penalty(early, gamma=0.1))


def test_probabilities_and_entropies_are_two_ways_in():
    a = torch.randn(L, B, H, T, T, generator=torch.Generator().manual_seed(1)).softmax(-1)
    made = EntropyRegularizer(L, H, lam=0.5, gamma=0.0)
    assert float(made(list(a))) == pytest.approx(float(made.of_entropies(attention_entropy(a))))
    half = EntropyRegularizer(L, H, lam=0.25, gamma=0.0)
    assert float(made(list(a))) == pytest.approx(2 * float(half(list(a))))


def test_a_published_weight_is_brought_to_another_batch():
    assert comparable_weight(1e-5, 16 * 64) == pytest.approx(8e-5)


def test_bad_input_is_told():
    for options, words in (
        ({"lam": -1.0}, "lam must be between 0"),
        ({"lam": math.inf}, "lam must be between 0"),
        ({"theta_init": 2.0}, "theta_init must be between 0 and 1"),
        ({"reduction": "sum"}, "reduction must be one of"),
        ({"per_row_reference": "log"}, "per_row_reference must be one of"),
        ({"per_row_reference": "skip", "reduction": "head_mean"}, "measures every row"),
    ):
        with pytest.raises(ValueError, match=words):
            EntropyRegularizer(L, H, **options)
    with pytest.raises(TypeError, match="one_sided must be True or False"):
        EntropyRegularizer(L, H, one_sided=1)
    with pytest.raises(ValueError, match="row entropies must have the shape"):
        penalty(rows_of()[:1])
    even = torch.ones(B, H, 4, 4) / 4
    for attentions, words in (
        ((), "holds no probabilities: load the model with attn_implementation='eager'"),
        ((None, None), "holds no probabilities"),
        ((even, even[..., :3, :3]), r"must have one shape, not \(3, 4, 3, 3\), \(3, 4, 4, 4\)"),
    ):
        with pytest.raises(ValueError, match=words):
            EntropyRegularizer(L, H)(attentions)
    with pytest.raises(ValueError, match="lengths must be 3 numbers"):
        penalty(lengths=torch.tensor([9, 1, 1]))
    with pytest.raises(ValueError, match="not both"):
        penalty(lengths=torch.tensor([8, 1, 1]), mask=torch.ones(B, T))
    with pytest.raises(ValueError, match="mask must have the shape"):
        penalty(mask=torch.ones(B, 2))
