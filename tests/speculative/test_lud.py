"""Lexical units by hand; plain where it must be; checked spans are exact; training sees what decoding will see."""

import pytest
import torch

import szilard
from szilard.speculative.draft_config import LudConfig
from szilard.speculative.lud.adapter import LudAdapter
from szilard.speculative.lud.method import Lud
from szilard.speculative.lud.training import LudObjective, collate, pack, train_lud
from szilard.speculative.lud.units import lexical_units
from szilard.training.target import Target
from tests.conftest import ARCHITECTURES, CONFIGS, prompt_batch, tiny_model, tiny_tokenizer
from tests.speculative.test_lossless import run
from tests.speculative.test_medusa import counting  # noqa: F401 - a fixture

PI = [0.2, 0.95, 0.97, 0.4, 0.99, 0.5, 0.93, 0.94, 0.96]


def test_units_by_hand():
    assert lexical_units(PI, 0.9) == [(1, 3), (4, 5), (6, 9)]
    assert lexical_units(PI, 0.9, max_length=2) == [(1, 3), (4, 5), (6, 8), (8, 9)]
    assert lexical_units(PI, 0.0) == [(0, 9)] and lexical_units(PI, 1.1) == [] and lexical_units([], 0.5) == []
    assert lexical_units([0.9, 0.9, 0.1, 0.9], 0.9) == [(0, 2), (3, 4)]


def untuned(architecture):
    model = tiny_model(architecture)
    torch.manual_seed(1)
    adapter = LudAdapter(base={"hidden_size": 32, "vocab_size": 97}, shapes={})
    torch.nn.init.normal_(adapter.placeholder)
    return model, adapter.double()


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("options", [{"window": 1}, {"beta": 1.5}, {"beta": 0.9999999}])
def test_one_token_at_a_time_is_plain_decoding(architecture, rows, options):
    model, adapter = untuned(architecture)
    inputs = prompt_batch(rows)
    out = run(model, inputs, Lud(adapter=adapter, **options))
    assert torch.equal(out.sequences, run(model, inputs).sequences)


@pytest.mark.parametrize("acceptance", ["prefix", "all"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checked_spans_leave_the_text_as_it_is(architecture, rows, acceptance):
    model, adapter = untuned(architecture)
    inputs = prompt_batch(rows)
    method = Lud(adapter=adapter, beta=0.05, window=4, acceptance=acceptance, verify=True, stop_repeats=False)
    out = run(model, inputs, method)
    assert torch.equal(out.sequences, run(model, inputs).sequences)


def test_checked_sampling_draws_the_same_tokens():
    model, adapter = untuned("llama")
    inputs, options = prompt_batch(1), {"do_sample": True, "temperature": 1.2}
    method = Lud(adapter=adapter, beta=0.6, verify=True)
    assert torch.equal(run(model, inputs, method, **options).sequences, run(model, inputs, **options).sequences)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_after_every_step_the_cache_is_that_of_a_fresh_prompt(architecture, rows, monkeypatch):
    """Whatever was taken: placeholders never stay, taken tokens are read at their own places."""
    model, adapter = untuned(architecture)
    inputs = prompt_batch(rows)
    method = Lud(adapter=adapter, beta=0.0, window=3)
    seen = []
    feed = Lud._feed

    def look(self, state, fresh, counts, placeholder, ahead):
        logits = feed(self, state, fresh, counts, placeholder, ahead)
        for row in range(rows):
            if not bool(state.finished[row]):
                text = state.tokens[row, -int(state.lengths[row]) :]
                expected = model(text[None]).logits[0, -int(counts[row]) :]
                torch.testing.assert_close(logits[row, : int(counts[row])], expected, atol=1e-8, rtol=1e-8)
                seen.append(int(counts[row]))
        return logits

    monkeypatch.setattr(Lud, "_feed", look)
    out = run(model, inputs, method, max_new_tokens=17)
    assert max(seen) > 1 and out.sequences.shape[1] <= inputs["input_ids"].shape[1] + 17
    assert sum(value * int(name[5:]) for name, value in out.cost.counters.items() if name.startswith("span_")) > 0


@pytest.mark.parametrize(
    ("confidence", "prefix", "all_"),
    [((0.99, 0.95, 0.7, 0.99), 2, 1), ((0.5, 0.99, 0.99, 0.99), 1, 1), ((0.95,) * 4, 4, 4), ((0.1,) * 4, 1, 1)],
)
def test_acceptance_by_hand(confidence, prefix, all_):
    class State:
        do_sample = False

    window = torch.full((1, 4, 50), -1e9)
    for place, chance in enumerate(confidence):
        window[0, place, place] = torch.log(torch.tensor(chance))
        window[0, place, 10:] = torch.log(torch.tensor((1 - chance) / 40))
    first = torch.tensor([0 if confidence[0] > 0.1 else int(window[0, 0].argmax())])
    for acceptance, expected in (("prefix", prefix), ("all", all_)):
        assert Lud(window=1, acceptance=acceptance)._span(State(), window, first)[1].tolist() == [expected]


def test_a_repeated_token_ends_the_span():
    class State:
        do_sample = False

    window = torch.full((1, 3, 5), -50.0)
    window[0, 0, 1] = window[0, 1, 2] = window[0, 2, 2] = 0
    first = torch.tensor([1])
    assert Lud(window=1)._span(State(), window, first)[1].item() == 2
    assert Lud(window=1, stop_repeats=False)._span(State(), window, first)[1].item() == 3


def test_an_adapter_is_applied_and_taken_away_again():
    model = tiny_model("llama")
    name = "model.layers.0.self_attn.q_proj.weight"
    weight = dict(model.named_parameters())[name]
    before = weight.clone()
    adapter = LudAdapter(base={"hidden_size": 32, "vocab_size": 97}, shapes={name: [32, 32, 4]}, scale=2.0)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    with pytest.raises(KeyError), adapter.applied(model):
        expected = before + 2 * (adapter.up[0] @ adapter.down[0])
        torch.testing.assert_close(weight, expected.double())
        raise KeyError
    assert torch.equal(weight, before)
    with pytest.raises(ValueError, match="has no weight"), adapter.applied(tiny_model("gpt2")):
        pass


def test_a_missing_adapter_is_said(engine):
    with pytest.raises(ValueError, match="szilard train lud"):
        engine.generate("w9", method="lud", max_new_tokens=2)
    with pytest.raises(ValueError, match="no folder 'nowhere'"):
        engine.generate("w9", method=szilard.Lud(adapter="nowhere"), max_new_tokens=2)


def fresh_engine(architecture="llama"):
    """An engine of its own: tuning changes its model."""
    from transformers import AutoModelForCausalLM

    from szilard.engines import TransformersEngine

    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]())
    model.load_state_dict(tiny_model(architecture).float().state_dict())
    tiny_model(architecture).double()
    return TransformersEngine(model.double().eval(), tiny_tokenizer(), name="tiny")


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gemma3"])
def test_packed_windows_are_separate_forwards(architecture):
    engine = fresh_engine(architecture)
    objective = LudObjective(Target(engine), LudConfig(lora=False)).double().eval()
    torch.nn.init.normal_(objective.placeholder)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 97, (12,), generator=generator)
    windows = [(2, 5), (6, 8), (7, 11)]
    one = pack(ids, torch.ones(12, dtype=torch.bool), windows)
    two = pack(ids[:7].flip(0), torch.ones(7, dtype=torch.bool), [(3, 6)])
    batch = collate([one, two])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        logits = objective.logits(**inputs)
        plain = engine.model(ids[None]).logits[0]
        torch.testing.assert_close(logits[0, :12], plain)
        slot = 12
        for start, end in windows:
            count = end - start - 1
            vectors = engine.model.get_input_embeddings()(ids[None, :start])
            fed = torch.cat([vectors, objective.placeholder.double().expand(1, count, -1)], dim=1)
            expected = engine.model(inputs_embeds=fed).logits[0, start:]
            torch.testing.assert_close(logits[0, slot : slot + count], expected)
            assert batch["labels"][0, slot : slot + count].tolist() == ids[start + 1 : end].tolist()
            slot += count


@pytest.mark.parametrize("options", [{}, {"lora": False, "learning_rate": 3e-3}, {"supervise": "unit", "alpha": 0.0}])
def test_a_model_learns_to_write_several_tokens_at_once(tmp_path, counting, options):  # noqa: F811
    if options.get("lora", True):
        pytest.importorskip("peft")
    engine = fresh_engine()
    plain = engine.generate("w10 w11", max_new_tokens=12)
    settings = {"steps": 120, "batch_size": 4, "window": 40, "learning_rate": 0.02, "alpha": 0.5} | options
    metrics = train_lud(engine, counting, LudConfig(rank=8, **settings), tmp_path)
    assert metrics["right_2"] > 0.8
    assert (tmp_path / "units.parquet").is_file() and not (tmp_path / "probabilities").exists()
    base = fresh_engine()
    method = szilard.Lud.from_pretrained(tmp_path, beta=0.5)
    out = base.generate("w10 w11", method=method, max_new_tokens=12)
    assert out.cost.counters["target_forwards"] < 8  # of 11
    assert base.generate("w10 w11", max_new_tokens=12).tokens == plain.tokens  # the model is its own again
    one = base.generate("w10 w11", method=szilard.Lud.from_pretrained(tmp_path, beta=2.0), max_new_tokens=12)
    checked = szilard.Lud.from_pretrained(tmp_path, beta=0.5, verify=True)
    again = base.generate("w10 w11", method=checked, max_new_tokens=12)
    assert again.tokens == one.tokens


def test_sharded_training_is_refused(tmp_path, counting, monkeypatch):  # noqa: F811
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="DDP"):
        train_lud(fresh_engine(), counting, LudConfig(), tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_spans_end_where_the_fullest_row_has_no_more_room(seed):
    from tests.speculative.test_chimera import short_gpt2

    model, inputs = short_gpt2(), prompt_batch(4, seed=seed)
    torch.manual_seed(seed)
    adapter = LudAdapter(base={"hidden_size": 32, "vocab_size": 97}, shapes={}).double()
    torch.nn.init.normal_(adapter.placeholder)
    out = run(model, inputs, Lud(adapter=adapter, beta=0.0), max_new_tokens=21, eos_token_id=None)
    assert out.sequences.shape[1] == 32


def test_a_prompt_may_come_as_embeddings():
    model, adapter = untuned("llama")
    inputs = prompt_batch(2)
    vectors = model.get_input_embeddings()(inputs["input_ids"])
    options = {"inputs_embeds": vectors, "attention_mask": inputs["attention_mask"], "max_new_tokens": 8}
    for method in (Lud.neutral(), Lud(adapter=adapter, beta=2.0)):
        out = model.generate(**options, custom_generate=method)
        assert torch.equal(out, model.generate(**options, do_sample=False))


@pytest.mark.parametrize("lora", [True, False])
def test_tuning_leaves_the_callers_model_as_it_was(tmp_path, counting, lora):  # noqa: F811
    if lora:
        pytest.importorskip("peft")
    engine = fresh_engine()
    before = {name: weight.clone() for name, weight in engine.model.state_dict().items()}
    config = LudConfig(lora=lora, steps=4, batch_size=2, window=40, log_every=2, save_every=2, learning_rate=0.01)
    train_lud(engine, counting, config, tmp_path)
    after = engine.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    engine.generate("w9", method=szilard.Lud.from_pretrained(tmp_path), max_new_tokens=4)


def test_adapters_of_a_half_precision_model_are_trained_in_float32():
    pytest.importorskip("peft")
    engine = fresh_engine()
    engine.model.bfloat16()
    objective = LudObjective(Target(engine), LudConfig())
    assert {parameter.dtype for parameter in objective.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="float32"):
        LudObjective(Target(fresh_half()), LudConfig(lora=False))


def fresh_half():
    engine = fresh_engine()
    engine.model.bfloat16()
    return engine
