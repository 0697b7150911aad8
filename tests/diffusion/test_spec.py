"""Properties that the methods' papers and released codes imply, on random canvases and by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import szilard
from szilard.diffusion.fill import fill
from szilard.diffusion.localleap import near
from szilard.diffusion.look import Look
from szilard.registry import methods
from tests.diffusion.tiny import EOS, MASK, PROMPTS, VOCAB, Table, tiny_engine

PROMPT = torch.zeros(1, 1, dtype=torch.long)
confidences = st.lists(st.floats(0.05, 0.999), min_size=1, max_size=24)


def first_look(method: Any, probabilities: list[float]) -> tuple[Look, torch.Tensor]:
    """The first look of a run, and what the rule chose."""
    found: list[tuple[Look, torch.Tensor]] = []

    class Kept(type(method)):  # type: ignore[misc]
        def chosen(self, state: Any, look: Look) -> torch.Tensor:
            chosen = super().chosen(state, look)
            found.append((look, chosen))
            return chosen

    kept = Kept(**method.options())
    model: Any = Table(probabilities)
    fill(model, PROMPT, kept, length=len(probabilities))
    return found[0]


def places(chosen: torch.Tensor) -> set[int]:
    return set(chosen[0].nonzero()[:, 0].tolist())


@settings(max_examples=40, deadline=None)
@given(confidences, st.integers(0, 6), st.floats(0.3, 0.9))
def test_localleap_commits_more_than_its_threshold_and_only_near_an_anchor(
    probabilities: list[float], radius: int, relaxed: float
) -> None:
    leap = szilard.LocalLeap(relaxed=relaxed, radius=radius, block_length=None)
    look, chosen = first_look(leap, probabilities)
    _, plain = first_look(szilard.ThresholdUnmask(block_length=None), probabilities)
    assert places(plain) <= places(chosen)
    wider = dataclasses.replace(leap, radius=radius + 1)
    looser = dataclasses.replace(leap, relaxed=relaxed - 0.1)
    assert places(chosen) <= places(first_look(wider, probabilities)[1])
    assert places(chosen) <= places(first_look(looser, probabilities)[1])
    sure = look.confidence[0]
    anchors = {place for place in range(len(probabilities)) if sure[place] >= 0.9}
    for place in places(chosen) - anchors - {int(sure.argmax())}:
        assert sure[place] >= relaxed
        assert any(abs(place - anchor) <= radius for anchor in anchors)


@settings(max_examples=40, deadline=None)
@given(confidences, st.floats(0.1, 3.0))
def test_factor_sets_obey_the_inequality(probabilities: list[float], factor: float) -> None:
    look, chosen = first_look(szilard.FactorUnmask(factor=factor, block_length=None), probabilities)
    count = int(chosen.sum())
    if count > 1:
        worst = float(look.confidence[chosen].min())
        assert (count + 1) * (1 - worst) < factor + 1e-9


def test_an_entropy_bound_of_zero_is_one_column_by_entropy() -> None:
    engine = tiny_engine()
    bound = engine.generate(PROMPTS, szilard.EntropyBound(gamma=0.0, block_length=8), max_new_tokens=20)
    single = engine.generate(PROMPTS, szilard.TopKUnmask(score="entropy", block_length=8), max_new_tokens=20)
    assert [one.tokens for one in bound] == [one.tokens for one in single]


def test_neighbours_are_found_by_column_where_columns_have_gaps() -> None:
    anchors = torch.tensor([[False, True, False, False]])
    packed = torch.tensor([[2, 5, 9, 10]])
    assert near(anchors, packed, 4).tolist() == [[True, True, True, False]]
    assert near(anchors, torch.arange(4)[None], 1).tolist() == [[True, True, True, False]]


def test_a_proposed_end_in_a_later_block_cuts_the_row_at_once() -> None:
    model: Any = Table([0.5, 0.5, 0.5, 0.5, 0.9, 0.5, 0.5, 0.5], [2, 3, 4, 5, EOS, 7, 8, 9])
    method = szilard.TopKUnmask(end_of_text="predicted", block_length=4)
    state = fill(model, PROMPT, method, length=8)
    assert state.generated_tokens() == [[2, 3, 4, 5, EOS]]
    (computed,) = state.cost.tokens.values()
    assert computed == 9 + 4 * 6  # one round over the whole canvas, then 1 + 5 columns
    assert state.cost.counters["columns_dropped"] == 3


@pytest.mark.parametrize("rule", ["confidence", "entropy", "margin", "left-to-right"])
def test_ends_come_last_whatever_ranks_them_and_keep_their_probability(rule: str) -> None:
    model: Any = Table([0.99, 0.5, 0.4], [EOS, 3, 4])
    state = fill(model, PROMPT, szilard.TopKUnmask(score=rule, eos="last"), length=3)
    assert int(state.round_of[0, 1]) == 3
    assert float(state.probability_of[0, 1]) == pytest.approx(0.99, abs=1e-6)


def test_rules_of_the_end_need_an_end() -> None:
    engine = tiny_engine(eos=None)
    with pytest.raises(ValueError, match="no end-of-text token"):
        engine.generate("w5", szilard.TopKUnmask(end_of_text="committed"))


def test_the_linear_schedule_counts_all_masks_under_a_window() -> None:
    engine = tiny_engine(eos=None)
    rule = szilard.ScheduleUnmask(steps=8, rule="linear", block_length=None, epsilon=0.0)
    window = szilard.WindowDiffusion(external=32, internal=16, refresh=32)
    result = engine.generate(PROMPTS[0], rule, attention=window, max_new_tokens=32)
    assert torch.bincount(torch.tensor(result.trace["round"].tolist()))[1:].tolist() == [4] * 8


def test_a_block_of_four_is_revised_too() -> None:
    model: Any = Table([0.2, 0.3, 0.4, 0.5])
    state = fill(model, PROMPT, szilard.TopKUnmask(k=4, revise=1, block_length=4), length=4)
    assert state.rounds.tolist() == [2]
    assert state.cost.counters["remasked"] == 1


@pytest.mark.parametrize("scope", ["full", "pruned"])
def test_a_window_over_everything_is_no_window_where_nothing_goes_stale(scope: str) -> None:
    engine = tiny_engine(layers=1, eos=None)
    rule = szilard.TopKUnmask(block_length=None, score="left-to-right")
    window = szilard.WindowDiffusion(external=64, internal=64, refresh=4, refresh_scope=scope)
    plain = [one.tokens for one in engine.generate(PROMPTS, rule, max_new_tokens=16)]
    assert [one.tokens for one in engine.generate(PROMPTS, rule, attention=window, max_new_tokens=16)] == plain


def test_a_pruned_batch_is_its_rows_alone() -> None:
    engine = tiny_engine(eos=None)
    rule = szilard.ThresholdUnmask(threshold=0.3, block_length=None)
    window = szilard.WindowDiffusion(external=10, internal=4, refresh=4, refresh_scope="pruned")
    together = [one.tokens for one in engine.generate(PROMPTS, rule, attention=window, max_new_tokens=20)]
    alone = [engine.generate(one, rule, attention=window, max_new_tokens=20).tokens for one in PROMPTS]
    assert together == alone


def test_the_window_s_sets_are_those_of_the_hand_example() -> None:
    # Columns 0..15, masks 4..9 and 11..15; the first round commits 5. Then A = {4, 5, 6, 7} and W = {0..11}; the next
    # round commits 6, and A = {4, 6, 7, 8}.
    from szilard.diffusion.cache import CacheRun

    engine = tiny_engine(eos=None)
    tokens = [MASK if 4 <= column <= 9 or column >= 11 else 2 + column for column in range(16)]
    policy = szilard.WindowDiffusion(external=6, internal=3, refresh=8)
    plans: list[tuple[set[int], set[int]]] = []

    @dataclasses.dataclass(frozen=True)
    class Watched(szilard.WindowDiffusion):
        def open(self, state: Any) -> CacheRun:
            run = super().open(state)
            made = run.plan

            def plan(*arguments: Any) -> Any:
                found = made(*arguments)
                visible = set(found.visible[0].nonzero()[:, 0].tolist())
                plans.append((set(found.computed[0].tolist()), visible))
                return found

            run.plan = plan  # type: ignore[method-assign]
            return run

    class Chooses(type(szilard.TopKUnmask())):  # type: ignore[misc]
        def select(self, look: Look) -> torch.Tensor:
            return look.open & (look.columns == {1: 5, 2: 6}.get(int(look.state.rounds[0]), -1))

    watched = Watched(**policy.options())
    fill(
        engine.canvas_model, torch.tensor([tokens[:1]]), Chooses(block_length=None), answers=[tokens[1:]], cache=watched
    )
    assert plans[0] == ({4, 5, 6, 7}, set(range(12)))
    assert plans[1] == ({4, 6, 7, 8}, set(range(12)))


@pytest.mark.parametrize("cache", ["prefix-cache", "dual-cache", "window-diffusion"])
def test_rows_that_are_cut_at_different_columns_are_as_alone(cache: str) -> None:
    engine = tiny_engine(seed=3)
    rule = szilard.ThresholdUnmask(threshold=0.3, block_length=8, end_of_text="committed")
    made = methods()[cache].cls()
    prompts = [torch.tensor([number, number + 1, number + 7]) for number in range(2, 20, 3)]
    together = engine.generate(prompts, rule, attention=made, max_new_tokens=24)
    alone = [engine.generate(prompt, rule, attention=made, max_new_tokens=24) for prompt in prompts]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert len({len(one.tokens) for one in together}) > 1


def test_guidance_under_a_cache_that_is_renewed_for_every_column_is_that_without() -> None:
    engine = tiny_engine(eos=None)
    rule = szilard.TopKUnmask(block_length=1, guidance=0.7)
    plain = [one.tokens for one in engine.generate(PROMPTS, rule, max_new_tokens=10)]
    assert [one.tokens for one in engine.generate(PROMPTS, rule, attention="dual-cache", max_new_tokens=10)] == plain


def test_learn2pd_is_not_run_on_parts_of_blocks() -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match="every column of a block"):
        engine.generate("w5", szilard.Learn2PD.neutral(), attention="window-diffusion")


def test_branches_keep_the_token_after_which_most_becomes_sure() -> None:
    class Fork(Table):
        """Place 0 is a coin; after token 3 all others are certain, after token 2 none."""

        def predict(self, tokens: torch.Tensor, real: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            logits = super().predict(tokens, real, wanted)
            sure = torch.full((VOCAB,), -20.0, dtype=torch.float64)
            sure[7] = 0.0
            logits[(tokens[:, 1] == 3)[:, None] & (wanted > 1)] = sure
            coin = torch.full((VOCAB,), -20.0, dtype=torch.float64)
            coin[2], coin[3] = 0.1, 0.0
            logits[wanted == 1] = coin
            return logits

    model: Any = Fork([0.5, 0.55, 0.55, 0.55], [2, 4, 5, 6])
    rule = szilard.Ete(branches=2, among_first=1, block_length=None)
    state = fill(model, PROMPT, rule, length=4)
    assert state.generated_tokens() == [[3, 7, 7, 7]]
    assert state.rounds.tolist() == [2]


def test_a_template_is_measured_against_the_context() -> None:
    engine = tiny_engine(eos=None)
    assert len(engine.generate("w5 " * 250, template="[MASK] w3", raw=True).tokens) == 2
    with pytest.raises(ValueError, match="context window"):
        engine.generate("w5 " * 10, template="[MASK] " * 250)
