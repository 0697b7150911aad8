"""Matrix entropy over layers and heads: what is measured is what the layers attend with."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from szilard.analysis.entropy_page import to_html
from szilard.analysis.text_pieces import pieces
from szilard.cli.main import main
from szilard.information import matrix_entropy
from szilard.sessions.matrix_entropy_profile import WHAT, entropy_profile, entropy_report, head_entropy_profile
from tests.conftest import VOCAB, prompt_batch, tiny_model


def one_text(length=16):
    return torch.randint(3, VOCAB, (1, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("what", WHAT)
def test_every_architecture_has_a_profile_within_its_bounds(model, what):
    inputs = {"input_ids": one_text()}
    heads, layers = head_entropy_profile(model, inputs, what=what), entropy_profile(model, inputs, what=what)
    expected = {"query": 4, "hidden": 1}.get(what, 4 if model.config.model_type == "gpt2" else 2)
    assert heads.shape == (3, expected) and layers.shape == (3,) and heads.dtype == torch.float64
    assert bool((heads >= 0).all()) and bool((heads <= math.log(32)).all())
    if what == "hidden":
        assert torch.equal(heads[:, 0], layers)
    share = head_entropy_profile(model, inputs, what=what, normalize=True)
    assert bool((share <= 1 + 1e-12).all())
    fewer = head_entropy_profile(model, inputs, what=what, top=2)
    assert bool((fewer <= heads + 1e-12).all()) and bool((fewer < heads).any())


@torch.no_grad()
def test_keys_and_values_are_those_that_the_cache_would_hold(llama):
    inputs = {"input_ids": one_text()}
    cache = llama(**inputs).past_key_values
    for what, name in (("key", "keys"), ("value", "values")):
        found = head_entropy_profile(llama, inputs, what=what)
        expected = torch.stack([matrix_entropy(getattr(layer, name)[0]) for layer in cache.layers])
        assert torch.allclose(found, expected, atol=1e-9)
    flat = torch.stack([matrix_entropy(layer.keys[0].transpose(0, 1).flatten(1)) for layer in cache.layers])
    assert torch.allclose(entropy_profile(llama, inputs, what="key"), flat, atol=1e-9)


def test_padding_counts_for_nothing_and_a_span_for_itself_alone(llama):
    inputs = prompt_batch(2)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    both = entropy_profile(llama, inputs | {"position_ids": positions})
    alone = [
        entropy_profile(llama, {"input_ids": ids[mask.bool()][None]})
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    assert torch.allclose(both, torch.stack(alone).mean(0), atol=1e-9)
    span = torch.zeros(1, 16, dtype=torch.bool)
    span[:, :6] = True
    start = {"input_ids": one_text()[:, :6]}
    text = {"input_ids": one_text()}
    for profile in (entropy_profile, head_entropy_profile):  # what comes later changes nothing for the first six
        assert torch.allclose(profile(llama, text, span=span), profile(llama, start), atol=1e-9)
    with pytest.raises(ValueError, match="span must have the shape"):
        entropy_profile(llama, text, span=span[:, :5])
    with pytest.raises(ValueError, match="what must be one of"):
        entropy_profile(llama, text, what="attention")


def test_a_model_whose_layers_all_slide_is_measured_and_left_as_it_was():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
    )
    model = MistralForCausalLM(config).eval()
    before = model(one_text()).logits
    for what in WHAT:
        assert entropy_profile(model, {"input_ids": one_text()}, what=what).shape == (2,)
    assert torch.equal(before, model(one_text()).logits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_pieces_have_one_length_and_a_short_corpus_is_one_piece():
    assert list(pieces([[1, 2, 3], [4, 5], [6, 7, 8]], 4)) == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert list(pieces([[1, 2, 3], [4, 5], [6, 7, 8]], 4, limit=1)) == [[1, 2, 3, 4]]
    assert list(pieces([[1, 2]], 4)) == [[1, 2]] and list(pieces([[1, 2, 3, 4, 5]], 4)) == [[1, 2, 3, 4]]


def test_a_report_averages_texts_and_draws_every_layer_and_head():
    model, texts = tiny_model("llama"), [one_text()[0, :8].tolist(), one_text()[0, 8:].tolist()]
    report = entropy_report(model, texts, nats=True, name="<tiny>")
    each = [entropy_profile(model, {"input_ids": torch.tensor([ids])}) for ids in texts]
    assert torch.allclose(torch.tensor(report.layers).double(), torch.stack(each).mean(0), atol=1e-6)
    page = to_html(report)
    assert page.count('class="layer"') == 3 and page.count('class="head"') == 12 and page.count("<rect") == 12
    assert "&lt;tiny&gt;" in page and "<tiny>" not in page and "<script" not in page and "{{" not in page
    assert "<rect" not in to_html(entropy_report(model, texts, what="hidden"))
    with pytest.raises(ValueError, match="there are none"):
        entropy_report(model, [])


def test_the_command_prints_a_table_or_json_and_writes_a_page(tmp_path, model_folder, capsys):
    data, page = tmp_path / "t.txt", tmp_path / "page.html"
    data.write_text("w9 w8 w7 w10 w11\n\nw12 w13 w14 w15")
    start = ["analyze", "matrix-entropy", "--data", str(data), "--model", model_folder, "--length", "4"]
    assert main([*start, "--html", str(page)]) == 0
    assert "matrix entropy of query" in capsys.readouterr().out and "<svg" in page.read_text()
    assert main([*start, "--what", "hidden", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["what"] == "hidden" and len(found["layers"]) == 3 and found["texts"] == 2
    assert main([*start, "--what", "attention"]) == 2
    assert "what must be one of" in capsys.readouterr().err
    assert main(["analyze", "matrix-entropy", "--data", str(tmp_path / "no.txt"), "--model", "nowhere"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_only_the_last_logits_are_computed(llama):
    lengths = []
    handle = llama.lm_head.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    entropy_profile(llama, prompt_batch(2))
    handle.remove()
    assert lengths == [1]
