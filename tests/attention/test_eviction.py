"""What eviction keeps, against masks written out, and what happens to its slots on the way."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PhiConfig, PhiForCausalLM

import szilard
from szilard.attention import eviction, expected_attention
from szilard.attention.eviction import Eviction, Slots
from szilard.attention.layers import EvictingLayer
from szilard.sessions.call import Call, attention
from tests.conformance.test_every_attention_method import NEEDS_ROTATION, SMALL
from tests.conftest import PAD, prompt_batch, tiny_model

EVICTING = tuple(
    slug for slug, entry in szilard.methods().items() if entry.kind == "attention" and issubclass(entry.cls, Eviction)
)

ALLOWED: dict[int, torch.Tensor] = {}  # of every layer, [batch, kv heads, tokens, tokens]


def _masked(module, query, key, value, attention_mask, scaling=None, **_):
    return attention(query, key, value, ALLOWED[module.layer_idx], scaling), None


AttentionInterface.register("written-out", _masked)
AttentionMaskInterface.register("written-out", lambda **_: None)


def make(slug, **options):
    return szilard.make_attention(slug, SMALL[slug] | options)


def positions(mask):
    return (mask.cumsum(1) - 1).clamp(min=0)


def fed(model, method, ids, mask, sizes):
    """Logits of ids that come in calls of these sizes, and what every layer held before each call."""
    logits, held, past = [], [], None
    with method(model), torch.no_grad():
        for start, end in pairwise([0, *torch.tensor(sizes).cumsum(0).tolist()]):
            ours = [] if past is None else [layer for layer in past.layers if isinstance(layer, EvictingLayer)]
            held.append([layer.all_columns().clone() for layer in ours])
            out = model(
                ids[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=positions(mask)[:, start:end],
                past_key_values=past,
                use_cache=True,
            )
            past = out.past_key_values
            logits.append(out.logits)
    return torch.cat(logits, 1), held, past


def full_text(rows, tokens=19):
    """Prompts and what follows them."""
    inputs = prompt_batch(rows)
    more = tokens - inputs["input_ids"].shape[1]
    later = torch.randint(3, 90, (rows, more), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([inputs["input_ids"], later], 1)
    return ids, torch.cat([inputs["attention_mask"], torch.ones_like(later)], 1)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("sizes", [(11, 1, 1, 1, 1, 1, 1, 1, 1), (11, 1, 3, 1, 3), (6, 5, 1, 1, 2, 4)], ids=str)
@pytest.mark.parametrize("slug", EVICTING)
def test_eviction_is_attention_under_a_mask_written_out(slug, sizes, rows, monkeypatch):
    model = tiny_model("llama")
    ids, mask = full_text(rows)
    logits, held, _ = fed(model, make(slug), ids, mask, sizes)
    heads = model.config.num_key_value_heads
    at = torch.arange(sum(sizes))
    for layer in range(model.config.num_hidden_layers):
        allowed = torch.zeros(rows, heads, len(at), len(at), dtype=torch.bool)
        start = 0
        for size, before in zip(sizes, held, strict=True):
            new = at[start : start + size]
            allowed[:, :, new] = (at >= start) & (at <= new[:, None])
            if before:
                columns = before[layer]
                old = torch.zeros(rows, heads, len(at) + 1, dtype=torch.bool)
                old.scatter_(2, torch.where(columns < 0, len(at), columns), True)
                allowed[:, :, new] |= old[:, :, None, :-1]
            start += size
        monkeypatch.setitem(ALLOWED, layer, allowed & mask.bool()[:, None, None])
    before = model.config._attn_implementation
    model.set_attn_implementation("written-out")
    try:
        with torch.no_grad():
            expected = model(ids, position_ids=positions(mask), use_cache=False).logits
    finally:
        model.set_attn_implementation(before)
    real = mask.bool()
    assert (logits - expected)[real].abs().max() < 1e-9
    with torch.no_grad():
        plain = model(ids, attention_mask=mask, position_ids=positions(mask)).logits
    assert (logits - plain)[real].abs().max() > 1e-3  # something was evicted


@pytest.mark.parametrize("slug", EVICTING)
def test_rows_of_a_padded_batch_have_the_logits_that_they_have_alone(slug):
    model = tiny_model("llama")
    ids, mask = full_text(4)
    together, _, _ = fed(model, make(slug), ids, mask, (11, 1, 1, 2, 1, 3))
    for row in range(4):
        gap = int((mask[row] == 0).sum())
        alone, _, _ = fed(
            model, make(slug), ids[row : row + 1, gap:], mask[row : row + 1, gap:], (11 - gap, 1, 1, 2, 1, 3)
        )
        assert (together[row : row + 1, gap:] - alone).abs().max() < 1e-9


def test_average_pooling_and_short_rows_do_not_see_the_padding_either():
    model = tiny_model("llama")
    ids, mask = full_text(4)
    for method in (
        szilard.SnapKv(budget=4, window=1, kernel=3, pool="avg"),
        szilard.ExpectedAttention(budget=2, sinks=0, recent=0, skip=6),
    ):
        together, _, _ = fed(model, method, ids, mask, (11, 1, 1, 1))
        for row in range(4):
            gap = int((mask[row] == 0).sum())
            alone, _, _ = fed(model, method, ids[row : row + 1, gap:], mask[row : row + 1, gap:], (11 - gap, 1, 1, 1))
            assert (together[row : row + 1, gap:] - alone).abs().max() < 1e-9


@pytest.mark.parametrize("slug", EVICTING)
def test_a_budget_that_holds_the_text_changes_nothing(slug, model):
    if slug in NEEDS_ROTATION and not hasattr(model.get_decoder(), "rotary_emb"):
        pytest.skip("needs rotary positions")
    inputs = prompt_batch(2)
    settings = {"max_new_tokens": 10, "do_sample": False, "suppress_tokens": [PAD]}
    plain = model.generate(**inputs, **settings)
    for budget in (64, 1.0):
        with make(slug, budget=budget)(model) as run:
            assert torch.equal(plain, model.generate(**inputs, **settings))
        assert run.summary()["kv_held_share"] == 1.0


@pytest.mark.parametrize("slug", EVICTING)
@pytest.mark.parametrize(("budget", "kept"), [(7, 7), (0.55, 7), (0.5, 6), (0.8, 9)])
def test_every_head_keeps_exactly_its_budget(slug, budget, kept):
    method = make(slug, budget=budget)
    ids, mask = full_text(1, tokens=14)
    _, _, past = fed(tiny_model("llama"), method, ids, mask, (11, 1, 1, 1))
    per_layer = method.budgets(11, 3)
    assert sum(per_layer) == 3 * kept
    more = 0 if method.phase == "both" else 3
    assert [layer.stored for layer in past.layers] == [slots + more for slots in per_layer]
    for layer in past.layers:
        assert layer.keys.shape[:3] == layer.all_columns().shape == (1, 2, layer.stored)
        assert all(len(set(head.tolist())) == layer.stored for head in layer.all_columns()[0])


def test_a_share_is_rounded_up_and_never_beyond_itself():
    for share, prompt, kept in ((0.55, 100, 55), (0.07, 100, 7), (0.5, 11, 6), (0.001, 100, 1)):
        assert szilard.Knorm(budget=share, sinks=0, recent=0).budgets(prompt, 2) == [kept, kept]


def test_one_slot_is_not_everything():
    ids, mask = full_text(1, tokens=13)
    for method in (szilard.Knorm(budget=1, sinks=0, recent=0), szilard.H2o(budget=1)):
        _, _, past = fed(tiny_model("llama"), method, ids, mask, (11, 1, 1))
        assert [layer.stored for layer in past.layers] == [1 if method.phase == "both" else 3] * 3


@pytest.mark.parametrize("slug", EVICTING)
def test_a_share_is_one_of_the_whole_prompt_when_it_comes_in_chunks(slug):
    ids, mask = full_text(1, tokens=19)
    method = make(slug, budget=0.5)
    _, _, past = fed(tiny_model("llama"), method, ids, mask, (6, 6, 7))
    kept = [layer.stored for layer in past.layers]
    if slug == "pyramidkv":  # the lower layers of a longer prompt would keep more than shorter ones left them
        assert all(slots <= most for slots, most in zip(kept, method.budgets(19, 3), strict=True))
    else:
        assert kept == method.budgets(19, 3)


def test_streaming_keeps_exactly_the_sinks_and_the_newest():
    ids, mask = full_text(1, tokens=40)
    _, held, past = fed(tiny_model("llama"), szilard.StreamingLlm(budget=10), ids, mask, (30, *[1] * 10))
    for call, before in enumerate(held[1:]):
        for columns in before:
            assert columns[0].tolist() == [[0, 1, 2, 3, *range(24 + call, 30 + call)]] * 2
    assert all(layer.columns[0, 0].tolist() == [0, 1, 2, 3, *range(34, 40)] for layer in past.layers)


def test_streaming_counts_the_sinks_of_a_padded_row_from_its_first_token():
    ids, mask = full_text(2)
    _, _, past = fed(tiny_model("llama"), szilard.StreamingLlm(budget=6, sinks=2), ids, mask, (11, 1, 1))
    assert past.layers[0].columns[:, 0].tolist() == [[0, 1, 9, 10, 11, 12], [2, 3, 9, 10, 11, 12]]


def test_pyramid_budgets_fall_evenly_around_the_budget():
    budgets = szilard.PyramidKv(budget=0.5, window=64).budgets(1000, 32)
    # m = 500 - 64 = 436; least = 436 / 20 = 21.8; most = 2 x 436 - 21.8 = 850.2; each beside the window
    assert (budgets[0], budgets[-1]) == (914, 86)
    assert all(26 <= upper - lower <= 28 for upper, lower in pairwise(budgets))
    assert abs(sum(budgets) - 16000) <= 16  # rounding, half a slot a layer
    # a first layer that would keep more than there is keeps all of it: m = 500, the average with the window 564
    budgets = szilard.PyramidKv(budget=564, window=64).budgets(1000, 32)
    assert [slots - 64 for slots in (*budgets[:3], *budgets[-2:])] == [936, 908, 880, 92, 64]
    assert sum(slots - 64 for slots in budgets) == 16000


@pytest.mark.parametrize("slug", EVICTING)
def test_generating_can_go_on_from_the_cache(slug):
    model, inputs = tiny_model("llama"), prompt_batch(2)
    settings = {"do_sample": False, "suppress_tokens": [PAD], "eos_token_id": None, "return_dict_in_generate": True}
    with make(slug)(model):
        whole = model.generate(**inputs, max_new_tokens=12, **settings).sequences
    with make(slug)(model):
        first = model.generate(**inputs, max_new_tokens=5, **settings)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 5, dtype=torch.long)], 1)
        fed_tokens = []
        watch = model.model.register_forward_pre_hook(
            lambda _, given, options: fed_tokens.append(options["input_ids"].shape[1]), with_kwargs=True
        )
        rest = model.generate(
            first.sequences, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=7, **settings
        )
        watch.remove()
    assert torch.equal(whole, rest.sequences)
    assert fed_tokens == [1] * 7


@pytest.mark.parametrize("slug", EVICTING)
def test_beams_carry_their_own_slots(slug):
    model, inputs = tiny_model("llama"), prompt_batch(2)
    with make(slug)(model):
        found = model.generate(
            **inputs,
            max_new_tokens=9,
            num_beams=4,
            do_sample=False,
            eos_token_id=None,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 9, dtype=torch.long)], 1)
    logits, _, _ = fed(model, make(slug), found.sequences, mask, (11, *[1] * 9))
    told = found.sequences[:, 11:]
    nats = logits[:, 10:-1].log_softmax(-1).gather(2, told[..., None])[..., 0]
    assert torch.allclose(nats.sum(1), found.sequences_scores.double(), atol=1e-5)


@pytest.mark.parametrize("slug", EVICTING)
def test_beam_search_finds_what_transformers_finds_under_the_same_method(slug, engine):
    prompts = [row[row != PAD] for row in prompt_batch(2)["input_ids"]]
    results = engine.generate(
        prompts, szilard.BeamSearch(beams=3), attention=make(slug), max_new_tokens=8, suppress_tokens=[PAD]
    )
    model, inputs = tiny_model("llama"), prompt_batch(2)
    with make(slug)(model):
        expected = model.generate(**inputs, max_new_tokens=8, num_beams=3, do_sample=False, suppress_tokens=[PAD])
    for result, row in zip(results, expected[:, 11:].tolist(), strict=True):
        assert row[: len(result.tokens)] == list(result.tokens)


@pytest.mark.parametrize("slug", EVICTING)
def test_a_prompt_in_chunks_is_compressed_after_each(slug):
    model, inputs = tiny_model("llama"), prompt_batch(1)
    settings = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [PAD], "prefill_chunk_size": 4}
    plain = model.generate(**inputs, **settings)
    with make(slug, budget=32)(model):
        assert torch.equal(plain, model.generate(**inputs, **settings))
    ids, mask = full_text(1, tokens=14)
    method = make(slug)
    _, held, past = fed(model, method, ids, mask, (4, 4, 3, 1, 1, 1))
    assert all(columns.shape[2] <= max(method.budgets(11, 3)) for before in held[1:4] for columns in before)
    more = 0 if method.phase == "both" else 3
    assert [layer.stored for layer in past.layers] == [slots + more for slots in method.budgets(11, 3)]


@pytest.mark.parametrize("budget", [6, 0.5])
@pytest.mark.parametrize("slug", ["h2o", "tova", "streaming-llm", "knorm"])
def test_a_cache_that_was_filled_before_shrinks_to_the_budget(slug, budget):
    model = tiny_model("llama")
    ids, mask = full_text(1)
    _, _, past = fed(model, make(slug, budget=1.0), ids, mask, (11,))
    plain = DynamicCache(config=model.config)
    for index, layer in enumerate(past.layers):
        plain.update(layer.keys, layer.values, index)
    with make(slug, budget=budget, phase="both")(model), torch.no_grad():
        model(ids[:, 11:12], past_key_values=plain)
    assert [layer.stored for layer in plain.layers] == [6] * 3  # of 12 tokens


@pytest.mark.parametrize("phase, times", [("prefill", 1), ("both", 4)])
def test_attention_is_added_up_only_as_long_as_something_can_leave(phase, times, monkeypatch):
    model, calls = tiny_model("llama"), []
    mass = Slots.attention_mass
    monkeypatch.setattr(Slots, "attention_mass", lambda slots: calls.append(slots.index) or mass(slots))
    fed(model, make("h2o", phase=phase), *full_text(1), (11, 1, 1, 1))
    assert len(calls) == times * model.config.num_hidden_layers


def test_expected_attention_looks_ahead_from_the_whole_text_and_not_from_its_last_chunk(monkeypatch):
    model, seen = tiny_model("llama"), []
    average = expected_attention._Session.average_rotation
    monkeypatch.setattr(
        expected_attention._Session,
        "average_rotation",
        lambda session, lengths, *rest: seen.append(lengths.tolist()) or average(session, lengths, *rest),
    )
    ids, mask = full_text(2)
    fed(model, make("expected-attention"), ids, mask, (8, 3))
    before, after = mask[:, :8].sum(1).tolist(), mask[:, :11].sum(1).tolist()
    assert seen == [before] * 3 + [after] * 3


def test_expected_attention_leaves_channels_that_are_not_rotated_as_they_are():
    torch.manual_seed(0)
    size, turned = 8, 4
    query, angle = torch.randn(1, 2, 3, size), torch.randn(1, 3, turned // 2)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    first, second = query[..., : turned // 2], query[..., turned // 2 : turned]
    rotated = query[..., :turned] * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]
    back = expected_attention.unrotated(torch.cat([rotated, query[..., turned:]], -1), cos, sin)
    assert (back - query).abs().max() < 1e-6


def test_expected_attention_runs_on_models_that_rotate_some_channels_only():
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = PhiForCausalLM(PhiConfig(vocab_size=97, pad_token_id=PAD, eos_token_id=1, **settings)).double().eval()
    ids, mask = full_text(2)
    _, _, past = fed(model, make("expected-attention"), ids, mask, (11, 1))
    assert [layer.stored for layer in past.layers] == [7, 7]


@pytest.mark.parametrize("slug", EVICTING)
def test_sliding_layers_are_left_alone(slug):
    model = tiny_model("gemma3")
    ids, mask = full_text(1)
    _, _, plain = fed(model, make(slug, budget=1.0), ids, mask, (11, 1, 1))
    _, _, past = fed(model, make(slug), ids, mask, (11, 1, 1))
    kinds = [isinstance(layer, EvictingLayer) for layer in past.layers]
    assert kinds == [False, True, False]
    assert torch.equal(plain.layers[0].keys, past.layers[0].keys)
    assert past.layers[0].keys.shape[2] == plain.layers[0].keys.shape[2]


# ---- the layer alone -------------------------------------------------------------------------------------------------


def layer_of(rows, tokens, kept, *, seed=0, heads=2):
    """A layer whose keys say which column they are of, and whose mark says so, too."""
    layer = EvictingLayer()
    at = torch.arange(tokens, dtype=torch.float64)[None, None, :, None].expand(rows, heads, -1, 4)
    layer.update(at.clone(), -at)
    layer.marks["mass"] = at[..., 0].clone()
    generator = torch.Generator().manual_seed(seed)
    slots = torch.rand(rows, heads, tokens, generator=generator).topk(kept).indices.sort().values
    layer.retain(slots)
    layer.budget = kept, None
    return layer


def told(layer):
    """The columns that keys, values and marks tell of, where a slot holds something."""
    there = layer.columns >= 0
    for tensor in (layer.keys[..., 0], -layer.values[..., 0], layer.marks["mass"]):
        yield tensor[there], layer.columns.double()[there]


def test_new_tokens_get_the_columns_after_all_that_were_seen():
    layer = layer_of(2, 9, 4)
    more = torch.full((2, 2, 2, 4), 9.0, dtype=torch.float64)
    layer.update(more, -more)
    assert layer.columns[..., -2:].tolist() == [[[9, 10]] * 2] * 2
    assert (layer.get_seq_length(), layer.stored, layer.get_mask_sizes(3)) == (11, 6, (14, 0))
    layer.crop(-2)
    assert (layer.get_seq_length(), layer.stored) == (9, 4)
    assert all(torch.equal(*pair) for pair in told(layer))


def test_what_came_before_an_eviction_cannot_be_taken_back():
    layer = layer_of(1, 9, 4)
    layer.update(torch.ones(1, 2, 1, 4).double(), torch.ones(1, 2, 1, 4).double())
    with pytest.raises(ValueError, match="only 1 came since"):
        layer.crop(-2)


def test_rolled_slots_keep_their_keys_and_move_their_columns():
    layer = layer_of(3, 9, 5)
    shift = torch.tensor([0, 2, 1])
    before = layer.columns.clone()
    layer.roll_right(shift)
    for row, places in enumerate(shift.tolist()):
        assert torch.equal(layer.columns[row, :, places:], before[row, :, : 5 - places] + places)
        assert (layer.columns[row, :, :places] == -1).all()
        there = layer.columns[row] >= 0
        for tensor in (layer.keys[row, ..., 0], -layer.values[row, ..., 0], layer.marks["mass"][row]):
            assert torch.equal(tensor[there], (layer.columns[row] - places).double()[there])


def test_stacked_rows_end_together():
    short, long = layer_of(1, 7, 3), layer_of(2, 12, 6, seed=1)
    own = [short.columns.clone(), long.columns.clone()]
    short.stack(long)
    assert (short.seen, short.stored, short.keys.shape) == (12, 6, (3, 2, 6, 4))
    assert (short.columns[0, :, :3] == -1).all()
    assert torch.equal(short.columns[0, :, 3:], own[0][0] + 5) and torch.equal(short.columns[1:], own[1])
    assert torch.equal(short.keys[0, :, 3:, 0], own[0][0].double()) and torch.equal(
        short.marks["mass"][1:], own[1].double()
    )
    assert short.budget[0] == 6 and short.budget[1].tolist() == [3, 6, 6]


def test_picked_repeated_and_reordered_rows_take_everything_along():
    for move, order in (
        (lambda layer: layer.batch_select_indices(torch.tensor([2, 0])), [2, 0]),
        (lambda layer: layer.reorder_cache(torch.tensor([1, 1, 0])), [1, 1, 0]),
        (lambda layer: layer.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    ):
        layer = layer_of(3, 9, 4)
        layer.budget = 4, torch.tensor([2, 3, 4])
        columns = layer.columns.clone()
        move(layer)
        assert torch.equal(layer.columns, columns[order])
        assert layer.budget[1].tolist() == [[2, 3, 4][row] for row in order]
        assert all(torch.equal(*pair) for pair in told(layer))


def test_a_copy_and_its_original_go_separate_ways():
    layer = layer_of(2, 9, 4)
    twin = copy.copy(layer)
    more = torch.full((2, 2, 1, 4), 9.0, dtype=torch.float64)
    twin.update(more, -more)
    assert (layer.stored, twin.stored, layer.seen, twin.seen) == (4, 5, 9, 10)
    assert layer.marks["mass"].shape[2] == 4 and layer.columns.shape[2] == 4


def test_a_layer_that_was_reset_is_empty():
    layer = layer_of(2, 9, 4)
    layer.reset()
    assert (layer.seen, layer.stored, layer.columns, layer.marks) == (0, 0, None, {})


@pytest.mark.parametrize("rows, masks", [(1, False), (4, True)])
def test_a_single_token_needs_no_mask_unless_rows_are_padded(rows, masks, monkeypatch):
    seen = []
    attend = eviction.attend_to_all
    monkeypatch.setattr(eviction, "attend_to_all", lambda call, visible: seen.append(visible) or attend(call, visible))
    fed(tiny_model("llama"), make("streaming-llm"), *full_text(rows), (11, 1, 1, 1))
    steps = seen[-9:]  # three steps of three layers
    assert [visible is not None for visible in steps] == [masks] * 9


def test_layers_know_whether_they_have_holes():
    layer, other = layer_of(2, 9, 4), layer_of(1, 9, 4)
    assert not layer.holes
    layer.stack(other)
    assert not layer.holes
    layer.stack(layer_of(1, 9, 3))
    assert layer.holes
    rolled = layer_of(2, 9, 4)
    rolled.roll_right(torch.tensor([0, 1]))
    assert rolled.holes
    rolled.reset()
    assert not rolled.holes


def test_stacked_rows_remember_what_both_remember():
    mine, other = layer_of(1, 9, 4), layer_of(1, 9, 3)
    mine.marks["rows"] = torch.ones(1, 2, 4)
    mine.stack(other)
    assert list(mine.marks) == ["mass"]


def test_a_mask_for_all_rows_is_read_at_the_columns_of_each():
    keys = torch.zeros(2, 2, 3, 4)
    mask = torch.tensor([True, False, True, True, True]).view(1, 1, 1, 5)
    call = Call(0, EvictingLayer(), keys[:, :, :1], keys, keys, mask, 4, 1.0, tree=True)
    columns = torch.tensor([[0, 1, 4], [1, 2, 4]])[:, None].expand(-1, 2, -1)
    assert call.visible(columns)[:, 0, 0].tolist() == [[True, False, True], [False, True, True]]
