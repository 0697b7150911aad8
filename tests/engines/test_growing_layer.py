"""The cache layer that grows in place: nobody writes into what another reads."""

import copy

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

import szilard
from szilard.engines.growing_layer import GrowingLayer, grow_in_place
from tests.conftest import prompt_batch, tiny_model


def states(tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, tokens, 4, generator=generator), torch.randn(2, 3, tokens, 4, generator=generator)


def pair():
    return GrowingLayer(), DynamicLayer()


def assert_same(ours, theirs):
    assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_it_holds_what_a_dynamic_layer_holds():
    ours, theirs = pair()
    for step, tokens in enumerate((5, 1, 1, 600, 2)):
        for layer in (ours, theirs):
            layer.update(*states(tokens, step))
        assert_same(ours, theirs)
        if tokens == 600:
            for layer in (ours, theirs):
                layer.crop(-20)
    assert ours.moves == 2  # the first tokens, and the six hundred: single ones are written in place


def test_a_step_moves_nothing_that_is_there():
    layer = GrowingLayer()
    layer.update(*states(5, 0))
    place = layer.keys.data_ptr()
    layer.update(*states(1, 1))
    assert layer.keys.data_ptr() == place and layer.moves == 1


def test_a_copy_and_its_original_go_apart():
    ours = GrowingLayer()
    ours.update(*states(5, 0))
    twin = copy.copy(ours)
    ours.update(*states(1, 1))
    twin.update(*states(1, 2))
    ours.crop(-3)
    ours.update(*states(3, 3))
    expected = torch.cat([states(5, 0)[0], states(1, 2)[0]], dim=2)
    assert torch.equal(twin.keys, expected)


@pytest.mark.parametrize("change", ["select", "repeat", "put"])
def test_rows_that_were_moved_are_not_written_over(change):
    ours, theirs = pair()
    for layer in (ours, theirs):
        layer.update(*states(5, 0))
        if change == "select":
            layer.batch_select_indices(torch.tensor([1]))
        elif change == "repeat":
            layer.batch_repeat_interleave(2)
        else:
            layer.keys, layer.values = layer.keys.flip(0), layer.values.flip(0)
        rows = layer.keys.shape[0]
        layer.update(*(part[:1].expand(rows, -1, -1, -1) for part in states(1, 1)))
    assert_same(ours, theirs)


def test_what_was_made_in_inference_mode_may_grow_outside():
    layer = GrowingLayer()
    with torch.inference_mode():
        layer.update(*states(5, 0))
    layer.update(*states(1, 1))
    assert layer.get_seq_length() == 6


def test_only_layers_that_keep_every_token_are_replaced():
    cache = DynamicCache(config=tiny_model("gemma3").config)
    grow_in_place(cache)
    kinds = [type(layer).__name__ for layer in cache.layers]
    assert kinds == ["DynamicSlidingWindowLayer", "GrowingLayer", "DynamicSlidingWindowLayer"]


def test_a_conversation_goes_on_in_the_cache_of_the_one_before(llama):
    inputs = prompt_batch(1)
    plain = llama.generate(**inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True)
    ours = llama.generate(
        **inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True, custom_generate=szilard.Greedy()
    )
    assert torch.equal(plain.sequences, ours.sequences)
    for run in (plain, ours):
        longer = torch.cat([run.sequences, torch.tensor([[5, 6, 7]])], dim=1)
        run.further = llama.generate(longer, past_key_values=run.past_key_values, max_new_tokens=6, do_sample=False)
    assert torch.equal(plain.further, ours.further)
