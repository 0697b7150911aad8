"""The cost of private inference: the published counts exactly, the published gigabytes by the fit."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import GPT2Config

from szilard.cli.main import main
from szilard.training.entropy_guided_attention import ARCHITECTURES, fold_for_inference, simplified, simplify_gpt2
from szilard.training.entropy_guided_attention.cost import count_nonlinear_ops, private_inference_cost
from tests.conftest import tiny_model
from tests.training.entropy_guided_attention.tiny import model_of


def gpt2(architecture, layers=12, vocabulary=50257):
    config = GPT2Config(n_layer=layers, vocab_size=vocabulary, bos_token_id=0, eos_token_id=0)
    with torch.device("meta"):
        return simplified(config, ARCHITECTURES[architecture])


def test_the_counts_of_gpt2_small_are_the_published_ones():
    found = count_nonlinear_ops(gpt2("SM+LN+G"), 128)
    assert found["softmax"] == [(128, 128)] * 144
    assert found["layernorm"] == [(128, 768)] * 24
    assert found["gelu"] == [(128, 3072)] * 12
    assert found["final_layernorm"] == [(128, 768)]  # not in the table
    assert set(count_nonlinear_ops(gpt2("SM+LN+R"), 128)) == {"softmax", "layernorm", "final_layernorm", "relu"}
    assert count_nonlinear_ops(gpt2("ScFuFFN"), 128) == {"softmax": [(128, 128)] * 144}


def test_the_operations_of_the_networks_fall_to_an_eighth():
    wide, fused = private_inference_cost(gpt2("SM+LN+G"), 128), private_inference_cost(gpt2("ScFuFFN"), 128)
    assert wide.ffn_flops / 1e9 == pytest.approx(14.5, abs=0.05) and wide.ffn_flops == 8 * fused.ffn_flops
    assert fused.ffn_flops / 1e9 == pytest.approx(1.8, abs=0.05)
    assert wide.attention_flops == fused.attention_flops
    assert wide.attention_flops / 1e9 == pytest.approx(7.7, rel=0.03)


@pytest.mark.parametrize(
    ("layers", "tokens", "vocabulary", "published"),
    [
        (12, 128, 50257, {"SM+LN+G": 25.32, "SM+LN+R": 9.44, "ScFuFFN": 6.43}),
        (12, 256, 50257, {"SM+LN+G": 58.51, "SM+LN+R": 26.73, "ScFuFFN": 20.72}),
        (18, 128, 50257, {"SM+LN+G": 37.17, "SM+LN+R": 13.34, "ScFuFFN": 8.83}),
        (12, 512, 16384, {"SM+LN+G": 145.24, "ScFuFFN": 69.68}),
    ],
)
def test_the_published_gigabytes_are_met(layers, tokens, vocabulary, published):
    for architecture, gigabytes in published.items():
        low, high = private_inference_cost(gpt2(architecture, layers, vocabulary), tokens).gigabytes
        assert low == high == pytest.approx(gigabytes, abs=0.01)


def test_what_the_published_values_do_not_tell_apart_is_a_range():
    ranges = {name: private_inference_cost(gpt2(name), 128).gigabytes for name in ("SM+LN", "SM+R", "SM")}
    floor = private_inference_cost(gpt2("ScFuFFN"), 128).gigabytes[0]
    ceiling = private_inference_cost(gpt2("SM+LN+R"), 128).gigabytes[1]
    assert all(pair == (floor, ceiling) for pair in ranges.values())


def test_folding_makes_private_inference_cheaper():
    before, after = model_of("SM, scaled"), fold_for_inference(model_of("SM, scaled"))
    assert private_inference_cost(before, 16).ffn_flops == 8 * private_inference_cost(after, 16).ffn_flops


def test_gated_networks_are_counted_and_not_estimated():
    llama = tiny_model("llama")
    found = private_inference_cost(llama, 10)
    assert found.operations["product"] == found.operations["silu"] == ((10, 48),) * 3
    assert len(found.operations["layernorm"]) == 6 and len(found.operations["softmax"]) == 12
    assert found.gigabytes is None
    assert found.ffn_flops == 3 * 3 * 2 * 10 * 32 * 48
    assert found.attention_flops == 3 * (2 * 10 * 32 * (32 + 16 + 16 + 32) + 2 * 2 * 10 * 10 * 32)
    bare = simplify_gpt2(llama, fuse_ffn=False)
    assert set(count_nonlinear_ops(bare, 10)) == {"softmax", "product"}


def test_the_command_prints_the_counts(capsys, model_folder):
    assert main(["analyze", "private-inference", "--model", model_folder, "--length", "10"]) == 0
    out = capsys.readouterr().out
    assert "nonlinear operations" in out and "no estimate" in out
    assert main(["analyze", "private-inference", "--model", model_folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operations"]["softmax"] == {"count": 12, "shape": [128, 128], "elements": 12 * 128 * 128}
    assert main(["analyze", "private-inference", "--model", model_folder, "--length", "0"]) == 2
    assert "length must be at least 1" in capsys.readouterr().err


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="can be simplified, not 'gemma3_text'"):
        count_nonlinear_ops(tiny_model("gemma3"), 10)
    with pytest.raises(TypeError, match="of a model of transformers, not of a GPT2Config"):
        count_nonlinear_ops(GPT2Config(), 10)
    with pytest.raises(ValueError, match="T must be at least 1"):
        count_nonlinear_ops(tiny_model("llama"), 0)
