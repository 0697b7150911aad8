"""LaDiR's checkpoint folder, the decoding method on it, and the training that writes it."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import pytest
import torch

import szilard
from szilard.cli.main import main
from szilard.decoding.method import row_streams
from szilard.engines import TransformersEngine
from szilard.reasoning.examples import Reasoning
from szilard.reasoning.ladir import training
from szilard.reasoning.ladir.checkpoint import open_parts, open_reasoner, open_vae, write_checkpoint
from szilard.reasoning.ladir.config import LadirConfig
from szilard.reasoning.ladir.training import STAGE_1, STAGE_2, VAE, train_ladir, train_reasoner
from tests.conftest import tiny_model, tiny_tokenizer
from tests.reasoning.ladir_model import tiny_engine, tiny_reasoner

PROMPTS = ["w5 w6 w7", "w8", "w9 w10"]
EXAMPLES = [Reasoning(f"w{n} w{n + 1}", f"w{n} w{n + 2} ; w{n + 1}", f"w{n + 3}") for n in range(10, 34)]
SMALL = LadirConfig(
    vae_steps=4,
    steps=4,
    stage2_steps=4,
    vae_batch_size=4,
    batch_size=4,
    stage2_batch_size=2,
    learning_rate=1e-3,
    latent_tokens=2,
    latent_dim=4,
    noise_draws=2,
    rollout_steps=2,
    eval_problems=2,
    eval_steps=1,
    max_new_tokens=2,
    held_out=0.2,
    save_every=2,
    log_every=1,
    evaluate_every=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained reasoner on disk."""
    made = tmp_path_factory.mktemp("ladir") / "reasoner"
    reasoner = tiny_reasoner()
    with torch.no_grad():
        for parameter in reasoner.tuned.tuned:
            parameter.mul_(1.01)
    write_checkpoint(reasoner, reasoner.vae, made, tiny_engine())
    return made


@pytest.fixture(scope="module")
def engine(folder):
    return szilard.load(folder, device="cpu", dtype="float64")


def test_the_method_thinks_as_the_reasoner_does(folder, engine):
    method = szilard.LaDiR(num_steps=3, max_blocks=3, seed=4)
    results = engine.generate(PROMPTS, method, max_new_tokens=3)
    reasoner = open_reasoner(folder, device="cpu").double()
    assert reasoner.parts.base["fingerprint"] == engine.fingerprint
    for prompt, result in zip(PROMPTS, results, strict=True):
        inputs = engine.encode([prompt])
        first = result.trace[0]
        alone = engine.generate(prompt, method, max_new_tokens=3)
        assert alone.tokens == result.tokens and alone.trace[0].thoughts == first.thoughts
        assert 1 <= first.blocks <= 3 and first.denoising_steps == 3 * first.blocks
        assert len(first.thoughts.split(" | ")) == len(first.thought_norms.split(" | ")) == first.blocks
        (stream,) = row_streams(4, engine.state([prompt]))
        noise = torch.stack([torch.randn(1, 2, 6, generator=stream) for _ in range(3)])
        own = reasoner.generate(inputs["input_ids"], num_steps=3, max_blocks=3, noise=noise, max_new_tokens=3)
        assert len(own.blocks[0]) == first.blocks
        assert own.answer_ids[0] == [token for token in result.tokens if token != engine.tokenizer.eos_token_id]


def test_forwards_are_counted(engine):
    result = engine.generate("w5", szilard.LaDiR(num_steps=4, max_blocks=1), max_new_tokens=2, min_new_tokens=2)
    assert result.cost.counters["denoising_forwards"] == 4 and result.cost.counters["blocks"] == 1
    assert sum(result.cost.forward_passes.values()) == 1 + 4 + 1 + 1 + 1


def test_equal_prompts_are_trajectories_of_one_question(engine):
    plain = szilard.LaDiR(num_steps=2, max_blocks=1, decode_thoughts=False)
    guided = dataclasses.replace(plain, gamma_max=0.5, bandwidth=3.0)
    prompts = ["w5 w6"] * 3 + ["w8"]
    norms = [
        [result.trace[0].thought_norms for result in engine.generate(prompts, method, max_new_tokens=1)]
        for method in (plain, guided)
    ]
    assert len(set(norms[0][:3])) == 3  # of noise that differs
    assert norms[0][:3] != norms[1][:3] and norms[0][3] == norms[1][3]


def test_without_a_trace_no_thought_is_decoded(engine, monkeypatch):
    monkeypatch.setattr("szilard.reasoning.ladir.method.open_vae", lambda *_, **__: pytest.fail("decoded"))
    engine.generate("w5", szilard.LaDiR(num_steps=1, max_blocks=1), max_new_tokens=1, trace=False)


def test_blocks_end_where_the_context_does(engine):
    prompt = " ".join(["w5"] * 240)
    result = engine.generate(prompt, szilard.LaDiR(num_steps=1, decode_thoughts=False), max_new_tokens=4)
    assert result.trace[0].blocks <= (256 - 240 - 4 - 2) // 4


def test_it_works_inside_plain_transformers(folder, engine):
    inputs = engine.encode(["w5 w6"])
    method = szilard.LaDiR(checkpoint=folder, num_steps=2, max_blocks=2)
    out = engine.model.generate(
        **inputs, custom_generate=method, max_new_tokens=3, return_dict_in_generate=True, eos_token_id=1
    )
    same = engine.generate("w5 w6", method, max_new_tokens=3)
    assert out.sequences[0, inputs["input_ids"].shape[1] :].tolist() == same.tokens
    assert out.trace[0].thoughts == same.trace[0].thoughts


def test_models_without_parts_and_of_other_weights_are_refused_before_any_work(folder, engine, tmp_path):
    plain = tiny_engine()
    with pytest.raises(ValueError, match="szilard train ladir"):
        plain.generate("w5", szilard.LaDiR())
    with pytest.raises(ValueError, match="has other weights"):
        plain.generate("w5", szilard.LaDiR(checkpoint=folder))
    with pytest.raises(ValueError, match="no parts of LaDiR"):
        engine.generate("w5", szilard.LaDiR(checkpoint=tmp_path))
    with pytest.raises(TypeError, match="checkpoint"):
        szilard.LaDiR(checkpoint=3)
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "ladir" / "vae")
    with pytest.raises(ValueError, match="no VAE"):
        open_vae(str(copied))


def test_the_checkpoint_is_a_model_for_transformers_with_the_parts_beside_it(folder):
    assert open_parts(str(folder)) is open_parts(str(folder / "ladir"))
    vae = open_vae(str(folder), encoder=True, device="cpu")
    again = vae.encode(["w5 w6"])
    assert torch.allclose(again, tiny_reasoner().vae.float().encode(["w5 w6"]), atol=1e-4)
    assert vae.decode(again, max_new_tokens=2)


# ---- training ------------------------------------------------------------------------------------------------------


def write_examples(file) -> None:
    rows = [{"problem": one.problem, "cot": one.cot, "answer": one.answer} for one in EXAMPLES]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("lora", [False, True])
def test_a_training_writes_a_model_that_answers_with_thoughts(tmp_path, lora):
    write_examples(tmp_path / "data.jsonl")
    base = float_engine()
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    config = dataclasses.replace(SMALL, lora=lora, rank=2, evaluate_every=None)
    metrics = train_ladir(base, tmp_path / "data.jsonl", config, tmp_path / "made")
    assert {"accuracy", "blocks", "as_many", "with_gold", "exact"} <= set(metrics)
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    engine = szilard.load(tmp_path / "made", device="cpu")
    result = engine.generate("w5 w6", szilard.LaDiR(num_steps=2, max_blocks=2), max_new_tokens=2)
    assert result.trace[0].thoughts is not None
    with pytest.raises(ValueError, match="other settings"):
        train_ladir(base, tmp_path / "data.jsonl", dataclasses.replace(config, beta=0.1), tmp_path / "made")


class Killed(Exception):
    """Stands for kill -9."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nobody stopped."""
    return train_reasoner(float_engine(), EXAMPLES[:20], EXAMPLES[20:], SMALL, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("where", [VAE, STAGE_1, STAGE_2])
def test_a_killed_training_goes_on_as_if_nothing_had_been(whole, tmp_path, monkeypatch, where):
    owner = training.VaeObjective if where == VAE else training.ReasonerObjective
    real, calls = owner.forward, []

    def dying(self, **batch):
        if getattr(self, "rollout", None) == (where == STAGE_2) or where == VAE:
            calls.append(1)
            if len(calls) == 4:  # behind the checkpoint of step 2
                raise Killed
        return real(self, **batch)

    monkeypatch.setattr(owner, "forward", dying)
    with pytest.raises(Killed):
        train_reasoner(float_engine(), EXAMPLES[:20], EXAMPLES[20:], SMALL, tmp_path / "killed")
    monkeypatch.undo()
    again = train_reasoner(float_engine(), EXAMPLES[:20], EXAMPLES[20:], SMALL, tmp_path / "killed")
    for stage in (VAE, STAGE_1, STAGE_2):
        one, other = whole.stages[stage], again.stages[stage]
        assert [row["loss"] for row in one.metrics] == [row["loss"] for row in other.metrics]
        assert one.evaluations == other.evaluations
    for mine, theirs in zip(whole.reasoner.tuned.tuned, again.reasoner.tuned.tuned, strict=True):
        assert torch.equal(mine, theirs)


def float_engine():
    """The tiny model in float32, a copy."""
    return TransformersEngine(copy.deepcopy(tiny_model("llama")).float(), tiny_tokenizer(), name="tiny")


def test_the_command_line_trains_and_refuses_in_one_sentence(tmp_path, model_folder, capsys):
    write_examples(tmp_path / "data.jsonl")
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in dataclasses.asdict(SMALL).items()
        if value != getattr(LadirConfig(), name)
    ]
    where = ["--data", str(tmp_path / "data.jsonl"), "-o", str(tmp_path / "made"), "--model", model_folder]
    arguments = ["train", "ladir", *where, "--device", "cpu", "--dtype", "float32", *flags, "--no-stage2"]
    assert main(arguments) == 0
    assert (tmp_path / "made" / "ladir" / "vae" / "encoder.safetensors").is_file()
    assert main([*arguments, "--span", "all"]) == 2
    assert "span must be one of" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text('{"problem": "w5"}\n')
    assert main(["train", "ladir", "--data", str(tmp_path / "bad.jsonl"), "-o", str(tmp_path / "other")]) == 2
    assert "has no cot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [({"evaluate_every": 3}, "multiple of save_every"), ({"normalise": "row"}, "normalise"), ({"rank": 0}, "rank")],
)
def test_bad_settings_of_a_training_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **options)
