"""What parallel decoding must lose: the published values, and the laws of the bounds."""

import itertools
import math

import pytest
import torch

from szilard.evaluation.parallelbench import (
    best_bound,
    best_partition,
    replace_random_accuracy,
    replace_random_joint,
    replace_random_total_correlation,
    shuffle_accuracy,
    shuffle_joint,
    shuffle_step_bound,
    shuffle_total_correlation,
    step_bound,
    total_correlation,
)

DIGITS = 1e-6


def random_joint(seed, shape=(2, 3, 2, 2)):
    joint = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4
    return joint / joint.sum()


@pytest.mark.parametrize(("n", "bits"), [(3, 2.169925), (4, 3.415037), (6, 6.017922)])
def test_the_total_correlation_of_a_shuffle_is_the_published_one(n, bits):
    assert shuffle_total_correlation(n) == pytest.approx(bits, abs=DIGITS)
    assert total_correlation(shuffle_joint(n)) == pytest.approx(bits, abs=DIGITS)


@pytest.mark.parametrize(("n", "bits"), [(3, 2.243856), (6, 6.019885)])
def test_a_shuffle_that_must_differ_from_its_input_has_a_little_more_of_it(n, bits):
    assert shuffle_total_correlation(n, must_differ=True) == pytest.approx(bits, abs=DIGITS)
    assert total_correlation(shuffle_joint(n, must_differ=True)) == pytest.approx(bits, abs=DIGITS)


@pytest.mark.parametrize(("n", "bits"), [(3, 1.169925), (6, 1.315172)])
def test_the_total_correlation_of_a_replacement_is_the_published_one(n, bits):
    assert replace_random_total_correlation(n) == pytest.approx(bits, abs=DIGITS)
    assert total_correlation(replace_random_joint(n)) == pytest.approx(bits, abs=DIGITS)


def test_the_total_correlation_of_a_replacement_tends_to_log2_e():
    assert replace_random_total_correlation(10**6) == pytest.approx(1.442695, abs=1e-5)
    assert replace_random_total_correlation(1) == 0


@pytest.mark.parametrize(
    ("n", "k", "share"), [(4, 2, 0.375), (6, 2, 0.3125), (8, 2, 0.2734375), (4, 4, 0.09375), (6, 6, 0.0154321)]
)
def test_shuffle_accuracies_are_the_published_ones(n, k, share):
    assert shuffle_accuracy(n, k) == pytest.approx(share, abs=DIGITS)


@pytest.mark.parametrize("n", [3, 4, 6])
def test_replacing_is_right_by_the_published_rule(n):
    assert replace_random_accuracy(n, 1) == replace_random_accuracy(n, 1, 1) == 1
    assert replace_random_accuracy(n, n) == 0
    assert replace_random_accuracy(n, n, 1) == pytest.approx(((n - 1) / n) ** (n - 1))
    assert replace_random_accuracy(4, 4, 1) == pytest.approx(0.421875, abs=DIGITS)
    assert replace_random_accuracy(6, 2) == 0.5
    assert replace_random_accuracy(6, 3) == 0


@pytest.mark.parametrize(("n", "bits"), [(4, 1.415037), (6, 1.678072)])
def test_the_bound_of_two_items_at_a_time_is_the_published_one(n, bits):
    assert shuffle_step_bound(n, 2) == pytest.approx(bits, abs=DIGITS)
    pairs = [(at, at + 1) for at in range(0, n, 2)]
    assert step_bound(shuffle_joint(n), pairs) == pytest.approx(bits, abs=DIGITS)
    assert best_bound(shuffle_joint(n), n // 2) <= bits + DIGITS


def test_a_shuffle_in_three_steps_loses_least_with_large_steps_first():
    """k places at once cost log2(items left) each: six items as 3, 2, 1 are better than in pairs."""
    assert [len(step) for step in best_partition(shuffle_joint(6), 3)] == [3, 2, 1]
    assert best_bound(shuffle_joint(6), 3) == pytest.approx(3 * math.log2(6) + 2 * math.log2(3) - math.log2(720))


def test_one_at_a_time_loses_nothing_and_all_at_once_the_total_correlation():
    for seed in range(3):
        joint = random_joint(seed)
        assert step_bound(joint, [[2], [0], [3], [1]]) == pytest.approx(0, abs=1e-12)
        assert step_bound(joint, [[3, 1, 0, 2]]) == pytest.approx(total_correlation(joint))
        assert total_correlation(joint) > 0.01


def test_the_bound_is_the_divergence_of_sampling_from_the_true_marginals():
    joint = random_joint(5)
    first = joint.sum((2, 3))  # positions 0 and 1, then 2 and 3 given these
    apart = first.sum(1)[:, None] * first.sum(0)[None]
    then = joint / first[..., None, None]
    product = then.sum(3)[..., None] * then.sum(2)[..., None, :]
    decoded = apart[..., None, None] * product
    divergence = float((joint * (joint / decoded).log2()).sum())
    assert step_bound(joint, [(0, 1), (2, 3)]) == pytest.approx(divergence)


def test_more_steps_never_have_a_larger_best_bound():
    for seed in range(5):
        joint = random_joint(seed)
        bounds = [best_bound(joint, steps) for steps in range(1, 5)]
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(bounds))
        assert bounds[0] == pytest.approx(total_correlation(joint))
        assert bounds[-1] == pytest.approx(0, abs=1e-12)


def test_the_best_bound_is_that_of_the_best_of_all_partitions():
    joint = random_joint(7)
    everything = [
        step_bound(joint, [[at for at in range(4) if steps[at] == step] for step in range(2)])
        for steps in itertools.product(range(2), repeat=4)
        if 0 < sum(steps) < 4
    ]
    assert best_bound(joint, 2) == pytest.approx(min(everything))
    assert step_bound(joint, best_partition(joint, 2)) == pytest.approx(min(everything))


def test_independent_positions_cost_nothing_together():
    parts = [torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.9, 0.1])]
    joint = torch.einsum("a,b,c->abc", *parts)
    assert total_correlation(joint) == pytest.approx(0, abs=1e-6)


def test_what_is_no_distribution_or_partition_is_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        total_correlation(torch.ones(2, 2))
    with pytest.raises(ValueError, match="each of the 4 positions once"):
        step_bound(random_joint(0), [(0, 1), (1, 2, 3)])
    with pytest.raises(ValueError, match="steps must be between 1 and 4"):
        best_bound(random_joint(0), 5)
    with pytest.raises(ValueError, match="k must be between 1 and 4"):
        shuffle_accuracy(4, 5)
    with pytest.raises(ValueError, match="temperature"):
        replace_random_accuracy(4, 2, 0.5)
