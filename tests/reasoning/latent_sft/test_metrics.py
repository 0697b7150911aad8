"""ECR and N_eff against their definitions and bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.reasoning.latent_sft.metrics import cut_evenly, effective_compression_rate, effective_global_parallelism


def test_a_chain_is_cut_as_evenly_as_it_can_be():
    assert cut_evenly([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert cut_evenly([1, 2], 3) == [[], [1], [2]]


def test_an_explicit_chain_covers_one_token_per_step():
    chain = [5, 3, 9, 9]
    assert effective_compression_rate(torch.tensor(chain)[:, None], chain, 1) == 1.0


def test_steps_that_hold_their_whole_chunk_reach_its_length_and_others_nothing():
    likeliest = torch.tensor([[1, 2, 50], [4, 3, 51]])
    assert effective_compression_rate(likeliest, [1, 2, 3, 4], 2) == 2.0
    assert effective_compression_rate(likeliest, [1, 2, 3, 4], 1) == 1.0
    assert effective_compression_rate(likeliest, [3, 4, 1, 2], 3) == 0.0
    assert effective_compression_rate(likeliest, [1, 1, 3, 3], 2) == 2.0  # a repeated token counts each time
    assert math.isnan(effective_compression_rate(likeliest[:0], [1], 1))


def uniform(steps, vocabulary=12):
    ids = torch.arange(vocabulary).expand(steps, -1)
    return ids, torch.full((steps, vocabulary), 1 / vocabulary)


def test_paths_that_are_equally_likely_all_count_and_one_that_rules_counts_alone():
    ids, shares = uniform(3)
    paths = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    found = effective_global_parallelism(ids, shares, paths)
    assert found.effective == pytest.approx(4) and found.top_2 == pytest.approx(1)
    one = torch.zeros(3, 12)
    one[torch.arange(3), torch.arange(3)] = 1
    found = effective_global_parallelism(ids, one, paths)
    assert found.effective == pytest.approx(1, abs=1e-6) and found.top_2 == pytest.approx(0, abs=1e-6)
    assert effective_global_parallelism(ids, shares, paths[:1]).effective == 1.0


def test_a_part_counts_its_ids_as_often_as_it_has_them_among_the_likeliest_alone():
    ids, shares = torch.tensor([[1, 2, 3]]), torch.tensor([[0.5, 0.3, 0.2]])
    found = effective_global_parallelism(ids, shares, [[1, 1], [2, 3]])
    assert torch.allclose(found.posterior, torch.tensor([1.0, 0.5], dtype=torch.float64) / 1.5)
    found = effective_global_parallelism(ids, shares, [[1, 1], [2, 3]], topk=2)
    assert torch.allclose(found.posterior, torch.tensor([1.0, 0.3], dtype=torch.float64) / 1.3, atol=1e-6)


def test_a_path_in_another_order_is_found_by_matching_the_nearest_part():
    one = torch.zeros(2, 12)
    one[0, 4], one[1, 3] = 1, 1
    ids = torch.arange(12).expand(2, -1)
    shares, order = one.sort(dim=1, descending=True)
    ids = ids.gather(1, order)
    in_order = effective_global_parallelism(ids, shares, [[3, 4], [4, 3]])
    nearest = effective_global_parallelism(ids, shares, [[3, 4], [4, 3]], embeddings=torch.eye(12))
    assert in_order.effective == pytest.approx(1, abs=1e-6) and nearest.effective == pytest.approx(2)
    same = [(torch.eye(2), torch.eye(2).flip(0)), (torch.eye(2), torch.eye(2))]
    given = effective_global_parallelism(ids, shares, [[3, 4], [4, 3]], segments=same)
    assert given.effective == pytest.approx(2)
    naive = effective_global_parallelism(ids, shares, [[3, 4], [4, 3]], matchings=64)
    assert naive.naive == pytest.approx(1.5, abs=0.2) and naive.normalised == pytest.approx(1 / naive.naive)
    again = effective_global_parallelism(ids, shares, [[3, 4], [4, 3]], matchings=64)
    assert again.naive == naive.naive


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**20))
def test_the_number_of_paths_is_between_one_and_all(steps, count, seed):
    generator = torch.Generator().manual_seed(seed)
    shares, ids = torch.rand(steps, 20, generator=generator).softmax(-1).sort(descending=True)
    paths = torch.randint(0, 20, (count, 7), generator=generator).tolist()
    for extra in ({}, {"embeddings": torch.randn(20, 4, generator=generator)}, {"temperature": 0.1}):
        found = effective_global_parallelism(ids, shares, paths, matchings=3, **extra)
        assert 1 - 1e-9 <= found.effective <= count + 1e-9 and 1 - 1e-9 <= found.naive <= count + 1e-9
        assert 0 <= found.top_2 <= 1 and float(found.posterior.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: effective_compression_rate(torch.zeros(2, 3), [1], 4), "at least 4"),
        (lambda: effective_global_parallelism(torch.zeros(0, 3), torch.zeros(0, 3), [[1]]), "at least one step"),
        (lambda: effective_global_parallelism(torch.zeros(2, 3), torch.zeros(2, 3), []), "at least one reference"),
        (
            lambda: effective_global_parallelism(
                torch.zeros(2, 3), torch.zeros(2, 3), [[1]], segments=[(torch.zeros(1, 2), torch.zeros(2, 2))]
            ),
            "segments must hold 2 parts",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(call, error):
    with pytest.raises(ValueError, match=error):
        call()


def test_a_rate_cuts_as_the_training_does_and_the_next_part_can_be_asked_for():
    chain = [11, 12, 13, 14, 15]  # 11 12 | 13 14 | 15
    own = torch.tensor([[11, 12], [13, 99], [15, 99]])
    assert effective_compression_rate(own, chain, 2, rate=2) == pytest.approx((2 + 1 + 1) / 3)
    assert effective_compression_rate(own, chain, 2, rate=2, ahead=1) == 0
    leading = torch.tensor([[13, 14], [15, 99], [7, 8]])
    assert effective_compression_rate(leading, chain, 2, rate=2, ahead=1) == pytest.approx((2 + 1) / 2)
    assert math.isnan(effective_compression_rate(leading[:1], chain, 2, rate=2, ahead=1))
