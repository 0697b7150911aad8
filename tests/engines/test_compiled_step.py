"""Compiled steps: the same tokens as without, under every way of feeding, and one sentence where they cannot be."""

import importlib.util

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import szilard
from szilard.engines.compiled_step import CompiledStep
from szilard.engines.quantized import quantize
from szilard.engines.transformers_engine import TransformersEngine
from tests.conftest import tiny_model, tiny_tokenizer

PROMPTS = ["w15 w16 w17 w18 w15 w16 w17", "w9 w10", "w11 w12 w13 w14 w15 w11 w12 w13"]


@pytest.fixture(scope="module")
def engines():
    model = tiny_model("llama")
    tokenizer = tiny_tokenizer()
    return TransformersEngine(model, tokenizer), TransformersEngine(model, tokenizer, compile=True)


def both(engines, prompts, method=None, **options):
    plain, compiled = engines
    options = {"max_new_tokens": 24, "raw": True} | options
    before = compiled.compiled.steps
    expected, found = (engine.generate(prompts, method, **options) for engine in (plain, compiled))
    one = isinstance(prompts, str)
    tokens = [[result.tokens for result in ([results] if one else results)] for results in (expected, found)]
    assert tokens[0] == tokens[1]
    return compiled.compiled.steps - before


def test_one_row(engines):
    assert both(engines, PROMPTS[0]) > 10


@pytest.mark.slow
def test_padded_rows(engines):
    assert both(engines, PROMPTS) > 10


@pytest.mark.slow
def test_sampling(engines):
    assert both(engines, PROMPTS[:2], do_sample=True, seed=3) > 10


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prompt-lookup", "lead", "beam-search"])
def test_drafts_vectors_and_forks(engines, method):
    assert both(engines, PROMPTS[:2], method) > 2


@pytest.mark.slow
def test_vectors_give_the_same_logits_and_hidden_states(engines):
    states = [engine.state(PROMPTS[:2], max_new_tokens=8, raw=True) for engine in engines]
    for state in states:
        state.prefill()
    vectors = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    logits = [state.feed(embeddings=vectors, hidden_states=True, rewindable=True) for state in states]
    torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(*(state.hidden for state in states), atol=1e-3, rtol=1e-4)
    for state in states:
        state.rewind(state.cached - torch.tensor([1, 3]))
    again = [state.feed(torch.tensor([5, 6])) for state in states]
    torch.testing.assert_close(*again, atol=1e-3, rtol=1e-4)


def test_a_buffer_that_grows(engines):
    assert both(engines, "w7 " * 230, max_new_tokens=20) > 10


def test_who_changes_the_model_runs_without(engines):
    assert both(engines, PROMPTS[0], attention="snapkv") == 0


def test_models_that_forget_are_refused():
    with pytest.raises(ValueError, match="sliding-window"):
        CompiledStep(tiny_model("gemma3"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": True, "engine": "llama.cpp"}, "an option of the transformers engine"),
        ({"quantize": "int3"}, "must be int8 or int4"),
        ({"quantize": "int8", "engine": "llama.cpp"}, "runs a file as it is"),
        ({"quantize": "int8", "dtype": "float32"}, "computes in bfloat16"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        szilard.load(**options)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is installed")
def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match=r"szilard\[quantize\]"):
        szilard.load(quantize="int8")


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_fewer_bits_are_close_and_compile_alike(format):
    torch.manual_seed(0)
    shape = {"vocab_size": 112, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, bos_token_id=2, eos_token_id=1)
    model = LlamaForCausalLM(config).bfloat16().eval()
    ids = torch.randint(3, 97, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids).logits.float()
        quantize(model, format)
        after, few = model(ids).logits.float(), model(ids[:, :8]).logits.float()
    assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > (0.99 if format == "int8" else 0.9)
    torch.testing.assert_close(few, after[:, :8], atol=0.3, rtol=0.1)
    tokenizer = tiny_tokenizer()
    plain = TransformersEngine(model, tokenizer)
    assert plain.fingerprint and plain.parameter_count > 10_000
    assert both((plain, TransformersEngine(model, tokenizer, compile=True)), PROMPTS[0]) > 10


@pytest.mark.slow
def test_few_graphs(engines):
    """What ran above needed a graph for each of one row or several, one token or several, ids or vectors."""
    compiled = engines[1].compiled
    for rows in (1, 2, 3, 4, 5):
        both(engines, [f"w{20 + row} w21 w22" for row in range(rows)])
    assert len(compiled._seen) <= 8
