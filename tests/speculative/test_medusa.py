"""Medusa heads: exact whatever they guess, trained by the one loop, refused where they do not belong."""

import json

import pytest
import torch

import szilard
from szilard.speculative.draft_config import MedusaConfig
from szilard.speculative.draft_training import train_heads
from szilard.speculative.medusa.heads import MedusaHeads
from szilard.speculative.medusa.training import MedusaObjective
from szilard.speculative.tree import SMALL_TREE, TreeShape
from szilard.training.target import Target
from tests.conftest import ARCHITECTURES, VOCAB, prompt_batch, tiny_model, tiny_tokenizer
from tests.speculative.test_lossless import run


def random_heads(model, **options):
    torch.manual_seed(2)
    width, vocab = model.get_input_embeddings().weight.shape[::-1]
    base = {"name": "tiny", "fingerprint": None, "hidden_size": width, "vocab_size": vocab}
    heads = MedusaHeads(base=base, **options)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return heads


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_unchanged_by_untrained_heads(architecture, rows):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    method = szilard.Medusa(drafter=random_heads(model).double())
    out = run(model, inputs, method)
    assert torch.equal(out.sequences, run(model, inputs).sequences)
    counters = out.cost.counters
    assert counters["draft_forwards"] == counters["target_forwards"]


def test_sampling_draws_the_same_tokens():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    method = szilard.Medusa(drafter=random_heads(model, head="full").double())
    options = {"do_sample": True, "temperature": 1.3}
    assert torch.equal(run(model, inputs, method, **options).sequences, run(model, inputs, **options).sequences)


@pytest.mark.parametrize("head", ["shared", "full"])
def test_fresh_heads_repeat_the_next_token(head):
    target = Target(engine_of("llama"))
    heads = MedusaObjective.build(target, MedusaConfig(head=head)).double()
    hidden = torch.randn(5, heads.hidden_size).double()
    logits = heads.logits(heads(hidden), target.unembed)
    torch.testing.assert_close(logits, target.unembed(hidden).expand(4, -1, -1))


def engine_of(architecture):
    from szilard.engines import TransformersEngine

    return TransformersEngine(tiny_model(architecture), tiny_tokenizer(), name="tiny")


@pytest.fixture
def counting(tmp_path):
    """Texts in which every word follows from the one before."""
    file = tmp_path / "count.jsonl"
    lines = [" ".join(f"w{7 + (start + step) % 8}" for step in range(40)) for start in range(0, 80, 2)]
    file.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return file


SMALL = MedusaConfig(heads=2, steps=60, batch_size=4, window=40, learning_rate=0.02, save_every=20, held_out=0.1)


def test_heads_learn_what_follows_and_are_used_as_a_method(tmp_path, counting):
    engine = engine_of("llama")
    untouched = [parameter.clone() for parameter in engine.model.parameters()]
    metrics = train_heads(MedusaObjective, engine, counting, SMALL, tmp_path / "out")
    assert metrics["right_1"] > 0.5 and metrics["right_2"] > 0.5 and metrics["tokens_per_pass"] > 2
    for before, after in zip(untouched, engine.model.parameters(), strict=True):
        assert torch.equal(before, after)
    method = szilard.Medusa.from_pretrained(tmp_path / "out", tree="measured", max_nodes=6)
    assert method.heads().accuracy[0, 0] == pytest.approx(metrics["right_1"])
    assert not (tmp_path / "out" / "hidden-states").exists()
    plain = engine.generate("w10 w11", max_new_tokens=12)
    drafted = engine.generate("w10 w11", method=method, max_new_tokens=12)
    assert drafted.tokens == plain.tokens
    again = train_heads(MedusaObjective, engine, counting, SMALL, tmp_path / "out")  # finished: nothing to do
    assert again == metrics


def test_a_stopped_training_goes_on_with_its_cached_states(tmp_path, counting, monkeypatch):
    engine = engine_of("llama")
    whole = train_heads(MedusaObjective, engine, counting, SMALL, tmp_path / "whole", cache=tmp_path / "cache")
    forward, calls = MedusaObjective.forward, []

    def stop(self, **batch):
        calls.append(1)
        if len(calls) == 31:
            raise KeyboardInterrupt
        return forward(self, **batch)

    monkeypatch.setattr(MedusaObjective, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        train_heads(MedusaObjective, engine, counting, SMALL, tmp_path / "cut", cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="other settings"):
        other = MedusaConfig(heads=3, steps=60)
        train_heads(MedusaObjective, engine, counting, other, tmp_path / "cut", cache=tmp_path / "cache")
    more = tmp_path / "more.jsonl"
    more.write_text(counting.read_text() + '{"text": "w9 w10 w11"}\n')
    with pytest.raises(ValueError, match="other settings or data"):
        train_heads(MedusaObjective, engine, more, SMALL, tmp_path / "cut")
    resumed = train_heads(MedusaObjective, engine, counting, SMALL, tmp_path / "cut", cache=tmp_path / "cache")
    assert resumed == whole and len(calls) == 31 + 40


def test_drafters_of_other_models_and_broken_ones_are_refused(tmp_path):
    engine = engine_of("llama")
    other = MedusaHeads(base={"name": "big", "fingerprint": None, "hidden_size": 48, "vocab_size": 97})
    with pytest.raises(ValueError, match=r"trained for big with hidden states of 48, but .* has 32"):
        engine.generate("w9", method=szilard.Medusa(drafter=other), max_new_tokens=2)
    relative = MedusaHeads(base={"name": "kin", "fingerprint": "abc", "hidden_size": 32, "vocab_size": 97})
    with pytest.raises(ValueError, match="other weights"):
        engine.generate("w9", method=szilard.Medusa(drafter=relative), max_new_tokens=2)
    with pytest.raises(ValueError, match="szilard train medusa"):
        engine.generate("w9", method="medusa", max_new_tokens=2)
    with pytest.raises(ValueError, match="no folder 'nowhere'"):
        engine.generate("w9", method=szilard.Medusa(drafter="nowhere"), max_new_tokens=2)
    random_heads(engine.model).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no whole medusa add-on"):
        szilard.Medusa.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"add_on": "chimera"}')
    with pytest.raises(ValueError, match="a chimera add-on, but medusa is wanted"):
        szilard.Medusa.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"add_on": "med')
    with pytest.raises(ValueError, match=r"its config\.json is cut off"):
        szilard.Medusa.from_pretrained(tmp_path)


def test_a_repository_that_the_hub_does_not_give_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="there is no folder 'some/body', and the hub gives no such repository"):
        szilard.Medusa.from_pretrained("some/body")


def test_saving_keeps_a_card_that_somebody_wrote(tmp_path):
    heads = random_heads(tiny_model("llama"))
    heads.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    heads.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert MedusaHeads.from_pretrained(tmp_path).fingerprint == heads.fingerprint


def test_accepted_drafts_of_a_shape_by_hand():
    ranks = torch.tensor([[0, 0, 0, 0, 0], [0, 2, 1, 0, 0], [3, 0, 0, 0, 0], [4, 0, 0, 0, 0], [0, 10, 0, 0, 0]])
    assert SMALL_TREE.accepted(ranks).tolist() == [5, 3, 2, 0, 1]
    assert TreeShape.of([(1,)]).accepted(torch.tensor([[0], [1], [2]])).tolist() == [0, 1, 0]


@pytest.mark.parametrize(("storage", "most", "error"), [("float32", 4, 0), ("float16", 2, 1e-3), ("int8", 1.2, 2e-2)])
def test_an_add_on_is_kept_in_few_bits_and_loaded_as_float32(tmp_path, storage, most, error):
    base = {"name": "tiny", "fingerprint": None, "hidden_size": 96, "vocab_size": VOCAB}
    heads = MedusaHeads(base=base, depth=2)
    torch.nn.init.normal_(heads.weight)
    heads.accuracy.fill_(0.25)
    heads.save_pretrained(tmp_path, storage=storage)
    again = MedusaHeads.from_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < most * heads.weight.numel() + 2000
    assert again.weight.dtype == torch.float32 and torch.equal(again.accuracy, heads.accuracy)
    torch.testing.assert_close(again.weight, heads.weight, atol=error, rtol=error)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="no whole medusa add-on"):
        MedusaHeads.from_pretrained(tmp_path)


def test_storage_has_three_kinds(tmp_path):
    with pytest.raises(ValueError, match="storage must be one of"):
        MedusaHeads(base={"hidden_size": 8, "vocab_size": 9}, depth=1).save_pretrained(tmp_path, storage="int4")
