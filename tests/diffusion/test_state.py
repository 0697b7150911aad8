"""The denoising state on tiny models: batches, caches, windows, guidance, templates, sampling."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

import szilard
from szilard.diffusion.cache import CanvasCache
from szilard.diffusion.fill import fill
from szilard.diffusion.method import DiffusionMethod
from szilard.diffusion.window_diffusion import columns_of
from szilard.registry import methods
from tests.diffusion.tiny import EOS, MASK, PROMPTS, VOCAB, Table, tiny_engine, tiny_model

CACHES = ("prefix-cache", "dual-cache", "window-diffusion")
RULES = [
    szilard.TopKUnmask(block_length=8),
    szilard.TopKUnmask(k=3, score="margin", block_length=None),
    szilard.ThresholdUnmask(threshold=0.3, block_length=8),
    szilard.FactorUnmask(factor=1.5, block_length=8),
    szilard.EntropyBound(gamma=1.0, block_length=8),
    szilard.ScheduleUnmask(steps=6, block_length=8),
    szilard.LocalLeap(anchor=0.4, relaxed=0.2, block_length=8),
    szilard.Ete(threshold=0.4, block_length=8),
    szilard.Ete(threshold=0.4, block_length=8, branches=3),
    szilard.TopKUnmask(block_length=8, guidance=1.0),
    szilard.ThresholdUnmask(threshold=0.3, block_length=8, end_of_text="committed"),
]


def ids(rule: Any) -> str:
    return str(rule)


def tokens_of(engine: Any, method: Any, cache: Any = None, **options: Any) -> list[list[int]]:
    results = engine.generate(PROMPTS, method, attention=cache, max_new_tokens=20, trace=False, **options)
    return [result.tokens for result in results]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("rule", RULES, ids=ids)
def test_a_padded_batch_is_its_rows_alone(rule: DiffusionMethod, family: str) -> None:
    engine = tiny_engine(family)
    together = tokens_of(engine, rule)
    alone = [engine.generate(prompt, rule, max_new_tokens=20).tokens for prompt in PROMPTS]
    assert together == alone


@pytest.mark.parametrize("cache", [methods()[name].cls() for name in CACHES], ids=ids)
def test_a_padded_batch_under_a_cache_is_its_rows_alone(cache: CanvasCache) -> None:
    if cache.slug == "window-diffusion":
        cache = szilard.WindowDiffusion(external=10, internal=4, refresh=4)
    engine = tiny_engine(shift=True)
    rule = szilard.ThresholdUnmask(threshold=0.3, block_length=8)
    together = tokens_of(engine, rule, cache)
    alone = [engine.generate(prompt, rule, attention=cache, max_new_tokens=20).tokens for prompt in PROMPTS]
    assert together == alone


@pytest.mark.parametrize("shift", [False, True], ids=["unshifted", "shifted"])
@pytest.mark.parametrize("name", ["prefix-cache", "dual-cache"])
def test_a_cache_that_is_renewed_for_every_column_is_exact(name: str, shift: bool) -> None:
    engine = tiny_engine(shift=shift)
    rule = szilard.TopKUnmask(block_length=1)
    assert tokens_of(engine, rule, methods()[name].cls()) == tokens_of(engine, rule)


@pytest.mark.parametrize("shift", [False, True], ids=["unshifted", "shifted"])
@pytest.mark.parametrize("name", CACHES)
def test_a_cache_s_neutral_setting_is_no_cache(name: str, shift: bool) -> None:
    engine = tiny_engine(shift=shift)
    rule = szilard.TopKUnmask(block_length=8)
    assert tokens_of(engine, rule, methods()[name].neutral()) == tokens_of(engine, rule)


@pytest.mark.parametrize("shift", [False, True], ids=["unshifted", "shifted"])
@pytest.mark.parametrize(
    "cache",
    [
        methods()["prefix-cache"].cls(),
        methods()["dual-cache"].cls(),
        szilard.WindowDiffusion(external=64, internal=5, refresh=4, refresh_commit="active"),
    ],
    ids=ids,
)
def test_caches_are_exact_where_keys_and_values_do_not_depend_on_the_context(cache: CanvasCache, shift: bool) -> None:
    engine = tiny_engine(layers=1, shift=shift)
    rule = szilard.TopKUnmask(block_length=8, score="left-to-right")
    assert tokens_of(engine, rule, cache) == tokens_of(engine, rule)


def test_caches_compute_less() -> None:
    engine = tiny_engine(eos=None)
    rule = szilard.TopKUnmask(block_length=8)
    computed = {}
    for name in ("", *CACHES):
        cache = szilard.WindowDiffusion(external=10, internal=4, refresh=8) if "window" in name else name or None
        result = engine.generate(PROMPTS[0], rule, attention=cache, max_new_tokens=24)
        (computed[name],) = result.cost.tokens.values()
    width = 5 + 24
    assert computed[""] == 24 * width
    assert computed["prefix-cache"] == 3 * width + 7 * (24 + 16 + 8)
    assert computed["dual-cache"] == 3 * width + 3 * 7 * 8
    # 3 phases: a whole forward, then 4 masks and what the phase committed so far (what its first round did: once).
    assert computed["window-diffusion"] < computed["dual-cache"]


def test_a_window_computes_its_masks_and_what_the_phase_committed() -> None:
    engine = tiny_engine(eos=None)
    cache = szilard.WindowDiffusion(external=64, internal=4, refresh=5)
    result = engine.generate(PROMPTS[0], szilard.TopKUnmask(block_length=None), attention=cache, max_new_tokens=10)
    (computed,) = result.cost.tokens.values()
    # Two phases of 5 rounds. Round 2: 4 masks and the first round's column; rounds 3, 4, 5: 4 masks and 1, 2, 3 others.
    # In the second phase the masks run out: 5 are left at its beginning, and rounds 2 to 5 find 4, 3, 2, 1.
    assert computed == 2 * 15 + (5 + 5 + 6 + 7) + (5 + 4 + 4 + 4)


def test_a_window_recomputes_nothing_that_it_is_not_told_to() -> None:
    engine = tiny_engine(eos=None)
    cache = szilard.WindowDiffusion(external=64, internal=4, refresh=5, keep_recent=0)
    result = engine.generate(PROMPTS[0], szilard.TopKUnmask(block_length=None), attention=cache, max_new_tokens=10)
    (computed,) = result.cost.tokens.values()
    assert computed == 2 * 15 + 4 * 4 + (4 + 3 + 2 + 1)


def test_the_far_field_is_pruned() -> None:
    engine = tiny_engine(eos=None)
    rule = szilard.TopKUnmask(block_length=None)
    whole, pruned = (
        engine.generate(
            PROMPTS[0],
            rule,
            attention=szilard.WindowDiffusion(external=6, internal=3, refresh=2, refresh_scope=scope),
            max_new_tokens=20,
        )
        for scope in ("full", "pruned")
    )
    assert sum(pruned.cost.tokens.values()) < sum(whole.cost.tokens.values())
    assert len(pruned.tokens) == 20


def test_one_column_of_a_full_store_reproduces_the_full_forward() -> None:
    from szilard.diffusion.canvas_store import CanvasStore

    for shift in (False, True):
        model = tiny_engine(shift=shift).canvas_model
        canvas = torch.tensor([[5, 6, 7, MASK, 8, MASK, MASK]])
        real = torch.ones_like(canvas, dtype=torch.bool)
        every = torch.arange(7)[None]
        store = CanvasStore(model.layers, 1, 7)
        store.aim_at_all(None)
        full = model.compute(canvas, real, every, store=store)
        for column in (3, 5, 6):
            computed = torch.tensor([[column - 1, column] if shift else [column]])
            store.aim_at_some(None, None)
            part = model.compute(canvas, real, torch.tensor([[column]]), store=store, columns=computed)
            torch.testing.assert_close(part[0, 0], full[0, column], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("slug", [slug for slug, entry in methods().items() if entry.family == "diffusion"])
def test_every_rule_s_neutral_setting_is_one_column_per_round(slug: str) -> None:
    engine = tiny_engine()
    method = dataclasses.replace(methods()[slug].neutral(), block_length=8)
    assert tokens_of(engine, method) == tokens_of(engine, szilard.TopKUnmask(block_length=8))


def test_visible_columns_never_change() -> None:
    seen: list[torch.Tensor] = []

    def watch(state: Any) -> None:
        seen.append(state.tokens[0].clone())

    engine = tiny_engine(eos=None)
    fill(engine.canvas_model, PROMPTS[0][None], szilard.Ete(threshold=0.3), length=16, watch=watch)
    for before, after in itertools.pairwise(seen):
        assert torch.equal(after[before != MASK], before[before != MASK])


def test_guidance_of_the_prompt_alone_needs_two_canvases_per_row() -> None:
    engine = tiny_engine(eos=None)
    result = engine.generate(PROMPTS[0], szilard.TopKUnmask(guidance=0.5), max_new_tokens=8)
    assert result.cost.counters["row_rounds"] == 16


def test_guidance_is_the_formula() -> None:
    engine = tiny_engine(eos=None)
    method = szilard.TopKUnmask(guidance=2.0)
    canvas = torch.cat([PROMPTS[0], torch.full((4,), MASK)])[None]
    blind = canvas.clone()
    blind[:, :5] = MASK
    real, wanted = torch.ones_like(canvas, dtype=torch.bool), torch.arange(5, 9)[None]
    conditioned, free = (engine.canvas_model.predict(each, real, wanted) for each in (canvas, blind))
    logits = (free + 3.0 * (conditioned - free)).clone()
    logits[..., MASK] = -torch.inf
    state = fill(engine.canvas_model, PROMPTS[0][None], method, length=4)
    first = int((state.round_of[0, 5:] == 1).nonzero())
    assert state.generated_tokens()[0][first] == int(logits[0, first].argmax())


def test_a_template_keeps_what_it_gives() -> None:
    engine = tiny_engine(eos=None)
    result = engine.generate("w5 w6", template="w7 [MASK] w8 [MASK] [MASK] w9")
    assert [result.tokens[place] for place in (0, 2, 5)] == [7, 8, 9]
    assert MASK not in result.tokens
    both = engine.generate(["w5 w6", "w5"], template=["w7 [MASK]", "[MASK] [MASK] w3"])
    assert [len(one.tokens) for one in both] == [2, 3]


def test_draws_follow_the_distribution() -> None:
    probabilities = [0.4]
    model: Any = Table(probabilities)
    prompts = torch.zeros(20_000, 1, dtype=torch.long)
    for temperature in (1.0, 0.5):
        state = fill(
            model,
            prompts,
            szilard.TopKUnmask(),
            length=1,
            temperature=temperature,
            generator=torch.Generator().manual_seed(0),
        )
        counts = torch.bincount(torch.tensor([tokens[0] for tokens in state.generated_tokens()]), minlength=VOCAB)
        logits = model.logits[0].clone()
        logits[MASK] = -torch.inf
        expected = 20_000 * (logits / temperature).softmax(-1)
        some = expected > 5
        chi = float(((counts - expected)[some] ** 2 / expected[some]).sum())
        assert chi < 110  # 63 cells: the 99.98th percentile


def test_sampling_is_repeatable_and_filters_act() -> None:
    engine = tiny_engine(eos=None)
    settings = {"do_sample": True, "temperature": 1.5, "seed": 3, "max_new_tokens": 12}
    one, same = (engine.generate(PROMPTS[0], **settings).tokens for _ in range(2))
    assert one == same
    greedy = engine.generate(PROMPTS[0], max_new_tokens=12).tokens
    assert engine.generate(PROMPTS[0], top_k=1, **settings).tokens == greedy
    assert engine.generate(PROMPTS[0], szilard.TopKUnmask(tempered=True), **settings).tokens != greedy


def test_the_trace_tells_when_a_token_was_committed() -> None:
    engine = tiny_engine(eos=None)
    result = engine.generate(PROMPTS[0], szilard.ThresholdUnmask(threshold=0.3), max_new_tokens=12)
    rounds = result.trace["round"].tolist()
    assert len(rounds) == 12
    assert sorted(set(rounds)) == list(range(1, max(rounds) + 1))
    assert all(0 < p <= 1 for p in result.trace["probability"])


def test_a_stream_shows_every_round() -> None:
    engine = tiny_engine(eos=None)
    canvases = []
    stream = engine.stream(PROMPTS[0], szilard.TopKUnmask(k=2), max_new_tokens=8)
    while True:
        try:
            canvases.append(next(stream))
        except StopIteration as end:
            result = end.value
            break
    assert [canvas.round for canvas in canvases] == [1, 2, 3, 4]
    assert [len(canvas.committed) for canvas in canvases] == [2, 2, 2, 2]
    assert canvases[0].text.count("░") == 6
    assert canvases[-1].tokens == result.tokens


def test_stop_texts_end_a_row() -> None:
    engine = tiny_engine(eos=None)
    whole = engine.generate(PROMPTS[0], szilard.TopKUnmask(score="left-to-right"), max_new_tokens=12)
    word = f"w{whole.tokens[4]}"
    first = whole.tokens.index(whole.tokens[4])
    cut = engine.generate(PROMPTS[0], szilard.TopKUnmask(score="left-to-right"), max_new_tokens=12, stop=word)
    assert cut.tokens == whole.tokens[: first + 1]


def test_columns_are_listed_in_order() -> None:
    chosen = torch.tensor([[True, False, True, False], [False, False, False, True]])
    assert columns_of(chosen).tolist() == [[0, 2], [3, 4]]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_diffusion_method_on_an_autoregressive_model_is_refused_and_the_other_way_round() -> None:
    from szilard.engines import TransformersEngine
    from tests.diffusion.tiny import tokenizer

    autoregressive = TransformersEngine(tiny_model(), tokenizer(), name="tiny")
    with pytest.raises(ValueError, match="'localleap' needs denoising"):
        autoregressive.generate("w5", szilard.LocalLeap())
    with pytest.raises(ValueError, match="needs denoising"):
        autoregressive.generate("w5", attention="dual-cache")
    with pytest.raises(ValueError, match="cannot fill a template"):
        autoregressive.generate("w5", template="[MASK]")
    with pytest.raises(ValueError, match="'lead' needs"):
        tiny_engine().generate("w5", szilard.Lead())
    with pytest.raises(ValueError, match="needs attention"):
        tiny_engine().generate("w5", attention="snapkv")
    with pytest.raises(ValueError, match="fills a canvas"):
        autoregressive.model.generate(torch.tensor([[5]]), custom_generate=szilard.LocalLeap())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: szilard.TopKUnmask(block_length=0), "block_length must be at least 1"),
        (lambda: szilard.TopKUnmask(end_of_text="never"), "end_of_text must be one of"),
        (lambda: szilard.ThresholdUnmask(threshold=-1), "threshold must be at least 0"),
        (lambda: szilard.WindowDiffusion(external=4, internal=8), "only external=4 are read"),
        (lambda: szilard.Ete(cross_block_threshold=0.5), "looser than threshold"),
        (lambda: tiny_engine().generate("w5", repetition_penalty=1.2), "grows from left to right"),
        (lambda: tiny_engine().generate("w5", template="w6"), "leaves nothing to fill"),
        (lambda: tiny_engine().generate(["w5", "w6"], template=["[MASK]"]), "1 templates for 2 prompts"),
        (lambda: tiny_engine().generate("w5", szilard.Ete(branches=2), attention="dual-cache"), "leave the cache out"),
        (lambda: tiny_engine().generate("w5", logits_processor=[lambda ids, scores: scores]), "logits processors"),
    ],
)
def test_bad_input_gets_a_sentence(make: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


def test_a_mask_outside_the_vocabulary_is_refused() -> None:
    from szilard.diffusion.canvas_model import MaskedDiffusionConfig, TransformersCanvas

    with pytest.raises(ValueError, match="mask id 64 is outside"):
        TransformersCanvas(tiny_model(), MaskedDiffusionConfig(64))


def test_a_table_model_cannot_have_a_cache() -> None:
    model: Any = Table([0.5])
    with pytest.raises(ValueError, match="leave the cache out"):
        fill(
            model,
            torch.zeros(1, 1, dtype=torch.long),
            szilard.TopKUnmask(),
            length=1,
            cache=methods()["dual-cache"].cls(),
        )


def test_ends_are_what_the_config_says() -> None:
    assert tiny_engine().config.ends == (EOS,)
