"""EAD: the switching rule, the hand-over of caches, and the counts."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

import szilard
from szilard.decoding.ead import LARGE, SMALL, Ead, _Switch
from tests.conftest import prompt_batch, tiny_model

ENTROPIES = [0.1, 0.2, 0.1, 0.3, 0.2, 2.5, 2.0, 1.8, 2.2, 1.9, 1.5, 0.9, 0.4, 0.2, 0.1, 0.1]


def run(model, inputs, method=None, **options):
    torch.manual_seed(3)
    settings = {"max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True} | options
    return model.generate(**inputs, custom_generate=method, **settings)


def test_the_switching_rule_on_the_worked_example():
    switch = _Switch(Ead(threshold=1.0, window=5, min_duration=3), None)
    producers = []
    for uncertainty in ENTROPIES:
        producers.append(switch.model)
        switch.after_token(uncertainty)
    assert producers == [SMALL] * 7 + [LARGE] * 7 + [SMALL] * 2
    assert switch.switches == 2


def test_switches_are_at_least_min_duration_apart_and_ties_go_to_the_large_model():
    switch = _Switch(Ead(threshold=1.0, window=1, min_duration=4), None)
    changes = []
    for step in range(40):
        before = switch.model
        switch.after_token(1.0 if step % 2 else 0.5)
        if switch.model != before:
            changes.append(step)
    assert changes[0] >= 3 and all(b - a >= 4 for a, b in itertools.pairwise(changes))
    tie = _Switch(Ead(threshold=1.0, window=1, min_duration=1), None)
    tie.after_token(1.0)
    assert tie.model == LARGE


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "gemma3"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("setting", [{"threshold": 0.0}, {"threshold": 5.5}, {"threshold": 0.0, "start": "large"}])
def test_with_two_copies_of_one_model_the_output_is_that_models_own(architecture, rows, setting):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    plain = run(model, inputs)
    for min_duration in (1, 3):
        method = Ead(large=tiny_model(architecture), window=2, min_duration=min_duration, **setting)
        assert torch.equal(plain.sequences, run(model, inputs, method).sequences)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_switch_at_every_token_leaves_no_hole(rows):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    plain = run(model, inputs)
    method = Ead(large=model, control="random", switch_up=0.6, switch_down=0.6, min_duration=1)
    out = run(model, inputs, method)
    assert torch.equal(plain.sequences, out.sequences)
    assert out.cost.counters["switches"] > rows * 5
    always = Ead(large=model, control="random", switch_up=1.0, switch_down=1.0, min_duration=1)
    assert torch.equal(plain.sequences, run(model, inputs, always).sequences)


def test_the_ends_of_the_dial_are_the_models_alone():
    small, large, inputs = tiny_model("llama"), tiny_model("qwen2"), prompt_batch(3)
    alone = run(large, inputs).sequences
    out = run(small, inputs, Ead(threshold=0.0, start="large", large=large))
    assert torch.equal(out.sequences, alone)
    assert out.cost.counters["large_share"] == 1
    out = run(small, inputs, Ead(threshold=math.inf, large=large))
    assert torch.equal(out.sequences, run(small, inputs).sequences)
    assert list(out.cost.forward_passes) == ["LlamaForCausalLM"]


def test_seeded_sampling_at_the_small_end_is_plain_sampling():
    small, inputs = tiny_model("llama"), prompt_batch(2)
    plain = run(small, inputs, do_sample=True, top_k=0)
    assert torch.equal(run(small, inputs, Ead.neutral(), do_sample=True, top_k=0).sequences, plain.sequences)


def test_a_row_does_not_depend_on_its_batch():
    small, large, inputs = tiny_model("llama"), tiny_model("qwen2"), prompt_batch(4)
    method = Ead(threshold=6.4, window=2, min_duration=2, large=large)
    together = run(small, inputs, method)
    for row in range(4):
        length = int(inputs["attention_mask"][row].sum())
        alone = run(small, {name: value[row : row + 1, -length:] for name, value in inputs.items()}, method)
        expected = alone.sequences[0, length:].tolist()
        assert together.sequences[row, inputs["input_ids"].shape[1] :].tolist()[: len(expected)] == expected


def test_the_counts_of_a_hand_computed_run():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    prompt = inputs["input_ids"].shape[1]
    method = Ead(threshold=0.0, min_duration=4, large=model)
    out = run(model, inputs, method, max_new_tokens=10, min_new_tokens=10)
    # The small model writes 4 tokens (prompt and 3 tokens read), the large one 6 (prompt and 4 at once, then 5).
    counters = out.cost.counters
    assert counters["large_tokens_written"] == 6 and counters["large_share"] == 0.6
    assert counters["switches"] == 1 and counters["catch_up_tokens"] == 3
    assert out.cost.tokens == {"LlamaForCausalLM": prompt + 3, "LlamaForCausalLM (large)": prompt + 4 + 5}
    assert out.cost.forward_passes == {"LlamaForCausalLM": 4, "LlamaForCausalLM (large)": 1 + 5}
    assert counters["relative_cost"] == 1.0  # two models of one size


@pytest.mark.parametrize("rows", [1, 3])
def test_the_assistant_model_of_generate_is_the_large_model(rows):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    options = {"max_new_tokens": 10, "do_sample": False}
    given = model.generate(**inputs, **options, custom_generate=Ead(threshold=0.0, large=model))
    assistant = model.generate(**inputs, **options, custom_generate=Ead(threshold=0.0), assistant_model=model)
    assert torch.equal(given, assistant)


def test_the_trace_says_who_wrote_what():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    out = run(model, inputs, Ead(threshold=0.0, min_duration=4, large=model), max_new_tokens=8, min_new_tokens=8)
    assert out.trace["model"].tolist() == [SMALL] * 4 + [LARGE] * 4
    assert out.trace["switched"].tolist() == [False] * 3 + [True] + [False] * 4


def test_bad_input_is_refused_in_one_sentence(engine):
    with pytest.raises(ValueError, match="second model"):
        engine.generate("Hi", Ead(), max_new_tokens=4)
    with pytest.raises(TypeError, match="engine, a transformers model or a name"):
        engine.generate("Hi", Ead(large=3), max_new_tokens=4)
    with pytest.raises(ValueError, match="window"):
        Ead(window=0)
    assert szilard.Ead is Ead


def test_calibration_finds_a_threshold_between_the_models(engine):
    prompts = ["w3 w17", "w60 w5 w9"]
    settings = {"min_duration": 1, "window": 1}
    threshold = Ead.calibrate(
        engine, engine, prompts, target_large_share=0.5, high=7.0, max_new_tokens=16, generate={"raw": True}, **settings
    )
    shares = []
    for prompt in prompts:
        method = Ead(threshold=threshold, large=engine, **settings)
        shares.append(engine.generate(prompt, method, max_new_tokens=16, raw=True).cost.counters["large_share"])
    assert 0 < threshold < 7 and 0.1 < sum(shares) / 2 < 0.9


def test_random_switches_belong_to_the_prompt_not_to_the_place_in_the_batch():
    model, inputs = tiny_model("llama"), prompt_batch(4)
    method = Ead(large=model, control="random", switch_up=0.3, switch_down=0.3, min_duration=1)
    together = run(model, inputs, method).trace
    writers = [together.row(row)["model"].tolist() for row in range(4)]
    for row in (3, 1):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        assert run(model, alone, method).trace["model"].tolist() == writers[row][: len(writers[row])]
    assert len({tuple(row) for row in writers}) == 4
    other = run(model, inputs, replace(method, seed=1)).trace
    assert other.row(0)["model"].tolist() != writers[0]
    twice = {name: torch.cat([value[:1], value[:1]]) for name, value in inputs.items()}
    same = run(model, twice, method).trace
    assert same.row(0)["model"].tolist() != same.row(1)["model"].tolist()
