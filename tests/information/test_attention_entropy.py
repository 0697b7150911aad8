"""Entropy of attention: its limits, both its forms, and what padding leaves out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information import attention_entropy, entropy_from_logits, uniform_causal_entropy
from szilard.information.attention_entropy import softmax_with_entropy


def scores_of(seed, shape=(2, 3, 5, 7)):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_one_hot_rows_have_no_entropy():
    rows = torch.eye(6).expand(2, 3, 6, 6)
    assert bool((attention_entropy(rows).abs() < 1e-7).all())
    assert bool((entropy_from_logits(1e4 * rows) == 0).all())
    masked = torch.full((1, 4, 4), -torch.inf)
    masked.diagonal(dim1=-2, dim2=-1).fill_(0)
    assert bool((entropy_from_logits(masked) == 0).all())


@pytest.mark.parametrize(("length", "published"), [(128, 3.878), (256, 4.560), (512, 5.246)])
def test_a_uniform_causal_head_has_log_of_the_factorial_over_its_length(length, published):
    rows = torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]
    expected = math.lgamma(length + 1) / length
    assert uniform_causal_entropy(length) == pytest.approx(expected) == pytest.approx(published, abs=1e-3)
    assert float(attention_entropy(rows, reduce="mean")) == pytest.approx(expected, abs=1e-5)
    scores = torch.zeros(length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    assert float(entropy_from_logits(scores, reduce="mean")) == pytest.approx(expected, abs=1e-6)
    assert expected < math.log(length)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_form_of_logits_equals_the_form_of_probabilities(seed):
    scores = scores_of(seed).double()
    rows = attention_entropy(scores.softmax(-1), eps=0)
    assert torch.allclose(entropy_from_logits(scores), rows, atol=1e-6)
    assert torch.allclose(attention_entropy(scores.softmax(-1)), rows, atol=1e-7)  # eps biases by 1e-9 an entry
    assert bool((rows >= -1e-12).all()) and bool((rows <= math.log(7) + 1e-12).all())
    probabilities, same = softmax_with_entropy(scores)
    assert torch.allclose(probabilities, scores.softmax(-1)) and torch.equal(same, entropy_from_logits(scores))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_entropy_rises_with_the_temperature_from_none_to_the_logarithm_of_the_length(seed):
    scores = scores_of(seed).double()
    at = [entropy_from_logits(scores / t) for t in (1e-6, 0.1, 0.5, 1.0, 2.0, 10.0, 1e9)]
    assert all(bool((lower <= higher + 1e-9).all()) for lower, higher in itertools.pairwise(at))
    assert bool((at[0] < 1e-3).all()) and torch.allclose(at[-1], torch.tensor(math.log(7)).double(), atol=1e-6)


def test_the_identity_of_entropy_and_temperature_holds():
    scores, t = scores_of(1).double(), 0.7
    a = (scores / t).softmax(-1)
    assert torch.allclose(
        entropy_from_logits(scores / t), (scores / t).logsumexp(-1) - (a * scores).sum(-1) / t, atol=1e-9
    )


def test_both_forms_have_the_same_gradient_and_none_is_lost_behind_a_mask():
    hidden = torch.ones(5, 5).triu(1).bool()
    grads = []
    for form in (entropy_from_logits, lambda s: attention_entropy(s.softmax(-1), eps=0)):
        scores = scores_of(2, (2, 5, 5)).double().masked_fill(hidden, -1e4).requires_grad_()
        form(scores).sum().backward()
        grads.append(scores.grad)
    assert torch.allclose(*grads, atol=1e-9)
    scores = scores_of(2, (2, 5, 5)).requires_grad_()
    entropy_from_logits(scores.masked_fill(hidden, -torch.inf)).sum().backward()
    assert bool(torch.isfinite(scores.grad).all())


def test_masked_queries_count_for_nothing_and_rows_that_see_nothing_have_no_entropy():
    a = scores_of(3).softmax(-1)
    mask = torch.ones(2, 1, 5, dtype=torch.bool)
    mask[0, :, 3:] = False
    rows = attention_entropy(a, mask)
    assert bool((rows[0, :, 3:] == 0).all()) and torch.equal(rows[1], attention_entropy(a)[1])
    means = attention_entropy(a, mask, reduce="mean")
    assert means.shape == (2, 3) and torch.allclose(means[0], attention_entropy(a)[0, :, :3].mean(-1))
    assert bool((entropy_from_logits(torch.full((2, 3), -torch.inf)) == 0).all())


def test_a_mask_of_a_batch_is_for_all_heads_even_where_there_are_as_many():
    a, mask = scores_of(5, (3, 3, 5, 7)).softmax(-1), torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:] = False
    assert torch.equal(attention_entropy(a, mask), attention_entropy(a, mask[:, None]))


def test_scores_that_are_no_numbers_have_an_entropy_that_is_none():
    scores = torch.zeros(2, 3)
    scores[0, 1] = torch.nan
    assert entropy_from_logits(scores).isnan().tolist() == [True, False]


def test_halves_are_measured_in_single_precision():
    scores = scores_of(4)
    assert attention_entropy(scores.softmax(-1).bfloat16()).dtype == torch.float32
    assert torch.allclose(entropy_from_logits(scores.bfloat16()), entropy_from_logits(scores), atol=2e-2)


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="attention must have a shape"):
        attention_entropy(torch.ones(3))
    with pytest.raises(ValueError, match="scores must have a shape"):
        entropy_from_logits(torch.ones(3, 0))
    with pytest.raises(TypeError, match="attention must be a tensor"):
        attention_entropy([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mask must fit queries of the shape \[2, 3\], and is \[2, 5\]"):
        attention_entropy(torch.ones(2, 3, 4) / 4, torch.ones(2, 5))
    with pytest.raises(ValueError, match="reduce must be one of"):
        attention_entropy(torch.ones(2, 2), reduce="sum")
    with pytest.raises(ValueError, match="length must be at least 1"):
        uniform_causal_entropy(0)
