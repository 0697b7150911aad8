"""What holds for every rule that fills a canvas, and for every canvas cache, by being in the registry."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from functools import cache
from typing import Any

import pytest
import torch

import szilard
from szilard.diffusion.engine import DiffusionEngine
from szilard.diffusion.fill import fill
from szilard.diffusion.method import DiffusionMethod
from szilard.diffusion.state import DenoisingState
from szilard.registry import Entry
from tests.diffusion.tiny import MASK, PROMPTS, tiny_engine

ENTRIES = {slug: entry for slug, entry in szilard.methods().items() if "denoising" in entry.needs}
RULES = tuple(slug for slug, entry in ENTRIES.items() if entry.kind == "method")
CACHES = tuple(slug for slug, entry in ENTRIES.items() if entry.kind == "attention")
LENGTH, BLOCK = 14, 6  # a shorter last block, too
SMALL = {"window-diffusion": {"external": 8, "internal": 3, "refresh": 3}}  # settings that act on a few columns


@cache
def engine() -> DiffusionEngine:
    """Without an end of text, so that every answer has all its columns."""
    return tiny_engine(eos=None, layers=2)


PAIRS = [
    (slug, under)
    for slug in RULES
    for under in (None, *CACHES)
    if under is None or ENTRIES[under].cls.whole_blocks or not ENTRIES[slug].cls.reads_whole_blocks
]


def is_ready(entry: Entry) -> bool:
    """Whether the defaults run without a part that is trained for a model."""
    try:
        entry.cls().check(engine())
    except ValueError:
        return False
    return True


def rule(slug: str, **options: Any) -> DiffusionMethod:
    """A rule that commits several columns per round on the tiny model; where a trained part is missing, the neutral."""
    entry = ENTRIES[slug]
    fields = {field.name for field in dataclasses.fields(entry.cls)}
    made = entry.cls() if is_ready(entry) else entry.neutral()
    settings: dict[str, Any] = {"block_length": BLOCK} | options
    if is_ready(entry):
        settings |= {name: 0.3 for name in ("threshold", "anchor") if name in fields}
        settings |= {"relaxed": 0.1} if "relaxed" in fields else {}
        settings |= {"k": 2} if "k" in fields else {}
    return dataclasses.replace(made, **settings)


def small_cache(slug: str) -> Any:
    return szilard.make_attention(slug, SMALL.get(slug))


def answers(method: DiffusionMethod, under: Any = None, **options: Any) -> list[list[int]]:
    results = engine().generate(PROMPTS, method, attention=under, max_new_tokens=LENGTH, trace=False, **options)
    return [result.tokens for result in results]


def filled(method: DiffusionMethod, **options: Any) -> DenoisingState:
    prompts = torch.stack([PROMPTS[0], PROMPTS[0].flip(0)])
    return fill(engine().canvas_model, prompts, method, length=LENGTH, **options)


@pytest.mark.parametrize("slug", RULES)
def test_the_neutral_setting_is_one_column_per_round_token_for_token(slug: str) -> None:
    neutral = dataclasses.replace(ENTRIES[slug].neutral(), block_length=BLOCK)
    assert answers(neutral) == answers(szilard.TopKUnmask(block_length=BLOCK))
    assert filled(neutral).rounds.tolist() == [LENGTH, LENGTH]


@pytest.mark.parametrize("slug", CACHES)
def test_a_neutral_cache_changes_no_token(slug: str) -> None:
    method = rule("threshold-unmask")
    assert answers(method, ENTRIES[slug].neutral()) == answers(method)


@pytest.mark.parametrize(("slug", "under"), PAIRS)
def test_a_left_padded_batch_gives_each_row_what_it_gets_alone(slug: str, under: str | None) -> None:
    method, policy = rule(slug), small_cache(under) if under else None
    together = answers(method, policy)
    alone = [engine().generate(p, method, attention=policy, max_new_tokens=LENGTH, trace=False) for p in PROMPTS]
    assert together == [result.tokens for result in alone]
    assert all(len(row) == LENGTH and MASK not in row for row in together)


@pytest.mark.parametrize("slug", RULES)
def test_no_mask_is_left_and_what_is_visible_never_changes(slug: str) -> None:
    seen: list[torch.Tensor] = []
    state = filled(rule(slug), watch=lambda state: seen.append(state.tokens.clone()))
    assert not bool(state.masked.any()) and state.done
    assert not bool((state.tokens == MASK).any())
    for before, after in itertools.pairwise(seen):
        visible = before != MASK
        assert torch.equal(after[visible], before[visible])


@pytest.mark.parametrize(("slug", "under"), PAIRS)
def test_counts_are_those_of_the_rounds_and_the_same_every_time(slug: str, under: str | None) -> None:
    policy = small_cache(under) if under else None
    first, again = (filled(rule(slug), cache=policy) for _ in range(2))
    cost = first.cost
    assert cost.counters["row_rounds"] == int(first.rounds.sum())
    assert torch.equal(first.round_of.max(1).values, first.rounds)  # no round without a column
    assert cost.generated_tokens == 2 * LENGTH
    hidden = {"wall_seconds", "tokens_per_second"}
    counts = [{k: v for k, v in one.cost.to_dict().items() if k not in hidden} for one in (first, again)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("slug", RULES)
def test_the_trace_tells_round_entropy_and_probability_of_every_token(slug: str) -> None:
    result = engine().generate(PROMPTS[0], rule(slug), max_new_tokens=LENGTH)
    trace = result.trace
    assert trace["token"].tolist() == result.tokens and len(trace) == LENGTH
    assert set(trace["round"].tolist()) == set(range(1, result.cost.total_forward_passes + 1))
    assert (trace["entropy"] >= 0).all() and (trace["probability"] > 0).all() and (trace["probability"] <= 1).all()


@pytest.mark.parametrize("slug", RULES)
def test_a_sampled_run_is_repeatable_with_a_seed(slug: str) -> None:
    drawn = {"do_sample": True, "temperature": 1.5}
    first, again, other = (answers(rule(slug), seed=seed, **drawn) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("slug", ENTRIES)
def test_every_numeric_option_refuses_what_it_cannot_be_in_one_sentence(slug: str) -> None:
    cls = ENTRIES[slug].cls
    for field in dataclasses.fields(cls):
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            for wrong in ("many", float("nan")):
                with pytest.raises((TypeError, ValueError), match=f"^{field.name} must be .*[.]$"):
                    cls(**{field.name: wrong})


@pytest.mark.parametrize("slug", ENTRIES)
def test_an_unknown_option_and_a_wrong_word_are_refused(slug: str) -> None:
    make = szilard.make_method if slug in RULES else szilard.make_attention
    with pytest.raises(ValueError, match="has no option 'colour'"):
        make(slug, {"colour": "red"})
    if slug in RULES:
        with pytest.raises(ValueError, match="end_of_text must be one of"):
            make(slug, {"end_of_text": "never"})


@pytest.mark.parametrize("slug", ENTRIES)
def test_it_is_a_frozen_dataclass_whose_fields_are_documented(slug: str) -> None:
    entry = ENTRIES[slug]
    assert entry.slug == slug and entry.paper and entry.family in {"diffusion", "canvas cache"}
    assert isinstance(entry.neutral(), entry.cls) and entry.cls.__dataclass_params__.frozen
    documented = "".join(inspect.getdoc(cls) or "" for cls in entry.cls.__mro__)
    for field in dataclasses.fields(entry.cls):
        assert f"{field.name}:" in documented or f"{field.name}," in documented, f"{slug}.{field.name}"


@pytest.mark.parametrize("slug", ENTRIES)
def test_it_survives_the_round_trip_of_its_options(slug: str) -> None:
    make = szilard.make_method if slug in RULES else szilard.make_attention
    made = make(slug)
    assert made is not None and make(slug, made.options()) == made
    assert str(made) == slug and made.changed_options() == {}


@pytest.mark.parametrize("slug", RULES)
def test_a_model_that_writes_from_left_to_right_refuses_it(slug: str) -> None:
    from szilard.engines.transformers_generate import check_needs

    with pytest.raises(ValueError, match="needs denoising"):
        check_needs(ENTRIES[slug].neutral(), frozenset({"logits"}), "an engine")
