"""`szilard train`: add-ons learned on a tiny model."""

from __future__ import annotations

import inspect
import json
import random

import pytest
import torch

from szilard.cli import train_heads
from szilard.cli.main import main
from szilard.information import entropy
from tests.conftest import tiny_model, tiny_tokenizer


@pytest.fixture
def cli(capsys, monkeypatch, model_folder):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        code = main([*map(str, arguments), "--model", model_folder])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def mbpp(tmp_path):
    """Six problems, three of them in the training range; their solutions are the tiny model's own where it is sure."""
    records = [
        {"task_id": number, "text": "w9 w8", "code": solution(number), "test_list": ["w7"]}
        for number in (11, 12, 13, 601, 602, 603)
    ]
    path = tmp_path / "mbpp.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def solution(seed, words=100):
    model, tokenizer, chance = tiny_model("llama"), tiny_tokenizer(), random.Random(seed)
    ids = tokenizer('"""\nw9 w8\nw7\n"""\n', return_tensors="pt")["input_ids"]
    before = ids.shape[1]
    for _ in range(words):
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        sure = float(entropy(logits)) < 2.8  # about the median
        token = int(logits.argmax()) if sure else chance.randrange(7, 97)
        ids = torch.cat([ids, torch.tensor([[max(token, 7)]])], dim=1)
    return tokenizer.decode(ids[0, before:])


def test_a_threshold_is_learned_from_the_training_split_of_a_task(cli, mbpp, tmp_path):
    target = tmp_path / "tau.json"
    code, _, err = cli("train", "adadec", "--task", "mbpp", "--data", mbpp, "-o", target)
    assert code == 0, err
    assert json.loads(target.read_text())["positions"] == 3 * 100


def test_examples_of_ones_own(cli, mbpp, tmp_path):
    own, target = tmp_path / "own.jsonl", tmp_path / "tau.json"
    lines = [json.loads(line) for line in mbpp.read_text().splitlines()]
    own.write_text("\n".join(json.dumps({"prompt": '"""\nw9 w8\nw7\n"""\n', "solution": x["code"]}) for x in lines))
    code, out, err = cli("train", "adadec", "--examples", own, "-o", target, "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads(target.read_text()) and json.loads(out)["positions"] == 6 * 100


def test_bad_input_is_refused_in_one_sentence(cli, mbpp, tmp_path):
    target = tmp_path / "tau.json"
    for arguments, message in (
        ((), "either --task"),
        (("--task", "mbpp", "--examples", mbpp), "either --task"),
        (("--examples", mbpp, "--data", mbpp), "--data goes with --task"),
        (("--examples", mbpp), "line 1"),
        (("--task", "truthfulqa-mc", "--data", mbpp), "is no item"),
    ):
        code, _, err = cli("train", "adadec", *arguments, "-o", target)
        assert code != 0 and message in err and not target.exists()


def test_heads_are_trained_on_the_models_own_answers_and_used(model_folder, tmp_path, capsys):
    prompts, answers, out = tmp_path / "p.txt", tmp_path / "a.jsonl", tmp_path / "medusa"
    prompts.write_text("".join(f"w{number} w{number + 1}\n" for number in range(10, 22)))
    limits = ["--model", model_folder, "--max-new-tokens", "16"]
    assert main(["generate", "--prompts", str(prompts), "-o", str(answers), *limits]) == 0
    assert len(answers.read_text().splitlines()) == 12
    (tmp_path / "c.yaml").write_text("steps: 4\nheads: 2\nlog_every: 2\nsave_every: 2\n")
    train = ["train", "medusa", "--model", model_folder, "--data", str(answers), "-o", str(out)]
    train += ["--config", str(tmp_path / "c.yaml"), "--window", "32", "--learning-rate", "1e-2"]
    assert main(train) == 0
    assert "tokens_per_pass" in capsys.readouterr().err
    assert "learning_rate: 0.01" in (out / "training.yaml").read_text()
    used = ["generate", "w10 w11", "--method", "medusa", "--set", f"drafter={out}", "--json", *limits]
    assert main(used) == 0
    printed = capsys.readouterr().out
    drafted = json.loads(printed)
    assert main(["generate", "w10 w11", "--json", *limits]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == drafted["text"]
    assert main([*train, "--heads", "3"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*train, "--heads", "3", "--restart"]) == 0


def test_a_wrong_setting_is_refused_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("stepz: 4\n")
    data = tmp_path / "d.txt"
    data.write_text("w3 w4")
    arguments = ["train", "chimera", "--model", "nowhere", "--data", str(data), "-o", str(tmp_path / "o")]
    assert main([*arguments, "--config", str(tmp_path / "c.yaml")]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert main([*arguments, "--detach-heads", "--w-hidden", "0"]) == 2
    assert "nothing trains the encoders" in capsys.readouterr().err
    assert main([*arguments, "--head", "round"]) == 2
    assert "head must be one of" in capsys.readouterr().err
    assert main(["generate", "--prompts", str(data)]) == 2
    assert "go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("slug", "words", "cached"),
    [
        ("medusa", ("The model stays as it is.", "accelerate launch"), True),
        ("latent-sft", ("written as a folder of its own.", "accelerate launch"), True),
        ("lud", ("written as an add-on to it.", "accelerate launch"), True),
        ("masked-diffusion", ("written as a folder of its own.", "accelerate launch"), False),
        ("hyperfitting", ("written as a folder of its own.", "Processes: one."), False),
    ],
)
def test_help_says_what_becomes_of_the_model_and_offers_only_what_acts(slug, words, cached) -> None:
    command = train_heads.command(slug)
    assert all(each in command.__doc__ for each in words)
    assert ("cache" in inspect.signature(command).parameters) == cached
