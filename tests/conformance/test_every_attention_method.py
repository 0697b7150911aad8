"""What holds for every cache and attention method by being in the registry."""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache

import pytest
import torch
from transformers import AttentionInterface, Gemma3nForCausalLM, Gemma3nTextConfig, T5Config, T5ForConditionalGeneration

import szilard
from tests.conformance.compatibility import SMALL
from tests.conftest import PAD, prompt_batch, tiny_model

SLUGS = tuple(
    slug for slug, entry in szilard.methods().items() if entry.kind == "attention" and "denoising" not in entry.needs
)
NEEDS_ROTATION = {"expected-attention"}


def generate(model, inputs, **options):
    settings = {"max_new_tokens": 14, "do_sample": False, "suppress_tokens": [PAD]} | options
    return model.generate(**inputs, **settings)


def hooks_of(model):
    """Every hook on a model; transformers leaves its own where hidden states were asked for."""
    return [[*module._forward_hooks.values(), *module._forward_pre_hooks.values()] for module in model.modules()]


def opened(slug, model):
    """The method with settings that act, or a skip where a model lacks what it needs."""
    if slug in NEEDS_ROTATION and not hasattr(model.get_decoder(), "rotary_emb"):
        pytest.skip(f"{slug} needs rotary positions")
    return szilard.make_attention(slug, SMALL.get(slug))(model)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("slug", SLUGS)
def test_the_neutral_setting_changes_no_token(model, slug, rows):
    if slug in NEEDS_ROTATION and not hasattr(model.get_decoder(), "rotary_emb"):
        pytest.skip(f"{slug} needs rotary positions")
    inputs = prompt_batch(rows)
    plain = generate(model, inputs)
    with szilard.methods()[slug].neutral()(model):
        assert torch.equal(plain, generate(model, inputs))


@pytest.mark.parametrize("slug", SLUGS)
def test_a_batch_gives_each_row_what_it_gets_alone(model, slug):
    inputs = prompt_batch(4)
    with opened(slug, model):
        together = generate(model, inputs, eos_token_id=None)
    for row in range(4):
        length = int(inputs["attention_mask"][row].sum())
        with opened(slug, model):
            alone = generate(
                model, {name: value[row : row + 1, -length:] for name, value in inputs.items()}, eos_token_id=None
            )
        assert alone[0, length:].tolist() == together[row, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("slug", SLUGS)
def test_a_closed_method_leaves_nothing_behind(slug):
    model, inputs = tiny_model("llama"), prompt_batch(2)
    before, implementation, hooks = model(**inputs).logits, model.config._attn_implementation, hooks_of(model)
    with pytest.raises(RuntimeError, match="in the middle"), opened(slug, model):
        generate(model, inputs)
        raise RuntimeError("in the middle")
    assert torch.equal(before, model(**inputs).logits)
    assert model.config._attn_implementation == implementation
    assert hooks_of(model) == hooks
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("slug", SLUGS)
def test_speculation_keeps_the_text_that_the_method_gives(engine, slug):
    under = szilard.make_attention(slug, SMALL.get(slug))
    if getattr(under, "phase", "") == "both":
        pytest.skip("slots that left while generating cannot be taken back")
    if slug == "quest":
        pytest.skip("the bounds of a page are those of all its keys, rejected drafts among them")
    prompts = [torch.arange(10, 30), torch.tensor([11, 12, 13, 11, 12, 13, 11])]
    plain = engine.generate(prompts, attention=under, max_new_tokens=16, suppress_tokens=[PAD])
    drafted = engine.generate(prompts, "prompt-lookup", attention=under, max_new_tokens=16, suppress_tokens=[PAD])
    assert [result.tokens for result in plain] == [result.tokens for result in drafted]


@pytest.mark.parametrize("slug", SLUGS)
def test_it_says_what_it_is_and_documents_its_fields(slug):
    entry = szilard.methods()[slug]
    assert entry.slug == slug and entry.paper and entry.family == "attention"
    assert isinstance(entry.neutral(), entry.cls) and entry.cls.__dataclass_params__.frozen
    documented = "".join(inspect.getdoc(cls) or "" for cls in entry.cls.__mro__)
    for field in dataclasses.fields(entry.cls):
        assert field.name in documented, f"{entry.cls.__name__}.{field.name} is not documented"


@pytest.mark.parametrize("slug", SLUGS)
def test_every_numeric_option_refuses_a_wrong_type_in_one_sentence(slug):
    cls = szilard.methods()[slug].cls
    for field in dataclasses.fields(cls):
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            with pytest.raises((TypeError, ValueError), match=field.name):
                cls(**{field.name: "many"})
            with pytest.raises((TypeError, ValueError), match=field.name):
                cls(**{field.name: float("nan")})


@pytest.mark.parametrize("slug", SLUGS)
def test_it_survives_the_round_trip_of_its_options(slug):
    method = szilard.make_attention(slug)
    assert szilard.make_attention(slug, method.options()) == method
    assert str(method) == slug and method.changed_options() == {}


@pytest.mark.parametrize("slug", SLUGS)
def test_an_encoder_decoder_model_is_refused(slug):
    model = T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="encoder-decoder"), szilard.make_attention(slug)(model):
        pass


@pytest.mark.parametrize("slug", SLUGS)
def test_a_cache_of_another_kind_is_refused(slug):
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="StaticLayer"), opened(slug, model):
        generate(model, prompt_batch(1), cache_implementation="static")


def test_two_methods_cannot_be_open_on_one_model(llama):
    with (
        szilard.SnapKv()(llama),
        pytest.raises(ValueError, match="another attention method is open"),
        szilard.Knorm()(llama),
    ):
        pass


@pytest.mark.parametrize("slug", SLUGS)
def test_layers_that_read_the_caches_of_others_are_refused_before_anything_runs(slug):
    model = _sharing_model()
    with (
        pytest.raises(ValueError, match="2 layers of Gemma3nForCausalLM read the caches of others"),
        szilard.make_attention(slug, SMALL.get(slug))(model),
    ):
        pass


@cache
def _sharing_model():
    config = Gemma3nTextConfig(
        vocab_size=32,
        vocab_size_per_layer_input=32,
        hidden_size=16,
        hidden_size_per_layer_input=4,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_kv_shared_layers=2,
        laurel_rank=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        activation_sparsity_pattern=[0.0] * 4,
    )
    return Gemma3nForCausalLM(config)


def test_the_attention_interface_is_registered_with_a_mask_function():
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    from szilard.sessions.session import NAME

    assert NAME in AttentionInterface._global_mapping and NAME in ALL_MASK_ATTENTION_FUNCTIONS._global_mapping


def test_a_pair_of_methods_goes_wherever_a_method_goes(engine):
    pair = szilard.Under(szilard.PromptLookup(), szilard.SnapKv(budget=6, window=2))
    prompt = torch.arange(10, 30)
    given = engine.generate(prompt, "prompt-lookup", attention=pair.attention, max_new_tokens=9)
    assert engine.generate(prompt, pair, max_new_tokens=9).tokens == given.tokens
    assert given.method == pair and given.method.slug == "prompt-lookup+snapkv"
    inputs = prompt_batch(2)
    with pair.attention(engine.model):
        expected = generate(engine.model, inputs)
    assert torch.equal(
        expected, generate(engine.model, inputs, custom_generate=szilard.Under(szilard.Greedy(), pair.attention))
    )
    assert pair.changed_options() == {"snapkv.budget": 6, "snapkv.window": 2}


def test_a_method_that_enters_the_forward_itself_is_refused_under_another():
    with pytest.raises(ValueError, match=r"'lud'.*cannot run under 'snapkv'"):
        szilard.Under(szilard.Lud(adapter="x"), szilard.SnapKv())


def test_an_engine_without_attention_is_refused_before_any_work():
    from szilard.engines.transformers_generate import check_needs

    with pytest.raises(ValueError, match="needs attention"):
        check_needs(szilard.Under(szilard.Greedy(), szilard.Knorm()), frozenset({"logits"}), "an engine")
