"""A small draft model: its cache follows the text, its drafts are lossless, and its work is counted apart."""

import pytest
import torch

from szilard.speculative.draft_model import DraftModel
from tests.conftest import ARCHITECTURES, prompt_batch, tiny_model


def run(model, inputs, method=None, **options):
    torch.manual_seed(3)
    settings = {"max_new_tokens": 24, "do_sample": False, "return_dict_in_generate": True} | options
    return model.generate(**inputs, custom_generate=method, **settings)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rows", [1, 4])
def test_greedy_is_unchanged_by_another_model(architecture, rows):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    other = tiny_model("llama" if architecture != "llama" else "gemma3")
    out = run(model, inputs, DraftModel(other, draft_tokens=4))
    assert torch.equal(out.sequences, run(model, inputs).sequences)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("drafts", [1, 3])
def test_the_model_itself_as_a_draft_is_always_right(architecture, rows, drafts):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    out = run(model, inputs, DraftModel(model, draft_tokens=drafts), eos_token_id=None, max_new_tokens=25)
    assert torch.equal(out.sequences, run(model, inputs, eos_token_id=None, max_new_tokens=25).sequences)
    steps = 24 // (drafts + 1)
    assert out.cost.counters["target_forwards"] == steps
    assert out.cost.counters["accepted"] == rows * steps * drafts
    name = type(model).__name__
    assert out.cost.forward_passes == {name: 1 + steps, f"{name} (draft)": 1 + steps * drafts}


def test_a_perfect_draft_is_always_accepted_when_sampling():
    model, inputs = tiny_model("llama"), prompt_batch(3)
    options = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "eos_token_id": None, "max_new_tokens": 25}
    out = run(model, inputs, DraftModel(model, draft_tokens=3), **options)
    assert out.cost.counters["accepted"] == 3 * 18


def test_transformers_assistant_model_is_the_draft():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    out = run(model, inputs, DraftModel(), assistant_model=tiny_model("llama"))
    assert torch.equal(out.sequences, run(model, inputs).sequences) and out.cost.counters["accepted"] > 10


def test_a_missing_draft_is_refused():
    with pytest.raises(ValueError, match="draft-model needs a small model"):
        run(tiny_model("llama"), prompt_batch(1), DraftModel())
