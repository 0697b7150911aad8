"""The recipe: a run that was killed ends as one that was not, and its folder is a model."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import TrainerCallback

import szilard
from szilard.cli.main import main
from szilard.training import recipe
from szilard.training.entropy_guided_attention import EntropyRegularizer, simplification_of
from szilard.training.entropy_guided_attention.config import EntropyGuidedConfig
from szilard.training.entropy_guided_attention.objective import EntropyGuidedObjective
from szilard.training.entropy_guided_attention.training import Pieces, character_tokenizer, train_softmax_only
from szilard.training.loop import fit
from szilard.training.recipe import read_metrics
from tests.training.entropy_guided_attention.tiny import model_of, text

SMALL = {
    "layers": 2, "heads": 2, "width": 16, "context": 8, "batch_size": 4, "steps": 8, "save_every": 2, "log_every": 1,
    "held_out": 0.3, "lam": 1e-3, "threshold_rate": 1e-2, "learning_rate": 1e-2, "evaluate_every": 4,
}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(f"the {word} sat on the {word} mat,\nand slept" for word in "cat dog cow hen".split()))
    return file


class Kill(TrainerCallback):
    """Stops a run as a kill would, behind a step and before its checkpoint."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_a_killed_run_ends_as_one_that_was_not(data, tmp_path, monkeypatch):
    config = EntropyGuidedConfig(**SMALL, ffn_norm="spectral", attn_temperature="head")
    whole = train_softmax_only(data, config, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "fit", lambda *a, **o: fit(*a, **o | {"callbacks": [*o["callbacks"], Kill()]}))
        with pytest.raises(KeyboardInterrupt):
            train_softmax_only(data, config, tmp_path / "killed", device="cpu")
    assert not (tmp_path / "killed" / "config.json").exists()
    assert train_softmax_only(data, config, tmp_path / "killed", device="cpu") == whole
    rows = [read_metrics(tmp_path / name / "train" / "metrics.jsonl") for name in ("whole", "killed")]
    timing = ("train_runtime", "epoch")
    plain = [[{k: v for k, v in row.items() if k not in timing} for row in each] for each in rows]
    assert plain[0] == plain[1] and [row["step"] for row in plain[0]] == list(range(1, 9))
    assert {"nats", "penalty", "entropy", "theta"} <= set(plain[0][0])
    assert plain[0][-1]["theta"] != plain[0][0]["theta"]


def test_the_folder_is_a_model_and_another_run_in_it_is_refused(data, tmp_path, capsys):
    folder = tmp_path / "out"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    start = ["train", "entropy-guided-attention", "--data", str(data), "-o", str(folder), "--device", "cpu", *flags]
    assert main(start) == 0
    assert "perplexity" in " ".join(capsys.readouterr().err.split())
    engine = szilard.load(folder, device="cpu")
    assert engine.tokenizer.decode(engine.tokenizer.encode("the cat,\nand")) == "the cat,\nand"
    assert simplification_of(engine.model.config).attn_temperature == "head_pos"
    assert main([*start, "--gamma", "0.1"]) == 2
    assert "other settings or data" in " ".join(capsys.readouterr().err.split())
    assert main([*start, "--gamma", "0.1", "--restart"]) == 0
    assert "gamma: 0.1" in (folder / "training.yaml").read_text()


def test_an_interrupted_run_does_not_go_on_with_other_settings_or_other_letters(data, tmp_path, monkeypatch):
    config, folder = EntropyGuidedConfig(**SMALL), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "fit", lambda *a, **o: fit(*a, **o | {"callbacks": [*o["callbacks"], Kill()]}))
        with pytest.raises(KeyboardInterrupt):
            train_softmax_only(data, config, folder, device="cpu")
    with pytest.raises(ValueError, match="other settings or data"):
        train_softmax_only(data, EntropyGuidedConfig(**SMALL | {"lam": 2e-3}), folder, device="cpu")
    data.write_text(data.read_text().upper())  # the same ids
    with pytest.raises(ValueError, match="other settings or data"):
        train_softmax_only(data, config, folder, device="cpu")


def test_another_models_tokenizer_may_be_taken(data, tmp_path, model_folder):
    data.write_text("w9 w8 w7 w10 w11 w9 w8 w7 w10\n\nw12 w13 w14 w15 w16 w12 w13 w14 w15")
    config = EntropyGuidedConfig(**SMALL | {"held_out": 0.5, "steps": 1}, tokenizer=model_folder, architecture="SM+R")
    found = train_softmax_only(data, config, tmp_path / "out", device="cpu")
    assert found["nats"] == pytest.approx(torch.log(torch.tensor(97.0)).item(), abs=0.5)


def test_the_loss_is_cross_entropy_and_penalty_and_in_eval_cross_entropy_alone():
    model = model_of("SM+LN+G").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    reg = EntropyRegularizer(2, 4, lam=0.1)
    objective = EntropyGuidedObjective(model, reg, learning_rate=1e-3, threshold_rate=1e-4, weight_decay=0.1).train()
    found = objective(text())
    plain = model(text(), labels=text()).loss
    assert float(found["nats"]) == pytest.approx(float(plain.detach()), abs=1e-9)
    assert float(found["loss"].detach()) == pytest.approx(float(found["nats"] + found["penalty"]), abs=1e-9)
    found["loss"].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    real = torch.ones_like(text(), dtype=torch.bool)
    real[1, 6:] = False
    padded, alone = objective(text(), real), objective(text()[1:, :6])
    both = float(padded["penalty"]) - float(objective(text()[:1])["penalty"])
    assert both == pytest.approx(float(alone["penalty"]), rel=1e-6)
    objective.eval()
    assert set(objective(text())) == {"loss", "nats"}


def test_thresholds_temperatures_and_scales_do_not_decay():
    model = model_of("SM(t)+ScFuFFN")
    options = {"learning_rate": 1e-3, "threshold_rate": 1e-4, "weight_decay": 0.1}
    objective = EntropyGuidedObjective(model, EntropyRegularizer(2, 4), **options)
    decays = {name: objective.weight_decay_of(name) for name, _ in objective.named_parameters()}
    free = {name.rpartition(".")[2] for name, decay in decays.items() if decay == 0}
    assert free == {"theta", "rho", "alpha", "beta", "bias"}
    assert objective.learning_rate_of("regularizer.theta") == 1e-4 and objective.learning_rate_of("model.x") == 1e-3


def test_characters_come_back_and_pieces_stand_one_behind_the_other():
    tokenizer = character_tokenizer(["ab\n", "c d"])
    assert tokenizer.decode(tokenizer.encode("a b\ncd")) == "a b\ncd" and len(tokenizer) == 8
    assert tokenizer.encode("z") == [tokenizer.unk_token_id]
    assert Pieces([[1, 2], [3, 4]], 3, 9).ids.tolist() == [[1, 2, 9], [3, 4, 9]]
    assert Pieces([[1, 2], [3, 4]], 3, None).ids.tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match="too few for a piece of 8"):
        Pieces([[1, 2]], 8, None)


def test_bad_input_is_told(data, tmp_path, capsys):
    for settings, words in (
        ({"architecture": "SM+X"}, "architecture must be one of"),
        ({"width": 7, "heads": 2}, "width=7 must be a multiple of heads=2"),
        ({"lam": -1.0}, "lam must be between 0"),
        ({"temperature_init": float("inf")}, "temperature_init must be between"),
        ({"initializer_range": float("inf")}, "initializer_range must be between"),
        ({"tokenizer": ""}, "tokenizer must be 'characters'"),
        ({"architecture": "SM+LN", "ffn_norm": "scale"}, "in the place of layer normalisation"),
        ({"reduction": "sum"}, "reduction must be one of"),
    ):
        with pytest.raises(ValueError, match=words):
            EntropyGuidedConfig(**settings)
    small = EntropyGuidedConfig(**SMALL)
    with pytest.raises(ValueError, match="a single text leaves nothing"):
        train_softmax_only(data, small, tmp_path / "x", limit=1)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        train_softmax_only(data, small, tmp_path / "x", limit=0)
    with pytest.raises(ValueError, match="device 'foo' is not available here"):
        train_softmax_only(data, small, tmp_path / "x", device="foo")
    pictures = tmp_path / "pictures.jsonl"
    pictures.write_text(json.dumps({"prompt": "what?", "answer": "a cat", "image": "cat.png"}))
    with pytest.raises(ValueError, match="a record with pictures"):
        train_softmax_only(pictures, small, tmp_path / "x")
    with pytest.raises(ValueError, match="there is no model folder"):
        train_softmax_only(data, EntropyGuidedConfig(**SMALL, tokenizer="./nowhere"), tmp_path / "x")
    ids = tmp_path / "ids.jsonl"
    ids.write_text("\n".join(json.dumps({"ids": [1, 2, 3]}) for _ in range(3)))
    with pytest.raises(ValueError, match="the records hold none"):
        train_softmax_only(ids, small, tmp_path / "x")
    ids.write_text("\n".join(json.dumps(each) for each in ({"text": "abc"}, {"ids": [1, 2, 9]})))
    with pytest.raises(ValueError, match="holds the token id 9, and the tokenizer knows 5"):
        train_softmax_only(ids, small, tmp_path / "x")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="something else than a training"):
        train_softmax_only(data, small, tmp_path / "y")
    assert main(["train", "entropy-guided-attention", "--data", str(tmp_path / "no.txt"), "-o", "z"]) == 2
    assert "there is no file" in capsys.readouterr().err
