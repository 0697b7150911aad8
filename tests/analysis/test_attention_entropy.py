"""The report on heads: what is measured is what the model attends with, on every architecture."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from szilard.analysis.attention_entropy import head_entropy_report
from szilard.analysis.attention_entropy_page import to_html, verdict
from szilard.cli.main import main
from szilard.information import attention_entropy, uniform_causal_entropy
from szilard.sessions import recorded_entropies
from szilard.sessions.head_entropies import HeadEntropyReport
from szilard.sessions.recorded_entropies import RecordedEntropies
from tests.conftest import VOCAB, prompt_batch, tiny_model


def one_text(length=16, seed=0):
    return torch.randint(3, VOCAB, (1, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def eager_attentions(model, inputs):
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return torch.stack(model(**inputs, output_attentions=True, use_cache=False).attentions)
    finally:
        model.set_attn_implementation(before)


def test_the_entropies_are_those_of_the_probabilities_that_transformers_returns(model):
    inputs = {"input_ids": one_text()}
    report = HeadEntropyReport.from_model(model, inputs["input_ids"])
    expected = attention_entropy(eager_attentions(model, inputs), eps=0, reduce="mean")[:, 0]
    assert torch.allclose(torch.tensor(report.heads).double(), expected.double(), atol=1e-5)
    assert len(report.heads) == 3 and len(report.heads[0]) == 4 and report.tokens == 16
    assert all(0 <= share <= 1 + 1e-9 for shares in report.shares for share in shares)


@torch.no_grad()
def test_the_model_computes_what_it_did_and_is_left_as_it_was(model):
    inputs = prompt_batch(2)
    before = model(**inputs).logits
    session = RecordedEntropies(model)
    with session.opened():
        while_open = model(**inputs, use_cache=False).logits
    real = inputs["attention_mask"].bool()
    assert torch.allclose(before[real], while_open[real], atol=1e-9)
    assert torch.equal(before, model(**inputs).logits)
    assert session.stacked.shape == (3, 2, 4, 11)


def test_padding_counts_for_nothing():
    llama, inputs = tiny_model("llama"), prompt_batch(2)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    both = HeadEntropyReport.from_model(llama, inputs | {"position_ids": positions})
    texts = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    alone = head_entropy_report(llama, texts)
    assert both.tokens == alone.tokens == sum(map(len, texts))
    assert torch.allclose(torch.tensor(both.heads), torch.tensor(alone.heads), atol=1e-9)
    assert both.uniform == pytest.approx(alone.uniform)


def test_a_layer_that_slides_is_measured_by_what_it_sees():
    gemma = tiny_model("gemma3")
    report = HeadEntropyReport.from_model(gemma, one_text(32))
    seen = [math.log(min(place, 6)) for place in range(1, 33)]
    assert report.uniform[0] == pytest.approx(sum(seen) / 32) == report.uniform[2]
    assert report.uniform[1] == pytest.approx(uniform_causal_entropy(32))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    mistral = MistralForCausalLM(MistralConfig(vocab_size=VOCAB, num_key_value_heads=1, sliding_window=4, **shape))
    assert max(HeadEntropyReport.from_model(mistral.eval(), one_text()).uniform) < math.log(4)


def test_long_texts_in_blocks_of_queries_are_the_same(monkeypatch):
    llama = tiny_model("llama")
    whole = HeadEntropyReport.from_model(llama, one_text(40))
    monkeypatch.setattr(recorded_entropies, "_BLOCK", 4 * 40 * 7)
    assert torch.allclose(
        torch.tensor(HeadEntropyReport.from_model(llama, one_text(40)).heads), torch.tensor(whole.heads), atol=1e-12
    )


def test_gradients_flow_through_the_entropies():
    llama = copy.deepcopy(tiny_model("llama")).requires_grad_(True)
    with RecordedEntropies(llama).opened() as recorded:
        llama(one_text(), use_cache=False)
    (grad,) = torch.autograd.grad(recorded.stacked.sum(), [llama.model.layers[0].self_attn.q_proj.weight])
    assert float(grad.abs().max()) > 0


def test_entropies_are_measured_before_the_dropout_of_attention():
    gpt2 = copy.deepcopy(tiny_model("gpt2")).train()
    for module in gpt2.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9 if module is gpt2.transformer.h[0].attn.attn_dropout else 0.0
    torch.manual_seed(0)
    with RecordedEntropies(gpt2).opened() as recorded:
        first = gpt2(one_text(), use_cache=False).logits
    rows = recorded.rows[0]
    with RecordedEntropies(gpt2.eval()).opened() as recorded:
        assert not torch.allclose(first, gpt2(one_text(), use_cache=False).logits)  # the dropout did act
    assert torch.equal(rows, recorded.rows[0])


def report_of(heads, uniform=2.0):
    return HeadEntropyReport(heads, (uniform,) * len(heads), texts=1, tokens=8, model="<tiny>")


def test_quarters_are_of_the_largest_head_and_flags_of_the_uniform_one():
    report = report_of(((0.2, 0.4), (1.0, 1.6)))
    assert report.max == 1.6 and report.quarters == (0.25, 0.25, 0.25, 0.25)
    assert report.layers == pytest.approx((0.3, 1.3)) and not report.overloaded and not report.collapsed
    overloaded = report_of(((1.99, 1.95), (1.0, 1.2)))
    assert overloaded.overloaded and overloaded.near_uniform == 0.5 and "look everywhere alike" in verdict(overloaded)
    collapsed = report_of(((0.01, 0.0), (0.9, 1.2)))
    assert collapsed.collapsed and not collapsed.overloaded and "look at one token" in verdict(collapsed)
    assert report_of(((0.0,),)).quarters == (1.0, 0.0, 0.0, 0.0)
    assert sum(report.histogram(10)) == 4 and report.histogram(10)[8] == 1


def test_an_untrained_model_is_overloaded_and_one_with_huge_scores_has_collapsed():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = MistralForCausalLM(MistralConfig(vocab_size=VOCAB, num_key_value_heads=2, **shape)).eval()
    assert HeadEntropyReport.from_model(model, one_text(32)).overloaded
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 1e7
    assert HeadEntropyReport.from_model(model, one_text(32)).collapsed


def test_a_page_draws_every_head_and_escapes_names():
    page = to_html(report_of(((0.2, 0.4), (1.0, 1.6))))
    assert page.count("<rect") == 4 + 20 and "&lt;tiny&gt;" in page and "<tiny>" not in page
    assert "<script" not in page and "{{" not in page


@torch.no_grad()
def test_texts_padded_on_the_left_are_measured_as_alone_where_places_are_learned():
    gpt2, inputs = tiny_model("gpt2"), prompt_batch(2)
    texts = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    both, alone = HeadEntropyReport.from_model(gpt2, inputs), head_entropy_report(gpt2, texts)
    assert torch.allclose(torch.tensor(both.heads), torch.tensor(alone.heads), atol=1e-9)


def test_large_products_in_half_precision_are_measured():
    llama = copy.deepcopy(tiny_model("llama")).half()
    for layer in llama.model.layers:
        layer.self_attn.q_proj.weight.data *= 40
        layer.self_attn.k_proj.weight.data *= 40
    halves = HeadEntropyReport.from_model(llama, one_text(40))
    whole = HeadEntropyReport.from_model(llama.double(), one_text(40))
    assert torch.allclose(torch.tensor(halves.heads), torch.tensor(whole.heads), atol=5e-2)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_loss_under_gradient_checkpointing_is_refused(reentrant):
    llama = copy.deepcopy(tiny_model("llama")).train()
    llama.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with pytest.raises(ValueError, match="gradient_checkpointing_disable"), RecordedEntropies(llama).opened():
        pass
    assert HeadEntropyReport.from_model(llama, one_text()).tokens == 16


def test_bad_batches_are_told():
    llama, ids = tiny_model("llama"), one_text()
    for batch, kind, words in (
        ({"ids": ids}, TypeError, "inputs with input_ids, not NoneType"),
        ([[3, 4]], TypeError, "a tensor of token ids"),
        (ids.float(), TypeError, "whole numbers, not torch.float32"),
        (ids[:0], ValueError, r"a token at least, not \[0, 16\]"),
        (ids[:, :0], ValueError, r"a token at least, not \[1, 0\]"),
        (ids[0], ValueError, r"the shape \[batch, n\]"),
        (ids + VOCAB, ValueError, "token ids from 0 to 96"),
        (ids[:, :1], ValueError, "every text has one token"),
        ({"input_ids": ids, "attention_mask": torch.ones(1, 3)}, ValueError, "attention_mask must have the shape"),
        ({"input_ids": ids, "attention_mask": torch.zeros(1, 16)}, ValueError, "there are none"),
    ):
        with pytest.raises(kind, match=words):
            HeadEntropyReport.from_model(llama, batch)
    with pytest.raises(ValueError, match="300 tokens are longer than the 256 that the model has places for"):
        HeadEntropyReport.from_model(tiny_model("gpt2"), one_text(300))
    with pytest.raises(ValueError, match="a token at least"):
        head_entropy_report(llama, [[]])
    damaged = copy.deepcopy(llama)
    damaged.model.layers[1].self_attn.q_proj.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"attention of layer 1 is no numbers \(NaN\)"):
        HeadEntropyReport.from_model(damaged, ids)


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="there are none"):
        head_entropy_report(tiny_model("llama"), [])
    with pytest.raises(ValueError, match="needs a model of transformers"):
        HeadEntropyReport.from_model(SimpleNamespace(config=None, forward=print), one_text())


def test_the_command_prints_a_table_or_json_and_writes_a_page(tmp_path, model_folder, capsys):
    data, page = tmp_path / "t.txt", tmp_path / "page.html"
    data.write_text("w9 w8 w7 w10 w11\n\nw12 w13 w14 w15")
    start = ["analyze", "attention-entropy", "--data", str(data), "--model", model_folder]
    assert main(start) == 0  # pieces of what the model reads, which is less than the usual 512
    assert "1 texts" in capsys.readouterr().out
    start += ["--length", "4"]
    assert main([*start, "--html", str(page)]) == 0
    assert "entropy of attention" in capsys.readouterr().out and "<svg" in page.read_text()
    assert main([*start, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["layers"]) == 3 and found["texts"] == 2 and sum(found["quarters"]) == pytest.approx(1)
    assert main([*start, "--limit", "0"]) == 2
    assert "limit must be at least 1" in capsys.readouterr().err
    ids = tmp_path / "ids.jsonl"
    ids.write_text(json.dumps({"ids": [3, 4, 999, 5]}))
    assert main([*start, "--data", str(ids)]) == 2
    assert "token ids from 0 to 96" in capsys.readouterr().err
    data.write_text("w9")
    assert main(start) == 2
    assert "every text has one token" in capsys.readouterr().err
