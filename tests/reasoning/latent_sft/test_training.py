"""The whole recipe: what it leaves, that it goes on wherever it was killed, and what it refuses."""

import dataclasses
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

import szilard
from szilard.engines import TransformersEngine
from szilard.reasoning.latent_sft import labels as labels_module
from szilard.reasoning.latent_sft import stages as stages_module
from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder
from szilard.reasoning.latent_sft.generate import latent_generate
from szilard.reasoning.latent_sft.labels import generate_soft_labels
from szilard.reasoning.latent_sft.samples import as_samples
from szilard.reasoning.latent_sft.stage1 import LatentSFTStage1
from szilard.reasoning.latent_sft.stage2 import LatentSFTStage2
from szilard.reasoning.latent_sft.stages import LatentTraining
from szilard.reasoning.latent_sft.training import train_latent_sft
from szilard.training.loop import read_metrics
from tests.reasoning.latent_sft import tiny

SHORT = {"lora": False, "steps": 2, "stage_1_steps": 2, "evaluations": 1}
STAGES = ("encoder", "decoder", "both", "chain")


def engine(seed=0):
    return TransformersEngine(tiny.arithmetic_model(seed), tiny.tokenizer(), name="tiny")


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.jsonl"
    rows = [{"problem": one.problem, "cot": one.cot, "answer": one.answer} for one in tiny.problems(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def curves(folder):
    found = {}
    for stage in STAGES:
        rows = read_metrics(folder / "stages" / stage / "metrics.jsonl")
        found[stage] = [{name: row[name] for name in row if name != "grad_norm"} for row in rows]
        found[stage + " evaluated"] = read_metrics(folder / "stages" / stage / "evaluations.jsonl")
    return found


@pytest.mark.parametrize("lora", [True, False])
def test_a_model_folder_comes_out_and_the_engine_keeps_its_weights(tmp_path, data, lora):
    own = engine()
    before = {name: weight.clone() for name, weight in own.model.named_parameters()}
    told = []
    metrics = train_latent_sft(
        own,
        data,
        tiny.config(**(SHORT | {"lora": lora})),
        tmp_path / "out",
        progress=lambda done, total: told.append((done, total)),
    )
    assert set(metrics) == {"accuracy", "latent_steps", "kl", "ce", "taught"} and told == [(24, 24)]
    after = dict(own.model.named_parameters())
    assert set(after) == set(before) and all(torch.equal(before[name], after[name]) for name in before)
    assert not hasattr(own.model.config, "latent_sft")
    assert yaml.safe_load((tmp_path / "out" / "held-out.yaml").read_text()) == metrics
    assert not (tmp_path / "out" / "labels").exists()
    loaded = szilard.load(tmp_path / "out")
    assert loaded.model.config.latent_sft["top_k"] == 3
    weights = dict(loaded.model.named_parameters())
    assert any(not torch.equal(weights[name], before[name]) for name in before)
    assert torch.equal(weights["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    problem = tiny.problems(1, seed=9)[0].problem
    result = loaded.generate(problem, method="latent-sft", max_new_tokens=16)
    door = latent_generate(loaded.model, loaded.tokenizer, problem, max_new_tokens=16)
    assert result.trace.summary()["latent_steps"] == min(door.latent_steps, 15)


class Killed(BaseException):
    pass


def killed_at(monkeypatch, cls, call):
    """Have `cls.forward` break off at its `call`-th training step."""
    forward, calls = cls.forward, []

    def counted(self, *arguments, **options):
        if self.training:
            calls.append(1)
            if len(calls) == call:
                raise Killed
        return forward(self, *arguments, **options)

    monkeypatch.setattr(cls, "forward", counted)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    file = folder / "data.jsonl"
    rows = [{"problem": one.problem, "cot": one.cot, "answer": one.answer} for one in tiny.problems(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_latent_sft(engine(), file, tiny.config(), folder / "out")
    return folder / "out"


# a sub-step of stage 1 has four steps
@pytest.mark.parametrize(("where", "call"), [(LatentSFTStage1, 7), (LatentSFTStage2, 5), ("labels", 2)])
def test_a_killed_training_goes_on_to_the_same_curves_and_weights(tmp_path, data, whole, monkeypatch, where, call):
    monkeypatch.setattr(labels_module, "_PART", 8)
    with monkeypatch.context() as patch:
        if where == "labels":
            made, calls = labels_module._part, []

            def part(*arguments):
                calls.append(1)
                if len(calls) == call:
                    raise Killed
                return made(*arguments)

            patch.setattr(labels_module, "_part", part)
        else:
            killed_at(patch, where, call)
        own = engine()
        before = {name: weight.clone() for name, weight in own.model.named_parameters()}
        with pytest.raises(Killed):
            train_latent_sft(own, data, tiny.config(), tmp_path / "out")
        assert all(torch.equal(before[name], weight) for name, weight in own.model.named_parameters())
    if where == "labels":
        parts = sorted(path.name for path in (tmp_path / "out" / "labels").glob("part*"))
        assert parts == ["part-00000.safetensors"]
    train_latent_sft(engine(), data, tiny.config(), tmp_path / "out")
    assert curves(tmp_path / "out") == curves(whole)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_training_says_the_same_again_and_another_needs_another_folder(data, whole, tmp_path):
    again = train_latent_sft(engine(), data, tiny.config(), whole)
    assert again == yaml.safe_load((whole / "held-out.yaml").read_text())
    with pytest.raises(ValueError, match="other settings or data"):
        train_latent_sft(engine(), data, tiny.config(compression_rate=4), whole)
    with pytest.raises(ValueError, match="other settings or data"):
        train_latent_sft(engine(1), data, tiny.config(), whole)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="something else than a training"):
        train_latent_sft(engine(), data, tiny.config(), tmp_path / "mine")


def test_each_sub_step_trains_its_part_alone():
    model = tiny.arithmetic_model()
    for lora in (True, False):
        with LatentTraining(
            model, tiny.tokenizer(), tiny.problems(8), tiny.problems(2, 1), tiny.config(lora=lora), labels=None
        ) as training:
            encoder, decoder, both, chain = training.stages()
            names = dict(both.objective().named_parameters())
            parts = [{name for name in names if stage.learns(name)} for stage in (encoder, decoder, both)]
            assert parts[0] and parts[1] and parts[0] | parts[1] == parts[2] and not parts[0] & parts[1]
            assert "encoder.compress" in parts[0] and "decoder.model.embed_tokens.weight" not in parts[2]
            assert all("lora_" in name or name == "encoder.compress" for name in parts[2]) == lora
            assert not decoder.objective().train().encoder.training
            rated = LatentSFTStage1(training.encoder, model, tiny.config(encoder_learning_rate=1e-5))
            assert rated.learning_rate_of("encoder.compress") == 1e-5 and rated.learning_rate_of("decoder.x") == 3e-3
            assert encoder.evaluate_every % encoder.config.save_every == 0 and chain.best == "accuracy_then_loss"
        assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"feedback": "hidden_state"},
        {"induction_mask": False, "supervision_mask": False},
        {"top_k": 0, "dual_track_positions": False, "gumbel_scale": 0.0, "average": "chunk", "readout": "lm_head"},
    ],
)
def test_ablations_and_the_first_version_train(tmp_path, data, settings):
    metrics = train_latent_sft(engine(), data, tiny.config(**(SHORT | settings)), tmp_path / "out")
    assert 0 <= metrics["accuracy"] <= 1
    row = read_metrics(tmp_path / "out" / "stages" / "chain" / "metrics.jsonl")[-1]
    assert ("hidden" in row) == (settings.get("feedback") == "hidden_state")
    assert szilard.load(tmp_path / "out").model.config.latent_sft["feedback"] == settings.get(
        "feedback", "soft_embedding"
    )


def test_losses_fall_in_both_stages(tmp_path):
    model = tiny.arithmetic_model()
    settings = {"stage_1_steps": 20, "save_every": 10, "log_every": 10, "evaluations": 1, "stage_1_learning_rate": 1e-2}
    config = tiny.config(lora=False, steps=20, **settings)
    with LatentTraining(
        model, tiny.tokenizer(), tiny.problems(60), tiny.problems(8, 1), config, labels=tmp_path / "labels"
    ) as training:
        results = training.run(tmp_path)
    losses = [row["loss"] for stage in ("encoder", "decoder", "both") for row in results[stage].metrics]
    assert losses[-1] < losses[0] - 0.5
    chain = results["chain"].evaluations
    assert chain[-1]["kl"] < chain[0]["kl"]


def test_labels_are_kept_for_the_same_encoder_and_problems_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(labels_module, "_PART", 4)
    model, tok, config = tiny.arithmetic_model(), tiny.tokenizer(), tiny.config()
    encoder = LatentTokenEncoder.from_pretrained(model, config)
    samples = as_samples(tiny.problems(10), tok, config)
    found = generate_soft_labels(encoder, samples, tmp_path, batch_size=3)
    plain = generate_soft_labels(encoder, samples, batch_size=3)
    for one, other, sample in zip(found, plain, samples, strict=True):
        assert one["probabilities"].shape == (-(-len(sample.chain) // 2), 3) == one["tokens"].shape
        assert torch.equal(one["tokens"], other["tokens"])
        assert torch.allclose(one["probabilities"], other["probabilities"], atol=1e-6)
    made = []
    monkeypatch.setattr(labels_module, "_part", lambda *a, part=labels_module._part: made.append(1) or part(*a))
    generate_soft_labels(encoder, samples, tmp_path)
    assert not made
    (tmp_path / "part-00001.safetensors").unlink()
    generate_soft_labels(encoder, samples, tmp_path)
    assert len(made) == 1
    generate_soft_labels(encoder, samples[1:], tmp_path)
    assert len(made) == 4  # other problems: three new parts
    with torch.no_grad():
        encoder.compress += 1
    generate_soft_labels(encoder, samples[1:], tmp_path)
    assert len(made) == 7


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"compression_rate": 0}, "compression_rate must be at least 1, not 0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"readout": "head"}, "readout must be one of 'input_embedding', 'lm_head'"),
        ({"average": "row"}, "average must be one of"),
        ({"gumbel_low": 1.0}, "gumbel_low must be"),
        ({"think_close": ""}, "think_close must be a text"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, error):
    with pytest.raises(ValueError, match=error):
        LatentSFTConfig(**settings)
    with pytest.raises(TypeError, match="lora must be True or False"):
        LatentSFTConfig(lora="yes")


def test_bad_input_is_refused_before_any_work(tmp_path, data, monkeypatch):
    monkeypatch.setattr(stages_module, "run_recipe", None)
    with pytest.raises(ValueError, match="is not in this tokenizer"):
        train_latent_sft(engine(), data, tiny.config(think_close="</thought>"), tmp_path / "a")
    own = engine()
    own.model.config.max_position_embeddings = 12
    with pytest.raises(ValueError, match="the model reads 12"):
        train_latent_sft(own, data, tiny.config(), tmp_path / "b")
    half = engine()
    half.model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="loses small steps"):
        train_latent_sft(half, data, tiny.config(lora=False), tmp_path / "c")
    flash = engine()
    flash.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2' attention cannot take"):
        train_latent_sft(flash, data, tiny.config(), tmp_path / "d")
    with pytest.raises(ValueError, match="no problem to learn"):
        LatentTraining(engine().model, tiny.tokenizer(), [], [], tiny.config(), labels=tmp_path)


def test_the_first_versions_settings():
    first = LatentSFTConfig.first_version(compression_rate=4)
    assert (first.top_k, first.dual_track_positions, first.gumbel_scale, first.epochs) == (0, False, 0.0, 50.0)
    assert first.compression_rate == 4 and dataclasses.replace(first, top_k=5).top_k == 5
