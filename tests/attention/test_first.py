"""FiRST and fixed layer skipping: exact where nothing is skipped, and elsewhere what a smaller model computes."""

from __future__ import annotations

import copy

import pytest
import torch

import szilard
from szilard.attention.first.choose import below, lowest, most_skippable
from szilard.attention.layer_skip import block_influence
from tests.attention.routers import deciding_routers, fixed_routers
from tests.conftest import PAD, prompt_batch, tiny_model


def generate(model, inputs, **options):
    settings = {"max_new_tokens": 10, "do_sample": False, "suppress_tokens": [PAD], "eos_token_id": None} | options
    with torch.no_grad():
        return model.generate(**inputs, **settings)


def without(model, layer):
    """The same model with a layer taken out, and the others renumbered."""
    smaller = copy.deepcopy(model)
    decoder = smaller.get_decoder()
    decoder.layers = torch.nn.ModuleList(
        each for index, each in enumerate(copy.deepcopy(decoder).layers) if index != layer
    )
    for index, each in enumerate(decoder.layers):
        each.self_attn.layer_idx = index
    smaller.config.num_hidden_layers = len(decoder.layers)
    return smaller


@pytest.mark.parametrize("prefill", ["full", "skip"])
@pytest.mark.parametrize("rows", [1, 3])
def test_layers_that_are_all_wanted_change_no_token(model, rows, prefill):
    inputs = prompt_batch(rows)
    plain = generate(model, inputs)
    with szilard.First(fixed_routers([1.0, 1.0, 1.0]), protect=(), prefill=prefill)(model) as run:
        assert torch.equal(plain, generate(model, inputs))
    assert run.skip_rate == 0 and run.summary()["layers_run_share"] == 1


def test_a_rate_of_nothing_changes_no_token(llama):
    inputs = prompt_batch(3)
    plain = generate(llama, inputs)
    with szilard.First(deciding_routers(), rate=0.0)(llama):
        assert torch.equal(plain, generate(llama, inputs))


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_skipping_a_layer_is_a_model_without_it(layer, use_cache):
    llama, inputs = tiny_model("llama"), prompt_batch(3)
    wanted = generate(without(llama, layer), inputs, use_cache=use_cache)
    with szilard.LayerSkip(layers=(layer,), prefill="skip")(llama) as run:
        assert torch.equal(wanted, generate(llama, inputs, use_cache=use_cache))
    assert run.layer_calls[layer] == 0


@pytest.mark.parametrize("rows", [1, 4])
def test_with_a_cache_is_as_without_one(model, rows):
    inputs = prompt_batch(rows)
    with szilard.First(deciding_routers(), protect=(0,), prefill="skip")(model) as run:
        cached = generate(model, inputs, max_new_tokens=6)
        kept = run.kept
    assert run.skip_rate > 0
    for row in range(rows):
        length = int(inputs["attention_mask"][row].sum())
        skipped = tuple(layer for layer in range(3) if not kept[row, layer])
        alone = {name: value[row : row + 1, -length:] for name, value in inputs.items()}
        with szilard.LayerSkip(layers=skipped, prefill="skip")(model):
            whole = generate(model, alone, max_new_tokens=6, use_cache=False)
        assert whole[0, length:].tolist() == cached[row, inputs["input_ids"].shape[1] :].tolist()


def test_only_kept_layers_are_called_for_a_generated_token(llama):
    with szilard.First(fixed_routers([0.9, 0.1, 0.9]))(llama) as run:
        generate(llama, prompt_batch(1), max_new_tokens=8)
    assert run.kept.tolist() == [[True, False, True]]
    assert run.layer_calls == [8, 1, 8]  # a prompt, and seven tokens that are fed
    counts = run.summary()
    assert counts["layers_run"] == 14 and counts["layers_run_share"] == pytest.approx(2 / 3)
    assert counts["prompt_layers_run_share"] == 1
    assert counts["kv_read_share"] == pytest.approx(2 / 3) and counts["kv_held_share"] == pytest.approx(2 / 3)


def test_a_union_keeps_what_any_row_keeps_alone(llama):
    inputs = prompt_batch(4)
    alone = []
    for row in range(4):
        length = int(inputs["attention_mask"][row].sum())
        with szilard.First(deciding_routers(), protect=())(llama) as run:
            generate(llama, {name: value[row : row + 1, -length:] for name, value in inputs.items()})
        alone.append(run.kept[0])
    with szilard.First(deciding_routers(), protect=(), batch="union")(llama) as run:
        generate(llama, inputs)
    assert torch.equal(run.kept, torch.stack(alone).any(0).expand(4, -1)) and not torch.stack(alone).all()
    with szilard.First(deciding_routers(), protect=())(llama) as run:
        generate(llama, inputs)
    assert torch.equal(run.kept, torch.stack(alone))


def test_padding_has_no_say(llama):
    inputs = prompt_batch(4)
    for aggregate in ("mean", "last", "vote"):
        with szilard.First(deciding_routers(), protect=(), aggregate=aggregate)(llama) as run:
            llama(**inputs)
            together = run.probabilities
            for row in range(4):
                llama(input_ids=inputs["input_ids"][row : row + 1, -int(inputs["attention_mask"][row].sum()) :])
                assert torch.allclose(run.probabilities[0], together[row])


@pytest.mark.parametrize("aggregate", ["mean", "last", "vote"])
def test_a_prompt_in_parts_is_decided_as_a_whole(llama, aggregate):
    inputs = prompt_batch(3)
    with szilard.First(deciding_routers(), rate=0.34, protect=(0,), aggregate=aggregate)(llama) as run:
        whole, kept = generate(llama, inputs), run.kept
        parts = generate(llama, inputs, prefill_chunk_size=4)
    assert torch.equal(kept, run.kept) and torch.equal(whole, parts)


def test_every_cache_has_a_decision_of_its_own(llama):
    one, other = (prompt_batch(1, seed=seed)["input_ids"] for seed in (3, 4))
    method = szilard.First(deciding_routers(scale=4.0), protect=(0,), rate=0.34)
    with method(llama) as run, torch.no_grad():
        caches = [llama(input_ids=ids).past_key_values for ids in (one, other)]
        decisions = [[layer.keep for layer in cache.layers] for cache in caches]
        for cache in caches:
            llama(input_ids=torch.tensor([[9]]), past_key_values=cache)
        assert [[layer.keep for layer in cache.layers] for cache in caches] == decisions
        assert [layer.absent for layer in caches[0].layers] == [keep == (False,) for keep in decisions[0]]
        assert run.kept is not None and caches[0].get_seq_length() == one.shape[1] + 1


@pytest.mark.parametrize("prefill", ["full", "skip"])
def test_drafts_and_beams_leave_the_text_as_it_is(engine, prefill):
    method = szilard.First(deciding_routers(), protect=(0,), prefill=prefill)
    prompts = [torch.arange(10, 30), torch.tensor([11, 12, 13, 11, 12, 13, 11])]
    options = {"attention": method, "max_new_tokens": 16, "suppress_tokens": [PAD]}
    plain = [result.tokens for result in engine.generate(prompts, **options)]
    assert plain == [result.tokens for result in engine.generate(prompts, "prompt-lookup", **options)]
    beams = engine.generate(prompts, szilard.BeamSearch(beams=3), **options)
    for prompt, result in zip(prompts, beams, strict=True):
        assert engine.generate(prompt, szilard.BeamSearch(beams=3), **options).tokens == result.tokens


def test_a_skipped_layer_cannot_be_run_again(llama):
    with szilard.LayerSkip(layers=(1,))(llama), torch.no_grad():
        past = llama(input_ids=torch.tensor([[5, 6, 7]])).past_key_values
        llama(input_ids=torch.tensor([[8]]), past_key_values=past)
    with pytest.raises(ValueError, match="holes"):
        llama(input_ids=torch.tensor([[9]]), past_key_values=past)


def test_a_prompt_that_was_read_before_is_refused(llama):
    with torch.no_grad():
        past = llama(input_ids=torch.tensor([[5, 6, 7]])).past_key_values
        with szilard.First(deciding_routers())(llama), pytest.raises(ValueError, match="read before 'first' was open"):
            llama(input_ids=torch.tensor([[8]]), past_key_values=past)


def test_layers_are_chosen_by_hand():
    scores = [0.9, 0.2, 0.1, 0.3, 0.2, 0.9]
    assert below(scores, 0.25, {0, 5}, None) == [True, False, False, True, False, True]
    assert below(scores, 0.25, {0, 5}, 1) == [True, True, False, True, False, True]
    assert below(scores, 0.0, {0, 5}, None) == [True] * 6
    assert lowest(scores, 2, {0, 5}, None) == [True, False, False, True, True, True]
    assert lowest(scores, 2, {0, 5}, 1) == [True, True, False, True, False, True]
    assert lowest([0.5] * 5, 3, set(), 1) == [False, True, False, True, False]
    assert most_skippable(6, {0, 5}, None) == 4 and most_skippable(6, {0, 5}, 1) == 2


def test_at_most_so_many_layers_in_a_row():
    torch.manual_seed(0)
    for _ in range(50):
        scores, cap = torch.rand(9).tolist(), int(torch.randint(1, 4, ()))
        count = most_skippable(9, {0, 8}, cap)
        for keep in (below(scores, 0.6, {0, 8}, cap), lowest(scores, count, {0, 8}, cap)):
            runs = "".join("k" if kept else "s" for kept in keep).split("k")
            assert max(map(len, runs)) <= cap and keep[0] and keep[8]
        assert lowest(scores, count, {0, 8}, cap).count(False) == count


def test_fixed_sets():
    assert szilard.LayerSkip.unified(10, 2).layers == (3, 7)
    assert len(set(szilard.LayerSkip.unified(30, 28).layers)) == 28
    assert szilard.LayerSkip.early_exit(6, 4).layers == (4, 5)
    drawn = szilard.LayerSkip.random(30, 5, seed=1).layers
    assert len(set(drawn)) == 5 and min(drawn) >= 1 and max(drawn) <= 28
    assert drawn != szilard.LayerSkip.random(30, 5, seed=2).layers


def test_block_influence_is_that_of_the_hidden_states(llama):
    texts = [torch.arange(5, 20), torch.arange(30, 37)]
    influence = block_influence(llama, texts)
    copied = copy.deepcopy(llama)  # transformers leaves its hooks on a model that was asked for hidden states
    states = [copied(input_ids=text[None], output_hidden_states=True).hidden_states for text in texts]
    for layer in range(2):  # what transformers reports behind the last layer went through the norm
        cosine = [torch.cosine_similarity(each[layer], each[layer + 1], dim=-1)[0] for each in states]
        assert influence[layer] == pytest.approx(float(1 - torch.cat(cosine).mean().detach()))
    assert szilard.LayerSkip.block_influence(llama, texts, 1).layers == (1,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: szilard.First(rate=0.5, prefill="skip"), "rate compares all layers"),
        (lambda: szilard.First(batch="columns"), "batch must be one of"),
        (lambda: szilard.First(routers=3), "must be a LayerRouters"),
        (lambda: szilard.First()(tiny_model("llama")).__enter__(), "needs trained routers"),
        (lambda: szilard.First(deciding_routers(5))(tiny_model("llama")).__enter__(), "for 5 layers"),
        (lambda: szilard.First(deciding_routers(), rate=0.9)(tiny_model("llama")).__enter__(), "allow 1"),
        (lambda: szilard.First(deciding_routers(), protect=(7,))(tiny_model("llama")).__enter__(), "lies beyond"),
        (lambda: szilard.LayerSkip(layers=(3,))(tiny_model("llama")).__enter__(), "lie beyond the 3 layers"),
        (lambda: szilard.LayerSkip.unified(8, 7), "skipped must be between 0 and 6"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
