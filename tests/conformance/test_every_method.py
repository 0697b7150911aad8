"""What holds for every method by being in the registry."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch
from transformers import GenerationMixin

import szilard
from szilard.speculative.trained import TrainedDrafts
from tests.conftest import prompt_batch, tiny_model

SLUGS = tuple(
    slug for slug, entry in szilard.methods().items() if entry.kind == "method" and "denoising" not in entry.needs
)
ONE_FORWARD_A_TOKEN = {"adadec": {"threshold": 1e6}, "ead": {"threshold": math.inf}, "beam-search": {"beams": 1}}
ONE_FORWARD_A_TOKEN |= {"prompt-lookup": {"draft_tokens": 0}, "draft-model": {"draft_tokens": 0}}
ONE_FORWARD_A_TOKEN |= {"aded": {"max_nodes": 0}}
TRAINED = {slug: {"max_nodes": 0} for slug, entry in szilard.methods().items() if issubclass(entry.cls, TrainedDrafts)}
TRAINED["lud"] = {"window": 1}
TRAINED["ladir"] = {"max_blocks": 0}
ONE_FORWARD_A_TOKEN |= TRAINED
NEEDED = {"adadec": {"threshold": 1.0}, "draft-model": {"draft_tokens": 0}} | TRAINED  # what has no default


def generate(model, inputs, method=None, **options):
    torch.manual_seed(5)
    settings = {"max_new_tokens": 24, "do_sample": False, "return_dict_in_generate": True} | options
    return model.generate(**inputs, custom_generate=method, **settings)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("slug", SLUGS)
def test_the_neutral_setting_is_greedy_decoding_token_for_token(model, slug, rows):
    if slug == "sampling":
        pytest.skip("sampling's neutral setting draws: see below")
    inputs = prompt_batch(rows)
    plain = generate(model, inputs)
    neutral = generate(model, inputs, szilard.methods()[slug].neutral())
    assert torch.equal(plain.sequences, neutral.sequences)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("slug", SLUGS)
def test_the_neutral_setting_is_plain_sampling_under_the_same_seed(model, slug, rows):
    method = szilard.methods()[slug].neutral()
    if not method.honours_do_sample:
        pytest.skip(f"{slug} does not draw")
    inputs = prompt_batch(rows)
    plain = generate(model, inputs, do_sample=True, temperature=0.9, top_k=0)
    if slug == "sampling":
        method = szilard.Sampling(temperature=0.9)
    sampled = generate(model, inputs, method, do_sample=True, temperature=0.9, top_k=0)
    assert torch.equal(plain.sequences, sampled.sequences)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_batch_gives_each_row_what_it_gets_alone(model, slug):
    if slug == "sampling":
        method = szilard.Sampling(top_k=1)
    elif slug in {"lead", "swi-reasoning"}:
        method = szilard.make_method(slug, {"window": 3})
    else:
        method = szilard.make_method(slug, NEEDED.get(slug))
    if slug == "ead":
        method = szilard.Ead(large=model, threshold=5.0, min_duration=2)
    inputs = prompt_batch(4)
    together = generate(model, inputs, method)
    for row in range(4):
        length = int(inputs["attention_mask"][row].sum())
        alone = generate(model, {name: value[row : row + 1, -length:] for name, value in inputs.items()}, method)
        expected = alone.sequences[0, length:].tolist()
        got = together.sequences[row, inputs["input_ids"].shape[1] :].tolist()
        assert got[: len(expected)] == expected
        assert set(got[len(expected) :]) <= {0}


@pytest.mark.parametrize("slug", SLUGS)
def test_the_trace_has_a_step_for_every_token_and_the_cost_a_forward(slug):
    model, inputs = tiny_model("llama"), prompt_batch(1)
    out = generate(model, inputs, szilard.make_method(slug, ONE_FORWARD_A_TOKEN.get(slug)))
    new = out.sequences.shape[1] - inputs["input_ids"].shape[1]
    assert len(out.trace) == new
    assert out.trace["token"].tolist() == out.sequences[0, -new:].tolist()
    assert out.cost.forward_passes == {"LlamaForCausalLM": new}
    assert out.cost.generated_tokens == new
    assert out.cost.tokens["LlamaForCausalLM"] == inputs["input_ids"].shape[1] + new - 1


@pytest.mark.parametrize("slug", SLUGS)
def test_an_entry_says_what_it_is(slug):
    entry = szilard.methods()[slug]
    assert entry.slug == slug
    assert entry.paper and entry.family and "logits" in entry.needs
    assert isinstance(entry.neutral(), entry.cls)
    assert entry.cls.__doc__ and dataclasses.is_dataclass(entry.cls)
    assert entry.cls.__dataclass_params__.frozen
    documented = "".join(inspect.getdoc(cls) or "" for cls in entry.cls.__mro__)
    for field in dataclasses.fields(entry.cls):
        assert field.name in documented, f"{entry.cls.__name__}.{field.name} is not documented"


@pytest.mark.parametrize("slug", SLUGS)
def test_an_object_has_the_signature_of_sample(slug):
    ours = inspect.signature(szilard.make_method(slug)).parameters
    theirs = inspect.signature(GenerationMixin._sample).parameters
    assert set(theirs) - {"self"} <= set(ours)


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
def test_a_method_survives_the_round_trip_of_its_options(slug):
    method = szilard.make_method(slug)
    assert szilard.make_method(slug, method.options()) == method
    assert str(method) == slug and method.changed_options() == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.anything = 1
