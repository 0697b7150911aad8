"""Rules on true conditional distributions: what is wrong there is the rule's own doing."""

from __future__ import annotations

import pytest
import torch

import szilard
from szilard.diffusion.bits import bits_of_rows
from szilard.diffusion.fill import fill
from szilard.diffusion.method import DiffusionMethod
from szilard.diffusion.state import DenoisingState
from szilard.evaluation.parallelbench import (
    FIRST_NAMES,
    ExactTaskModel,
    make_task,
    replace_random_accuracy,
    shuffle_accuracy,
)
from szilard.evaluation.parallelbench.lists import ARROW

RUNS = 200
WHOLE = {"block_length": None}
THRESHOLD, BOUND, LEAP = (
    szilard.ThresholdUnmask(**WHOLE),
    szilard.EntropyBound(gamma=0.0, **WHOLE),
    szilard.LocalLeap(**WHOLE),
)
ETE, STALLED = szilard.Ete(**WHOLE), szilard.Ete(trigger="stalled", **WHOLE)


def prompt_of(model: ExactTaskModel, n: int) -> torch.Tensor:
    if not model.task.places:
        return model.encode(f"{model.task.name} {ARROW}")
    (sample,) = make_task(model.task.name, n=n, num_samples=1, compact=True, words=FIRST_NAMES)
    return model.encode(sample.prompt)


def run(
    task: str, n: int, method: DiffusionMethod, temperature: float = 0.0, runs: int = RUNS
) -> tuple[DenoisingState, float]:
    """The filled canvases, and how many of them are right."""
    model = ExactTaskModel(task, n, tie_noise=1e-3)
    prompts = prompt_of(model, n)[None].expand(runs, -1)
    draws = torch.Generator().manual_seed(0)
    state = fill(model, prompts, method, length=model.answer_length, temperature=temperature, generator=draws)
    canvases = torch.cat([prompts, torch.tensor(state.generated_tokens())], 1)
    right = model.is_right(canvases, torch.ones_like(canvases, dtype=torch.bool))
    return state, float(right.float().mean())


@pytest.mark.parametrize(
    ("task", "n", "temperature", "bits", "rounds"),
    [
        ("names_shuffle", 5, 0.0, 6.907, {THRESHOLD: 8, BOUND: 5, LEAP: 8, ETE: 5, STALLED: 8}),
        ("key_bits", 3, 0.0, 3.0, {THRESHOLD: 4, BOUND: 4, LEAP: 4, ETE: 2, STALLED: 2}),
        ("two_key_bits", 3, 1.0, 6.0, {THRESHOLD: 8, BOUND: 7, LEAP: 8, ETE: 3, STALLED: 4}),
        ("shuffle", 6, 0.0, 9.492, {THRESHOLD: 6, BOUND: 6, LEAP: 6, ETE: 6, STALLED: 6}),
    ],
)
def test_rounds_where_the_information_is_known(
    task: str, n: int, temperature: float, bits: float, rounds: dict[DiffusionMethod, int]
) -> None:
    for method, expected in rounds.items():
        state, right = run(task, n, method, temperature)
        assert right == 1.0
        assert float(state.rounds.float().mean()) == pytest.approx(expected, abs=0.05), str(method)
        spent = bits_of_rows(state)
        assert sum(map(sum, spent)) / RUNS == pytest.approx(bits, abs=0.02)
        assert all(len(row) >= sum(row) / max(row) - 1e-6 for row in spent)


def test_two_explored_columns_of_one_group_break_it_and_of_two_groups_do_not() -> None:
    two = szilard.Ete(explore_per_round=2, **WHOLE)
    assert run("key_bits", 3, two)[1] == pytest.approx(0.5, abs=0.12)
    state, right = run("two_key_bits", 3, two, 1.0)
    assert (right, float(state.rounds.float().mean())) == (1.0, 2.0)


def test_branches_end_where_the_plain_rule_ends() -> None:
    state, right = run("names_shuffle", 5, szilard.Ete(branches=3, **WHOLE))
    assert (right, float(state.rounds.float().mean())) == (1.0, 5.0)
    assert state.cost.counters["row_rounds"] > RUNS * 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("n", [4, 6])
def test_shuffles_by_two_break_as_often_as_the_formula_says(n: int, temperature: float) -> None:
    method = szilard.TopKUnmask(k=2, score="random" if temperature else "confidence", **WHOLE)
    expected = shuffle_accuracy(n, 2)
    _, right = run("shuffle", n, method, temperature, runs=2000)
    assert right == pytest.approx(expected, abs=3 * (expected * (1 - expected) / 2000) ** 0.5)


def test_replacing_at_once_breaks_as_often_as_the_formula_says() -> None:
    expected = replace_random_accuracy(4, 4, 1.0)
    _, right = run("replace_random", 4, szilard.TopKUnmask(k=4, **WHOLE), 1.0, runs=2000)
    assert right == pytest.approx(expected, abs=3 * (expected * (1 - expected) / 2000) ** 0.5)


def test_a_threshold_below_what_keeping_has_never_replaces_and_one_above_always_does() -> None:
    below, right = run("replace_random", 4, szilard.ThresholdUnmask(threshold=0.74, **WHOLE))
    assert (right, below.rounds.max()) == (0.0, 1)
    _, right = run("replace_random", 4, szilard.ThresholdUnmask(threshold=0.76, **WHOLE))
    assert right == 1.0
    state, right = run("shuffle", 4, szilard.ThresholdUnmask(threshold=0.51, **WHOLE))
    assert (right, float(state.rounds.float().mean())) == (1.0, 4.0)
