"""The rules of which columns to commit, on canvases whose probabilities are given."""

from __future__ import annotations

import pytest
import torch

import szilard
from szilard.diffusion.bits import bits_of_rows, rounds_lower_bound
from szilard.diffusion.fill import fill
from szilard.diffusion.method import DiffusionMethod
from szilard.diffusion.state import DenoisingState
from tests.diffusion.tiny import EOS, MASK, VOCAB, Table

HAND = [0.50, 0.78, 0.95, 0.74, 0.76, 0.30, 0.80, 0.79, 0.92, 0.30, 0.30, 0.30, 0.77, 0.89, 0.60]
HAND_OPEN = [0, 1, 2, 3, 4, 6, 7, 8, 12, 13, 14]  # the others are visible


def run(method: DiffusionMethod, probabilities: list[float], **options: object) -> DenoisingState:
    model = Table(probabilities)
    prompts = torch.zeros(1, 1, dtype=torch.long)
    return fill(model, prompts, method, length=None if "answers" in options else len(probabilities), **options)  # type: ignore[arg-type]


def first_round(method: DiffusionMethod, probabilities: list[float], open_: list[int] | None = None) -> set[int]:
    """Places that the first round commits."""
    places = range(len(probabilities)) if open_ is None else open_
    answer = [MASK if place in places else 50 for place in range(len(probabilities))]
    state = run(method, probabilities, answers=[answer])
    return set((state.round_of[0, 1:] == 1).nonzero()[:, 0].tolist())


@pytest.mark.parametrize(
    ("radius", "expected"), [(4, {1, 2, 4, 6, 7, 8, 12}), (1, {1, 2, 7, 8}), (0, {2, 8})], ids=["4", "1", "0"]
)
def test_localleap_commits_the_hand_example(radius: int, expected: set[int]) -> None:
    assert first_round(szilard.LocalLeap(radius=radius), HAND, HAND_OPEN) == expected


def test_localleap_without_an_anchor_commits_one_column() -> None:
    assert first_round(szilard.LocalLeap(), [0.5, 0.89, 0.85]) == {1}


def test_localleap_with_a_wide_radius_is_the_looser_threshold_once_there_is_an_anchor() -> None:
    loose = first_round(szilard.ThresholdUnmask(threshold=0.75), HAND, HAND_OPEN)
    assert first_round(szilard.LocalLeap(radius=40), HAND, HAND_OPEN) == loose


@pytest.mark.parametrize(
    "method", [szilard.LocalLeap(radius=0), szilard.LocalLeap(relaxed=None), szilard.LocalLeap(relaxed=0.9)]
)
def test_localleap_without_leaps_is_the_threshold(method: DiffusionMethod) -> None:
    assert first_round(method, HAND, HAND_OPEN) == first_round(szilard.ThresholdUnmask(threshold=0.9), HAND, HAND_OPEN)


def test_a_looser_threshold_than_the_anchor_is_required() -> None:
    with pytest.raises(ValueError, match="stricter than anchor"):
        szilard.LocalLeap(relaxed=0.95)


def test_factor_counts_as_the_paper_says() -> None:
    # n = 3: 4 (1 - .9) = .4 < 1; n = 4: 5 (1 - .6) = 2: no. The released code takes all four.
    assert first_round(szilard.FactorUnmask(factor=1.0), [0.99, 0.95, 0.9, 0.6]) == {0, 1, 2}


def test_factor_takes_one_column_where_even_that_breaks_the_rule() -> None:
    assert first_round(szilard.FactorUnmask(factor=1.0), [0.3, 0.4]) == {1}


def test_entropy_bound_of_zero_commits_one_uncertain_column_per_round() -> None:
    state = run(szilard.EntropyBound(gamma=0.0), [0.9, 0.8, 0.7])
    assert state.rounds.tolist() == [3]


def test_entropy_bound_adds_up_all_but_the_greatest_entropy() -> None:
    probabilities = [0.9, 0.8, 0.7]
    entropies = [
        -(p * torch.tensor(p).log() + (1 - p) * torch.tensor((1 - p) / (VOCAB - 2)).log()) for p in probabilities
    ]
    two = float(entropies[0])  # of the two surest, the greater one is free
    assert first_round(szilard.EntropyBound(gamma=two + 1e-6), probabilities) == {0, 1}
    assert first_round(szilard.EntropyBound(gamma=two - 1e-6), probabilities) == {0}


@pytest.mark.parametrize(
    "method",
    [
        szilard.ThresholdUnmask(threshold=0.0),
        szilard.FactorUnmask(factor=1e9),
        szilard.EntropyBound(gamma=float("inf")),
    ],
    ids=["threshold", "factor", "entropy-bound"],
)
def test_a_rule_without_bound_takes_one_round_per_block(method: DiffusionMethod) -> None:
    import dataclasses

    state = run(dataclasses.replace(method, block_length=4), [0.2] * 10)
    assert state.rounds.tolist() == [3]


def test_top_k_takes_the_counted_rounds() -> None:
    state = run(szilard.TopKUnmask(k=3, block_length=8), [0.1 + 0.01 * place for place in range(16)])
    assert state.rounds.tolist() == [6]  # ceil(8 / 3) of two blocks


@pytest.mark.parametrize("score", ["confidence", "margin", "entropy", "random", "left-to-right"])
def test_every_score_commits_every_column_once(score: str) -> None:
    state = run(szilard.TopKUnmask(score=score, block_length=None), [0.1 + 0.05 * place for place in range(10)])
    order = state.round_of[0, 1:].tolist()
    assert sorted(order) == list(range(1, 11))
    if score == "left-to-right":
        assert order == list(range(1, 11))


def test_the_even_schedule_is_llada_s() -> None:
    state = run(szilard.ScheduleUnmask(steps=7, block_length=None), [0.1 + 0.02 * place for place in range(32)])
    counts = torch.bincount(state.round_of[0, 1:])[1:].tolist()
    assert counts == [5, 5, 5, 5, 4, 4, 4]


def test_the_linear_schedule_leaves_nothing_and_wastes_no_round() -> None:
    state = run(szilard.ScheduleUnmask(steps=8, rule="linear", block_length=None), [0.3] * 20)
    assert int(state.rounds[0]) <= 8
    assert not state.masked.any()


@pytest.mark.parametrize(("steps", "reason"), [(17, "more than the answer's 16"), (1, "cannot fill 2 blocks")])
def test_a_schedule_that_does_not_fit_is_refused(steps: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        run(szilard.ScheduleUnmask(steps=steps, block_length=8), [0.3] * 16)


def test_a_block_that_does_not_divide_leaves_a_shorter_one() -> None:
    state = run(szilard.ThresholdUnmask(threshold=0.0, block_length=6), [0.5] * 16)
    assert state.rounds.tolist() == [3]


# ---- ends ------------------------------------------------------------------------------------------------------------


def ended(rule: str, places: list[int], probabilities: list[float], **options: object) -> DenoisingState:
    tokens = [EOS if place in places else 2 + place for place in range(len(probabilities))]
    method = szilard.TopKUnmask(end_of_text=rule, **options)
    return fill(Table(probabilities, tokens), torch.zeros(1, 1, dtype=torch.long), method, length=len(probabilities))  # type: ignore[arg-type]


def test_all_columns_are_filled_unless_an_end_counts() -> None:
    state = ended("keep", [3], [0.5] * 8)
    assert state.rounds.tolist() == [8]
    assert state.generated_tokens() == [[2, 3, 4, EOS]]


def test_a_committed_end_drops_what_is_behind_it() -> None:
    state = ended("committed", [3], [0.5, 0.5, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5])
    assert state.rounds.tolist() == [4]
    assert state.generated_tokens() == [[2, 3, 4, EOS]]
    assert state.cost.counters["columns_dropped"] == 4


def test_a_proposed_end_drops_what_is_behind_it_under_the_released_rule() -> None:
    state = ended("predicted", [3], [0.9, 0.5, 0.5, 0.6, 0.5, 0.5, 0.5, 0.5])
    assert state.rounds.tolist() == [4]


def test_an_end_in_a_finished_block_ends_the_row() -> None:
    state = ended("block", [2], [0.5] * 12, block_length=4)
    assert state.rounds.tolist() == [4]
    assert state.generated_tokens() == [[2, 3, EOS]]


def test_ends_can_be_forbidden_or_come_last() -> None:
    tokens = szilard.TopKUnmask(eos="forbid")
    state = fill(Table([0.9] * 4, [EOS] * 4), torch.zeros(1, 1, dtype=torch.long), tokens, length=4)  # type: ignore[arg-type]
    assert EOS not in state.generated_tokens()[0]
    state = ended("keep", [0], [0.99, 0.5, 0.4], eos="last")
    assert state.round_of[0, 1:].tolist() == [3, 1, 2]


def test_the_least_sure_columns_can_be_opened_once_more() -> None:
    state = run(szilard.TopKUnmask(revise=1, block_length=8), [0.2 + 0.05 * place for place in range(8)])
    assert state.cost.counters["remasked"] == 1
    assert state.rounds.tolist() == [9]


# ---- bits ------------------------------------------------------------------------------------------------------------


def test_bits_of_rounds_add_up_to_the_probability_of_the_sample() -> None:
    probabilities = [0.5, 0.25, 0.125, 0.9]
    state = run(szilard.ThresholdUnmask(threshold=0.4), probabilities)
    (bits,) = bits_of_rows(state)
    assert sum(bits) == pytest.approx(-torch.tensor(probabilities).log2().sum().item(), rel=1e-6)
    assert len(bits) == int(state.rounds[0]) >= rounds_lower_bound(sum(bits), max(bits))


def test_the_bound_on_rounds_is_that_of_the_formula() -> None:
    assert rounds_lower_bound(9.5, 4.9) == 2
    assert rounds_lower_bound(0.0, 0.0) == 0
    with pytest.raises(ValueError, match="cannot come in rounds"):
        rounds_lower_bound(1.0, 0.0)


# ---- exploring -------------------------------------------------------------------------------------------------------


def test_ete_explores_the_most_uncertain_column_beside_the_certain_ones() -> None:
    assert first_round(szilard.Ete(), [0.95, 0.5, 0.2, 0.92]) == {0, 2, 3}


def test_ete_explores_only_when_nothing_is_certain_under_the_trigger_stalled() -> None:
    assert first_round(szilard.Ete(trigger="stalled"), [0.95, 0.5, 0.2]) == {0}
    assert first_round(szilard.Ete(trigger="stalled"), [0.85, 0.5, 0.2]) == {2}


def test_ete_without_exploring_and_looking_ahead_is_the_threshold() -> None:
    quiet = szilard.Ete(explore_per_round=0, horizon=0, block_length=4)
    plain = szilard.ThresholdUnmask(block_length=4)
    assert torch.equal(run(quiet, HAND).round_of, run(plain, HAND).round_of)


def test_ete_commits_in_blocks_ahead_what_is_certain_there() -> None:
    probabilities = [0.5, 0.5, 0.95, 0.5, 0.5, 0.95]
    assert first_round(szilard.Ete(block_length=2, horizon=1, explore_per_round=0), probabilities) == {2}
    assert first_round(szilard.Ete(block_length=2, horizon=None, explore_per_round=0), probabilities) == {2, 5}


def test_ete_keeps_explored_columns_apart() -> None:
    method = szilard.Ete(explore_per_round=2, separation=3)
    assert first_round(method, [0.2, 0.21, 0.22, 0.5, 0.6]) == {0, 3}


def test_ete_does_not_fill_blocks_ahead_with_ends() -> None:
    tokens = [2, 3, EOS, EOS]
    method = szilard.Ete(block_length=2, horizon=1, explore_per_round=0)
    state = fill(Table([0.5, 0.5, 0.99, 0.99], tokens), torch.zeros(1, 1, dtype=torch.long), method, length=4)  # type: ignore[arg-type]
    assert state.round_of[0, 3:].min() > 1
