"""`szilard train hyperfitting` and `szilard analyze open-ended`."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from szilard.cli.main import main
from szilard.training.hyperfitting import comparison
from szilard.training.hyperfitting.prediction import held_out_predictions

FLAGS = [
    *("--num-sequences", "8", "--seq-len", "12", "--validation-sequences", "4", "--validation-generations", "2"),
    *("--context-length", "4", "--epochs", "6", "--batch-size", "4", "--learning-rate", "0.003"),
    *("--save-every", "4", "--log-every", "2", "--validation-freq", "4", "--dtype", "float32", "--device", "cpu"),
]


@pytest.fixture
def texts(rows, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": " ".join(f"w{token}" for token in row)}) for row in rows))
    return path


def test_a_folder_is_written_that_loads_and_a_killed_run_goes_on_to_it(
    model_folder, texts, tmp_path, capsys, killed_at
) -> None:
    def train(name: str) -> int:
        return main(
            ["train", "hyperfitting", "-m", model_folder, "--data", str(texts), "-o", str(tmp_path / name), *FLAGS]
        )

    assert train("whole") == 0, capsys.readouterr().err
    folder = tmp_path / "whole"
    order = json.loads((folder / "order.json").read_text())
    assert order["seed"] == 0 and sorted(order["batches"][0] + order["batches"][1]) == list(range(8))
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["update"] for row in history] == [0, 4, 8, 12]
    held = yaml.safe_load((folder / "held-out.yaml").read_text())
    assert held["val_loss"] == pytest.approx(history[-1]["val_loss"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    held_out = torch.tensor(
        [tokenizer.encode(json.loads(line)["text"])[:12] for line in texts.read_text().splitlines()]
    )
    assert held_out_predictions(model, held_out[8:12]).loss == pytest.approx(held["val_loss"], rel=1e-4)

    killed_at(8)
    assert train("cut") == 130
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    killed_at(-1)
    capsys.readouterr()
    assert train("cut") == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "cut" / "order.json").read_text()) == order
    for name, weight in AutoModelForCausalLM.from_pretrained(tmp_path / "cut").state_dict().items():
        assert torch.allclose(weight, model.state_dict()[name], atol=1e-6), name
    capsys.readouterr()
    code = main(
        ["train", "hyperfitting", "-m", model_folder, "--data", str(texts), "-o", str(folder), *FLAGS, "--seed", "1"]
    )
    assert code == 2 and "holds a training with other settings" in capsys.readouterr().err

    command = ["analyze", "open-ended", "-m", model_folder, "-m", str(folder), "--data", str(texts)]
    command += ["--trained-on", str(folder), "--baselines", "--contexts", "5", "--context-length", "4", "-n", "8"]
    assert main([*command, "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert [row["decoding"] for row in found[-3:-1]] == ["greedy", "greedy, citations blocked"] and len(found) == 7
    assert all(row["tokens"] == 8 and len(row["texts"]) == 5 for row in found)
    assert main(command) == 0
    assert "citations blocked" in (printed := capsys.readouterr().out) and "5 contexts, 8 new tokens" in printed
    assert main(["analyze", "open-ended", "-m", model_folder, "--data", str(texts), "--context-length", "30"]) == 2
    assert "no text has 126 tokens" in capsys.readouterr().err


def test_too_little_data_is_told_and_leaves_the_folder_to_others(model_folder, texts, tmp_path, capsys) -> None:
    flags = ["train", "hyperfitting", "-m", model_folder, "--data", str(texts), "-o", str(tmp_path / "out")]
    assert main([*flags, *FLAGS, "--num-sequences", "500"]) == 2
    assert "only 24 have 12 tokens, but num_sequences=500" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    assert main([*flags, *FLAGS, "--layers", "first"]) == 2
    assert "layers must be None" in capsys.readouterr().err


def test_what_can_be_known_is_told_before_models_are_loaded(model_folder, texts, tmp_path, capsys, monkeypatch) -> None:
    from szilard.cli import analyze_open_ended, train_heads

    def loads(*_: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(analyze_open_ended, "load_engine", loads)
    monkeypatch.setattr(train_heads, "load_engine", loads)
    analyze = ["analyze", "open-ended", "-m", model_folder, "--data", str(texts)]
    assert main([*analyze, "-m", str(tmp_path / "none")]) == 2
    assert "there is no model folder" in capsys.readouterr().err
    assert main([*analyze, "--trained-on", str(tmp_path)]) == 2
    assert "has no trained-on.safetensors" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "hyperfitting", "-m", model_folder, "--data", str(texts), "-o", str(tmp_path / "o")]) == 2
    assert "runs in one process: start it without a launcher" in capsys.readouterr().err


def test_a_model_of_another_tokenizer_is_refused_before_anything_is_written(
    model_folder, texts, tmp_path, capsys, monkeypatch
) -> None:
    other = shutil.copytree(model_folder, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(other)
    monkeypatch.setattr(comparison, "compare_open_ended", None)
    command = ["analyze", "open-ended", "-m", model_folder, "-m", str(other), "--data", str(texts)]
    assert main([*command, "--context-length", "4", "-n", "8"]) == 2
    assert "other has other tokens than" in capsys.readouterr().err
