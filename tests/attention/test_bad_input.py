"""What a cache or attention method says, and does, when it is used in a way that it was not made for."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import DynamicCache

import szilard
from szilard.cli.main import main
from szilard.evaluation.bulk import answer_all
from tests.conformance.test_every_attention_method import SMALL
from tests.conftest import prompt_batch

EVICT_WHILE_GENERATING = ("streaming-llm", "h2o", "tova", "uncomp")


def made(slug):
    return szilard.make_attention(slug, SMALL[slug])


@pytest.mark.parametrize("slug", EVICT_WHILE_GENERATING)
@torch.no_grad()
def test_a_cache_that_was_filled_before_the_method_was_open_keeps_its_budget(llama, slug):
    ids, past = prompt_batch(1, longest=20)["input_ids"], DynamicCache(config=llama.config)
    llama(ids, past_key_values=past)
    with made(slug)(llama) as run:
        for token in (5, 6, 7):
            llama(torch.tensor([[token]]), past_key_values=past)
    assert run.summary()["kv_held_share"] == pytest.approx(6 / 23)  # of uncomp's groups in the mean


@torch.no_grad()
def test_the_share_of_such_a_cache_is_a_share_of_its_tokens(llama):
    ids, past = prompt_batch(1, longest=19)["input_ids"], DynamicCache(config=llama.config)
    llama(ids, past_key_values=past)
    with szilard.H2o(budget=0.5)(llama):
        llama(torch.tensor([[5]]), past_key_values=past)
    assert [layer.stored for layer in past.layers] == [10, 10, 10]


@pytest.mark.parametrize("new", [1, 3])
@torch.no_grad()
def test_a_cache_in_groups_does_not_go_on_without_its_method(llama, new):
    ids, past = prompt_batch(1, longest=20)["input_ids"], DynamicCache(config=llama.config)
    with made("uncomp")(llama):
        llama(ids, past_key_values=past)
    with pytest.raises(ValueError, match="go on with it under the open method"):
        llama(torch.full((1, new), 5), past_key_values=past)


@pytest.mark.parametrize("slug", ["snapkv", "h2o", "entropy-prune"])
@torch.no_grad()
def test_a_cache_with_evicted_slots_takes_no_second_text_without_its_method(llama, slug):
    ids, past = prompt_batch(1, longest=20)["input_ids"], DynamicCache(config=llama.config)
    with made(slug)(llama):
        llama(ids, past_key_values=past)
        llama(torch.tensor([[5, 6, 7]]), past_key_values=past)
    with pytest.raises(ValueError, match="go on with it under the open method"):
        llama(torch.tensor([[5, 6, 7]]), past_key_values=past)


@pytest.mark.parametrize("slug", SMALL)
def test_what_is_no_model_is_refused_in_a_sentence(engine, slug):
    with pytest.raises(TypeError, match=r"give it `\.model`"), made(slug)(engine):
        pass
    for other in ("zoo/tiny-vlm", torch.nn.Linear(2, 2), None):
        with pytest.raises(TypeError, match="needs a model of transformers"), made(slug)(other):
            pass


def test_a_cache_of_another_method_is_refused_without_talk_of_implementations(llama):
    past = DynamicCache(config=llama.config)
    with made("snapkv")(llama):
        llama(prompt_batch(1)["input_ids"], past_key_values=past)
    with pytest.raises(ValueError, match="EvictingLayer: begin a new cache"), made("tidal-decode")(llama):
        llama(torch.tensor([[5]]), past_key_values=past)


@pytest.mark.parametrize("slug", EVICT_WHILE_GENERATING)
def test_drafts_under_a_method_that_evicts_while_generating_are_refused_when_the_two_meet(slug):
    with pytest.raises(ValueError, match=f"set phase='prefill' of '{slug}'"):
        szilard.Under(szilard.PromptLookup(), made(slug))
    assert szilard.Under(szilard.PromptLookup(), szilard.methods()[slug].neutral())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["generate", "w8", "--method", "snapkv"], "--method greedy+snapkv"),
        (["generate", "w8", "--method", "greedy+snapkv", "--set", "budget=40"], "write snapkv.budget=40"),
        (["generate", "w8", "--method", "greedy", "--set", "budget=40"], "It has: none."),
        (
            ["generate", "w8", "--method", "greedy+tidal-decode", "--set", "tidal-decode.reselect_layers=1,2"],
            "must be a list, as in [1, 2], not '1,2'",
        ),
        (["generate", "w8", "--method", "greedy+uncomp", "--set", "uncomp.budgets=64"], "a list, as in [1, 2] or none"),
        (["generate", "w8", "--method", "greedy+first", "--set", "first.routers=/no/such"], "there is no folder"),
        (["generate", "w8", "--method", "medusa", "--set", "drafter="], "there is no folder ''"),
        (["generate", "w8", "--method", "prompt-lookup+h2o"], "set phase='prefill' of 'h2o'"),
    ],
)
def test_the_command_line_says_how_it_is_written(command, said, model_folder, capsys):
    assert main([*command, "--model", model_folder, "-n", "2"]) == 2
    written = capsys.readouterr()
    assert said in " ".join(written.err.split()) and "Traceback" not in written.err and not written.out


def test_options_of_a_pair_are_read_with_underscores_and_without_its_decoding_method(model_folder, capsys):
    settings = ["--model", model_folder, "-n", "3", "--json", "--raw"]
    name = ["--set", "layer_skip.layers=[1]"]
    assert main(["generate", "w8 w9", "--method", "greedy+layer-skip", *name, *settings]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["layer-skip.layers"] == [1]
    name = ["--set", "layer-skip.layers=[1]"]
    assert main(["compare", "w8 w9", "--methods", "greedy,greedy+layer-skip", *name, *settings]) == 0
    assert json.loads(capsys.readouterr().out)[0][1]["options"]["layer-skip.layers"] == [1]


def test_compare_refuses_the_last_method_before_it_runs_the_first(model_folder, capsys, monkeypatch):
    from szilard.engines import TransformersEngine

    monkeypatch.setattr(TransformersEngine, "generate", None)  # would be called
    chosen = ["--methods", "greedy,greedy+layer-skip", "--set", "layer-skip.layers=[300]"]
    assert main(["compare", "w8 w9", *chosen, "--model", model_folder]) == 2
    assert "beyond the 3 layers" in capsys.readouterr().err


def test_a_prompt_of_a_file_that_is_too_long_is_told_before_any_is_answered(engine, tmp_path):
    output = tmp_path / "answers.jsonl"
    with pytest.raises(ValueError, match=r"prompt 2: .*context window"):
        answer_all(engine, ["w8", "w9 " * 300], output, batch_size=1, max_new_tokens=2, raw=True)
    assert not output.read_text()


def test_a_pair_that_never_draws_refuses_to_as_its_decoding_method_does(engine):
    with pytest.raises(ValueError, match="greedy never draws"):
        engine.generate("w8", attention="snapkv", method="greedy", do_sample=True)
    with pytest.raises(ValueError, match="greedy never draws"):
        engine.generate("w8", szilard.Under(szilard.Greedy(), szilard.SnapKv()), do_sample=True)
    with pytest.raises(ValueError, match="settings of its own"):
        engine.generate("w8", szilard.Under(szilard.Sampling(), szilard.SnapKv()), do_sample=True, temperature=0.5)


def test_seeds_tell_runs_of_a_pair_that_draws_apart():
    from szilard.evaluation.runner import draws

    assert draws(szilard.Under(szilard.Sampling(), szilard.SnapKv()))
    assert not draws(szilard.Under(szilard.Greedy(), szilard.SnapKv()))
