"""ComprExIT: what its gates, capacities, plans and slots are, and what leaves the model as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import szilard
from szilard.compression.comprexit.add_on import ComprExITAddOn
from szilard.compression.comprexit.diagnostics import plan_rank
from szilard.compression.comprexit.encode import read, transmit
from szilard.compression.comprexit.method import ComprExIT
from szilard.compression.comprexit.width import WidthTransmission, fields, slots_per_window
from szilard.compression.teacher_forcing import teacher_forced
from szilard.engines import TransformersEngine
from tests.conftest import VOCAB, tiny_model, tiny_tokenizer

SMALL = {"ratio": 4, "window": 8, "gate_width": 8, "metric_width": 8, "unit_states": True}


def _add_on(**settings) -> ComprExITAddOn:
    return ComprExITAddOn.from_causal_lm(tiny_model("llama"), **{**SMALL, **settings})


def _ids(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(7, VOCAB, (length,), generator=generator) for length in lengths]


def _states(batch: int, tokens: int, add_on: ComprExITAddOn, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, tokens, 32, generator=generator) * (layer + 1) for layer in range(add_on.layers + 1)]


def _random_weights(add_on: ComprExITAddOn, seed: int = 2) -> ComprExITAddOn:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in add_on.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return add_on


# ------------------------------------------------------------------------------------------------ gates


def test_gates_add_up_to_one_for_tokens_and_to_nothing_for_padding() -> None:
    add_on = _random_weights(_add_on())
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    anchors, gates = add_on.depth(_states(2, 5, add_on), mask)
    torch.testing.assert_close(gates.sum(-1), mask.float())
    assert gates.shape == (2, 5, 4) and anchors.shape == (2, 5, 32)


@pytest.mark.parametrize("unit_states", [True, False])
def test_gates_and_anchors_are_the_published_sums(unit_states: bool) -> None:
    add_on = _random_weights(_add_on(unit_states=unit_states))
    depth, states = add_on.depth, _states(2, 5, add_on)
    anchors, gates = depth(states, torch.ones(2, 5, dtype=torch.bool))
    h = torch.stack(states, dim=2)  # [batch, tokens, L + 1, d]
    if unit_states:
        h = h / h.square().mean(-1, keepdim=True).sqrt()
    about = (depth.prior.softmax(0)[:, None] * h).sum(2)
    keys = depth.key(h) + depth.layer
    scores = (depth.query(about)[:, :, None] * keys).sum(-1) / (8**0.5 * 0.7)
    torch.testing.assert_close(gates, scores.softmax(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(anchors, (gates[..., None] * depth.value(h)).sum(2), atol=1e-4, rtol=1e-4)


def test_gates_on_one_layer_are_the_single_layer_variant() -> None:
    every, single = _add_on(), _add_on(source=2)
    single.load_state_dict(every.state_dict(), strict=False)
    assert not hasattr(single.depth, "query")
    with torch.no_grad():
        every.depth.query.weight.zero_()
        every.depth.query.bias.fill_(1.0)
        every.depth.layer[2] = 1e3
    states, mask = _states(2, 11, every), torch.ones(2, 11, dtype=torch.bool)
    torch.testing.assert_close(every(states, mask).slots, single(states, mask).slots, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------- windows, capacities, plans


@given(st.integers(1, 200), st.floats(1, 300))
def test_fields_cut_a_window_into_runs_of_nearly_one_length(window: int, ratio: float) -> None:
    count = slots_per_window(window, ratio)
    assert count * ratio >= window - 1e-6 and (count == 1 or (count - 1) * ratio < window + 1e-6)  # the fewest that do
    owner = fields(window, count)
    sizes = owner.bincount(minlength=count).tolist()
    assert sum(sizes) == window and sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
    assert (owner.diff() >= 0).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.sampled_from(["first", "last"]), st.integers(1, 8))
def test_windows_and_slots_are_those_that_one_counts_by_hand(lengths: list[int], alignment: str, count: int) -> None:
    add_on = _add_on(alignment=alignment)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        made = add_on(_states(len(lengths), max(lengths), add_on), mask, count)
    for row, length in enumerate(lengths):
        used = set()
        for token in range(length):
            place = token if alignment == "first" else token + (-length) % 8
            window, inside = divmod(place, 8)
            assert made.places[row, window, inside] == token
            used.add(window * count + int(fields(8, count)[inside]))
        assert set(made.valid[row].nonzero()[:, 0].tolist()) == used
        assert int((made.places[row] >= 0).sum()) == length
        assert add_on.positions(length, count, 100) == len(used)
    assert not made.slots[~made.valid].any()


def test_capacities_are_even_at_first_and_never_below_the_floor() -> None:
    add_on = _add_on()
    windows = torch.randn(2, 3, 8, 32, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 3, 8, dtype=torch.bool)
    mask[1, 2, 5:] = False
    mask[0, 2] = False  # a window of padding
    even = mask / mask.sum(-1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(add_on.width.senders(windows, mask), even)
    learned = _random_weights(add_on).width.senders(windows * 30, mask)
    torch.testing.assert_close(learned.sum(-1), mask.any(-1).float())
    assert (learned >= 0.05 * even - 1e-7).all() and not torch.allclose(learned, even, atol=1e-2)
    uniform = _random_weights(_add_on(capacity="uniform")).width
    assert uniform.capacity is None
    torch.testing.assert_close(uniform.senders(windows, mask), even)


@pytest.mark.parametrize("transmission", ["transport", "attention"])
def test_slots_are_convex_combinations_of_values(transmission: str) -> None:
    width = _random_weights(_add_on(transmission=transmission)).width
    windows = torch.randn(2, 3, 8, 32, generator=torch.Generator().manual_seed(4))
    mask = torch.ones(2, 3, 8, dtype=torch.bool)
    mask[1, 2, 3:] = False
    moved = width(windows, mask, 3)
    taken = moved.valid / moved.valid.sum(-1, keepdim=True)
    torch.testing.assert_close(moved.plan.sum(-2), taken, atol=1e-6, rtol=0)
    assert (moved.plan >= 0).all() and not moved.plan[~mask].any()
    values = width.value(width.value_norm(windows))  # [batch, windows, W, d]
    published = moved.plan.mT @ values / taken.clamp(min=1e-9)[..., None] * moved.valid[..., None]
    torch.testing.assert_close(moved.slots, published, atol=1e-4, rtol=1e-4)
    low = values.masked_fill(~mask[..., None], float("inf")).amin(-2, keepdim=True)
    high = values.masked_fill(~mask[..., None], -float("inf")).amax(-2, keepdim=True)
    inside = (moved.slots >= low - 1e-4) & (moved.slots <= high + 1e-4)
    assert (inside.all(-1) | ~moved.valid).all()


def test_a_plan_uses_more_directions_than_slots_that_take_for_themselves() -> None:
    transport, attention = (_add_on(transmission=kind).width for kind in ("transport", "attention"))
    windows = torch.randn(20, 1, 8, 32, generator=torch.Generator().manual_seed(5))
    windows[:, :, 2] *= 0.1  # near the mean of every field
    windows = windows + 2 * torch.randn(20, 1, 1, 32, generator=torch.Generator().manual_seed(6))
    mask = torch.ones(20, 1, 8, dtype=torch.bool)
    transport.load_state_dict(attention.state_dict(), strict=False)
    ranks = [plan_rank(width(windows, mask, 4).plan).mean() for width in (transport, attention)]
    assert 1 < ranks[1] < ranks[0] <= 4


def test_plans_stay_in_float32_under_autocast() -> None:
    add_on = _random_weights(_add_on())
    states, mask = _states(1, 16, add_on), torch.ones(1, 16, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = add_on(states, mask)
    assert made.plan.dtype == torch.float32
    torch.testing.assert_close(made.plan.sum(-2), torch.full((1, 2, 2), 0.5), atol=1e-6, rtol=0)


# -------------------------------------------------------------------------------------------------- on a model


@torch.no_grad()
@pytest.mark.parametrize("alignment", ["first", "last"])
def test_a_context_is_compressed_the_same_alone_and_in_a_batch(model, alignment: str) -> None:
    add_on = _random_weights(ComprExITAddOn.from_causal_lm(model, **SMALL, alignment=alignment))
    contexts = _ids(19, 5, 8, 30)
    together = transmit(model, add_on, contexts, segment=16)
    few = transmit(model, add_on, contexts, segment=16, batch_size=2)
    for context, one, other in zip(contexts, together, few, strict=True):
        alone = transmit(model, add_on, [context], segment=16)[0]
        for name in ("vectors", "plan", "gates", "places", "valid", "capacity"):
            torch.testing.assert_close(getattr(one, name), getattr(alone, name), atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(getattr(other, name), getattr(alone, name), atol=1e-4, rtol=1e-3)
        assert one.gates.shape == (len(context), add_on.layers + 1)


@torch.no_grad()
def test_a_long_context_is_its_segments_side_by_side(llama) -> None:
    add_on = _random_weights(_add_on())
    context = _ids(41)[0]
    whole = transmit(llama, add_on, [context], segment=16)[0]
    pieces = transmit(llama, add_on, list(context.split(16)), segment=16)
    torch.testing.assert_close(whole.vectors, torch.cat([piece.vectors for piece in pieces]), atol=1e-5, rtol=1e-4)
    assert whole.places[whole.places >= 0].tolist() == list(range(41))


@torch.no_grad()
def test_hidden_states_are_those_of_the_model(model) -> None:
    contexts = _ids(9, 4)
    hidden, mask = read(model, contexts)
    assert mask.sum(1).tolist() == [9, 4]
    for row, context in enumerate(contexts):
        alone = model(context[None], output_hidden_states=True).hidden_states
        for mine, theirs in zip(hidden, alone, strict=True):
            torch.testing.assert_close(mine[row, : len(context)], theirs[0])


def test_everything_of_the_add_on_learns_and_nothing_of_the_model(llama) -> None:
    model = copy.deepcopy(llama).requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    add_on = _random_weights(_add_on())
    optimiser = torch.optim.AdamW(add_on.parameters(), lr=1e-2)
    contexts, targets = _ids(24, 13), _ids(6, 4, seed=9)
    losses = []
    for step in range(5):
        made = transmit(model, add_on, contexts, segment=16)
        loss = teacher_forced(model, [row.vectors.double() for row in made], targets).loss
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            still = [name for name, weight in add_on.named_parameters() if not weight.grad.abs().max() > 0]
            assert set(still) <= {"width.capacity.1.bias"}  # a softmax over senders follows: one number for all is none
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


# -------------------------------------------------------------------------------------------------- the method


def test_compress_gives_a_soft_prompt_with_its_trace(engine) -> None:
    method = ComprExIT.from_causal_lm(engine, **SMALL)
    texts = [" ".join(f"w{7 + index % 80}" for index in range(length)) for length in (21, 3)]
    long, short = method.compress(texts, engine=engine)
    assert (long.positions, short.positions) == (6, 1)  # of windows of 8, 8 and 5 tokens; of one of 3 tokens
    assert (long.original_tokens, long.method, long.model) == (21, "comprexit", engine.fingerprint)
    assert long.embeddings.dtype == engine.model.dtype and not long.embeddings.requires_grad
    assert long.trace["plan"].shape == (3, 8, 2) and long.trace["gates"].shape == (21, 4)
    assert long.trace["tokens"].tolist() == engine.tokenizer.encode(texts[0], add_special_tokens=False)
    assert long.cost["encoder_tokens"] == 21 and long.cost["layer_tokens"] == 63
    again = method.compress([long.trace["tokens"]], engine=engine)[0]
    torch.testing.assert_close(again.embeddings, long.embeddings)


def test_budgets_other_than_the_trained_one_are_met(engine) -> None:
    method = ComprExIT.from_causal_lm(engine, **SMALL)
    context = _ids(20)[0]
    positions = {budget: method.compress([context], budget, engine=engine)[0].positions for budget in (0.25, 0.5, 1.0)}
    assert positions == {0.25: 5, 0.5: 10, 1.0: 20}
    odd = _ids(21)[0]
    assert [method.compress([odd], budget, engine=engine)[0].positions for budget in (None, 0.25)] == [6, 3]
    for most in (3, 4, 7, 11, 20):
        assert 3 <= method.compress([context], most, engine=engine)[0].positions <= most
    with pytest.raises(ValueError, match="takes 3 positions at least, not 2"):
        method.compress([context], 2, engine=engine)
    with pytest.raises(ValueError, match="larger than the context"):
        method.compress([context], 21, engine=engine)


@torch.no_grad()
def test_the_neutral_setting_gives_the_tokens_own_embeddings(engine) -> None:
    context = _ids(9)[0]
    soft = ComprExIT.neutral().compress([context], engine=engine)[0]
    assert torch.equal(soft.embeddings, engine.model.get_input_embeddings()(context)) and soft.rate == 1
    mixed = ComprExIT(_add_on(), keep_below=10).compress([context, _ids(16)[0]], engine=engine)
    assert [soft.positions for soft in mixed] == [9, 4]


def test_what_cannot_work_is_refused_in_a_sentence(engine) -> None:
    with pytest.raises(ValueError, match="needs a trained add-on"):
        ComprExIT().compress(["w9"], engine=engine)
    method = ComprExIT(_add_on())
    for empty in ("", "  "):
        with pytest.raises(ValueError, match="empty"):
            method.compress([empty], engine=engine)
    with pytest.raises(TypeError, match="a context is text"):
        method.compress([3], engine=engine)
    other = TransformersEngine(tiny_model("qwen2"), tiny_tokenizer(), name="other")
    with pytest.raises(ValueError, match="other weights"):
        ComprExIT(_add_on(), segment=64).compress(["w9"], engine=other)
    for name, value in (("ratio", 0.5), ("floor", 2), ("epsilon", 0), ("source", 4), ("transmission", "magic")):
        with pytest.raises(ValueError, match=name):
            _add_on(**{name: value})


def test_the_add_on_comes_back_from_its_folder(engine, tmp_path) -> None:
    method = ComprExIT.from_causal_lm(engine, **SMALL, seed=3)
    assert method.checkpoint is not None
    method.checkpoint.save_pretrained(tmp_path)
    context = _ids(12)
    wanted = method.compress(context, engine=engine)[0].embeddings
    for loaded in (ComprExIT.from_pretrained(tmp_path), ComprExIT(str(tmp_path))):
        assert torch.equal(loaded.compress(context, engine=engine)[0].embeddings, wanted)
    assert str(szilard.ComprExIT(str(tmp_path))).startswith("comprexit(checkpoint=")


def test_drawing_the_first_weights_leaves_the_global_generator_alone(llama) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = _add_on(seed=1), _add_on(seed=1)
    assert torch.equal(torch.get_rng_state(), state) and first.fingerprint == second.fingerprint


def test_a_weight_on_distance_keeps_slots_to_their_fields() -> None:
    torch.manual_seed(0)
    settings = {"metric_width": 8, "transmission": "transport", "capacity": "uniform", "capacity_temperature": 1.0}
    settings |= {"floor": 0.05, "epsilon": 0.1, "iterations": 30}
    near = WidthTransmission(16, **settings, position=50.0)
    windows, mask = torch.randn(1, 1, 8, 16), torch.ones(1, 1, 8, dtype=torch.bool)
    moved = near(windows, mask, 4)
    owner = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    expected = torch.nn.functional.one_hot(owner, 4).float() / 8
    torch.testing.assert_close(moved.plan[0, 0], expected, atol=1e-4, rtol=0)
