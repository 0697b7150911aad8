"""EntropyPrune: who stays, and that the shorter prompt is computed as if what left were only hidden."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
import torch
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import szilard
from szilard.attention.token_budget import flops_reduction
from szilard.information import token_matrix_entropy
from tests.conftest import PAD, prompt_batch, tiny_model

SPANS = ((1, 6), (2, 4))  # per row of a batch of two


@contextlib.contextmanager
def hidden_from(model, layer, dropped):
    """The stock model, whose layers from `layer` on do not see some columns, bool [batch, columns]."""

    def hide(module, arguments, options):
        by_place = "attention_mask" not in options  # GPT-2
        mask = arguments[2] if by_place else options["attention_mask"]
        width = dropped.shape[1]
        if mask is None:  # causal
            mask = torch.ones(width, width, dtype=torch.bool).tril()[None, None]
        mask = mask & ~dropped[:, None, None]
        if by_place:
            return (*arguments[:2], mask, *arguments[3:]), options
        return arguments, options | {"attention_mask": mask}

    decoder = model.get_decoder()
    layers = decoder.layers if hasattr(decoder, "layers") else decoder.h
    handles = [one.register_forward_pre_hook(hide, with_kwargs=True) for one in list(layers)[layer:]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def dropped_columns(run, mask, width):
    """Columns of the padded text that left the prompt, bool [batch, width]."""
    dropped = torch.zeros(len(mask), width, dtype=torch.bool)
    for row, kept in enumerate(run.kept):
        columns = mask[row].nonzero()[:, 0]
        gone = torch.ones(len(columns), dtype=torch.bool)
        gone[kept] = False
        dropped[row, columns[gone]] = True
    return dropped


@pytest.mark.parametrize("layer", [1, 2])
def test_decoding_after_pruning_is_that_of_a_mask_that_hides_what_left(model, layer):
    inputs = prompt_batch(2)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    more = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(5))
    longer = torch.cat([mask, torch.ones_like(more)], dim=1)
    positions = (longer.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    parts, start = [], 0
    with torch.no_grad(), szilard.EntropyPrune(layer=layer, keep=2, span=SPANS)(model) as run:
        for end in (11, 12, 13, 16, 20):  # the prompt, single tokens, several at once
            given = torch.cat([ids, more], dim=1)[:, start:end]
            parts.append(
                model(
                    given,
                    attention_mask=longer[:, :end],
                    position_ids=positions[:, start:end],
                    past_key_values=cache,
                    use_cache=True,
                ).logits
            )
            start = end
    found = torch.cat(parts, dim=1)
    dropped = dropped_columns(run, mask, 20)
    assert dropped.sum(1).tolist() == [4, 2]
    with torch.no_grad(), hidden_from(model, layer, dropped):
        wanted = model(torch.cat([ids, more], dim=1), attention_mask=longer, position_ids=positions).logits
    stays = longer.bool() & ~dropped
    assert torch.allclose(found[stays], wanted[stays], atol=1e-9)


def test_the_heads_of_the_last_layer_that_ran_say_what_stays(llama):
    inputs = prompt_batch(1)
    llama = copy.deepcopy(llama)  # transformers leaves hooks behind where hidden states were asked for
    with torch.no_grad():
        states = llama(**inputs, output_hidden_states=True).hidden_states[1]  # what layer 1 gets
        block = llama.model.layers[1]
        query = block.self_attn.q_proj(block.input_layernorm(states)).view(1, 11, 4, 8).transpose(1, 2)
        query, _ = apply_rotary_pos_emb(query, query, *llama.model.rotary_emb(states, torch.arange(11)[None]))
        wanted = token_matrix_entropy(query[:, :, 2:9])[0]
        with szilard.EntropyPrune(layer=2, keep=3, span=(2, 7))(llama) as run:
            llama(**inputs, use_cache=True)
    assert torch.allclose(run.scores[0], wanted, atol=1e-10)
    best = wanted.topk(3).indices.sort().values
    assert torch.equal(run.kept_visual[0], best)
    assert run.kept[0].tolist() == [0, 1, *(2 + best).tolist(), 9, 10]


def test_the_controls_choose_what_they_say(llama):
    inputs, kept = prompt_batch(1), {}
    for score in ("entropy", "low-entropy", "released", "stride", "random", "attention"):
        with torch.no_grad(), szilard.EntropyPrune(layer=1, keep=4, span=(1, 8), score=score)(llama) as run:
            llama(**inputs, use_cache=True)
        kept[score] = run.kept_visual[0].tolist()
        assert kept[score] == sorted(set(kept[score])) and len(kept[score]) == 4
    assert set(kept["entropy"]) | set(kept["low-entropy"]) == set(range(8))
    assert kept["stride"] == [1, 3, 5, 7]
    eager = copy.deepcopy(llama)
    eager.set_attn_implementation("eager")
    weights = eager(**inputs, output_attentions=True).attentions[0][0, :, -1].mean(0)
    assert kept["attention"] == weights[1:9].topk(4).indices.sort().values.tolist()


def test_random_draws_depend_on_the_seed_and_on_the_text_alone(llama):
    inputs, drawn = prompt_batch(2), []
    for seed in (0, 0, 1):
        with (
            torch.no_grad(),
            szilard.EntropyPrune(layer=1, keep=4, span=(0, 8), score="random", seed=seed)(llama) as run,
        ):
            llama(**inputs, use_cache=True)
        drawn.append([scores.tolist() for scores in run.scores])
    assert drawn[0] == drawn[1] != drawn[2] and drawn[0][0] != drawn[0][1]


def test_keeping_as_many_as_there_are_changes_nothing(llama):
    inputs = prompt_batch(2)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        plain = llama(**inputs).logits[real]
        for keep, changes in ((1.0, False), (9, False), (1, True)):
            with szilard.EntropyPrune(layer=1, keep=keep, span=(1, 6))(llama) as run:
                same = torch.allclose(llama(**inputs, use_cache=True).logits[real], plain, atol=1e-10)
            assert same != changes and run.summary()["prunable_flops_share"] <= 1


def test_beams_carry_their_columns(llama):
    method = szilard.EntropyPrune(layer=1, keep=2, span=(1, 5))
    settings = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False, "suppress_tokens": [PAD]}
    inputs = prompt_batch(2)
    with method(llama):
        together = llama.generate(**inputs, **settings)
        alone = llama.generate(inputs["input_ids"][1:, 2:], **settings)
    assert together[1, 11 : 11 + 8].tolist() == alone[0, 9:].tolist()


def test_what_was_saved_is_counted(llama):
    with szilard.EntropyPrune(layer=1, average_keep=6, span=(0, 10))(llama) as run:
        llama.generate(prompt_batch(1)["input_ids"], max_new_tokens=3, do_sample=False, suppress_tokens=[PAD])
    found = run.summary()
    assert found["prunable_tokens"] == 10 and found["prunable_tokens_kept"] == 4  # (3 x 6 - 10) / 2
    assert found["prunable_flops_share"] == pytest.approx(1 - flops_reduction(3, 1, 10, 4, 32, 48))
    assert found["kv_read_share"] == pytest.approx((12 + 6 + 6 + 13 + 7 + 7) / (3 * 25))
    assert found["kv_held_share"] == pytest.approx((13 + 7 + 7) / 39)


def test_only_tokens_behind_the_last_gap_can_be_taken_back(llama):
    cache = DynamicCache(config=llama.config)
    with torch.no_grad(), szilard.EntropyPrune(layer=1, keep=2, span=(2, 5))(llama):
        llama(**prompt_batch(1), past_key_values=cache, use_cache=True)
        cache.crop(-2)
        assert cache.get_seq_length() == 9 and cache.layers[2].stored == 6
        with pytest.raises(ValueError, match="cannot be taken back"):
            cache.crop(-7)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer": 0}, "layer must be"),
        ({"layer": "nowhere.json"}, "neither a whole number nor a file"),
        ({"keep": 0}, "keep must be"),
        ({"keep": 0.0}, "keep must be above 0"),
        ({"keep": 4, "average_keep": 4}, "not both"),
        ({"score": "best"}, "score must be one of"),
        ({"states": "value"}, "states must be one of"),
        ({"span": (3, 0)}, "span is"),
        ({"span": (1, 2, 3)}, "span is"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        szilard.EntropyPrune(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer": 3, "span": (0, 2)}, "between 1 and 2"),
        ({}, "span="),
        ({"states": "key", "span": (0, 2)}, "2 key heads"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_when_opening(llama, settings, words):
    with pytest.raises(ValueError, match=words), szilard.EntropyPrune(**settings)(llama):
        pass


def test_spans_that_do_not_fit_the_prompt_are_refused(llama):
    for span, words in (((5, 20), "ends beyond"), (((0, 2),) * 3, "3 rows")):
        with (
            szilard.EntropyPrune(layer=1, keep=1, span=span)(llama),
            pytest.raises(ValueError, match=words),
        ):
            llama(**prompt_batch(2), use_cache=True)


def test_a_profile_names_the_layer(llama, tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"entropy": [3.0, 2.0, 2.0], "layer": 1}))
    with szilard.EntropyPrune(layer=str(path), span=(0, 2))(llama) as run:
        assert run.after == 1
    path.write_text(json.dumps({"entropy": [3.0, 2.0], "layer": 1}))
    with pytest.raises(ValueError, match="2 layers"), szilard.EntropyPrune(layer=str(path), span=(0, 2))(llama):
        pass


def test_a_chat_that_goes_on_is_not_pruned_again():
    model, cache = tiny_model("llama"), DynamicCache()
    ids = prompt_batch(1)["input_ids"]
    with torch.no_grad(), szilard.EntropyPrune(layer=1, keep=2, span=(1, 6))(model) as run:
        model(ids, past_key_values=cache, use_cache=True)
        model(ids + 1, past_key_values=cache, use_cache=True)
    assert [layer.stored for layer in cache.layers] == [22, 18, 18] and run.reads.counts["prunable_tokens"] == 6
