"""Training ComprExIT: what is learned from, what is written, and that a stopped run goes on where it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from szilard.cli.main import main
from szilard.compression.comprexit.add_on import ComprExITAddOn
from szilard.compression.comprexit.config import PAPER_PROMPT, ComprExITConfig
from szilard.compression.comprexit.method import ComprExIT
from szilard.compression.comprexit.questions import Questions, question_corpus
from szilard.compression.comprexit.training import ComprExITObjective, begin, train_comprexit
from szilard.compression.passages import Passages
from szilard.training.config import read_config
from szilard.training.target import Target

SMALL = ComprExITConfig(
    steps=4,
    batch_size=2,
    gradient_accumulation=1,
    learning_rate=1e-2,
    save_every=2,
    log_every=1,
    context=16,
    target=8,
    window=8,
    gate_width=8,
    metric_width=8,
    unit_states=True,
    held_out=0.2,
)


def _words(count: int, seed: int) -> str:
    numbers = torch.randint(7, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return " ".join(f"w{number}" for number in numbers)


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": _words(60, seed)}) + "\n" for seed in range(4)))
    return file


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions.jsonl"
    records = [{"context": [_words(12, n), _words(12, n + 9)], "prompt": "w7 w8", "answer": "w9"} for n in range(5)]
    records.append({"context": _words(5, 0), "prompt": _words(9, 1), "answer": "w9"})
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_a_training_writes_an_add_on_and_leaves_the_model_as_it_was(engine, texts, tmp_path) -> None:
    before = {name: weight.clone() for name, weight in engine.model.state_dict().items()}
    metrics = train_comprexit(engine, texts, SMALL, tmp_path / "out")
    assert all(torch.equal(weight, before[name]) for name, weight in engine.model.state_dict().items())
    assert all(weight.grad is None for weight in engine.model.parameters())
    assert set(metrics) == {"nats", "nats_without_context", "nats_full_context", "right", "positions"}
    assert metrics["positions"] == pytest.approx(0.25)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(
        row["gate_entropy"] > 0.1 and row["slot_size"] > 0 for row in rows
    )
    fresh = ComprExITAddOn.from_causal_lm(engine, seed=SMALL.seed, **SMALL.shape).state_dict()
    learned = ComprExIT.from_pretrained(tmp_path / "out").add_on().state_dict()
    assert all(not torch.equal(learned[name], fresh[name]) for name in fresh)


def test_a_stopped_training_ends_as_one_that_was_not(engine, texts, tmp_path) -> None:
    train_comprexit(engine, texts, SMALL, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "checkpoint-4")
    train_comprexit(engine, texts, SMALL, tmp_path / "killed")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ValueError, match="other settings or data"):
        train_comprexit(engine, texts, replace(SMALL, floor=0.1), tmp_path / "killed")


def test_the_second_stage_goes_on_from_the_first(engine, texts, questions, tmp_path) -> None:
    train_comprexit(engine, texts, SMALL, tmp_path / "ntp")
    sft = replace(SMALL, stage="sft", warmup=None, start=str(tmp_path / "ntp"), prompt_form="{prompt}", steps=2)
    metrics = train_comprexit(engine, questions, replace(sft, learning_rate=0.0), tmp_path / "still")
    kept, begun = (load_file(tmp_path / name / "model.safetensors") for name in ("still", "ntp"))
    assert all(torch.equal(kept[name], begun[name]) for name in kept) and metrics["nats"] > 0
    train_comprexit(engine, questions, replace(sft, prompt_form="chat"), tmp_path / "chat")
    with pytest.raises(ValueError, match="other parts than these settings give"):
        train_comprexit(engine, questions, replace(sft, capacity="uniform"), tmp_path / "other")
    for other in ({"window": 16}, {"unit_states": False}, {"temperature": 1.0}):  # no weight tells them apart
        with pytest.raises(ValueError, match=f"was trained with {next(iter(other))}="):
            train_comprexit(engine, questions, replace(sft, **other), tmp_path / f"other {next(iter(other))}")
    changed = questions.with_name("changed.jsonl")
    changed.write_text(questions.read_text().replace("w1", "w2"))  # in the contexts alone
    with pytest.raises(ValueError, match="other settings or data"):
        train_comprexit(engine, changed, replace(sft, prompt_form="chat"), tmp_path / "chat")


def test_of_questions_the_answer_is_learned_behind_the_tail_of_the_context(engine, questions) -> None:
    config = replace(SMALL, stage="sft", prompt_form="w7 {prompt} w10")
    asked = Questions(questions, engine, config, begin(engine))
    assert len(asked) == 5  # the sixth is longer than its 8 tokens
    item = asked[0]
    words = {name: engine.tokenizer.convert_ids_to_tokens(ids.tolist()) for name, ids in item.items()}
    assert words["prompt"] == ["w7", "w7", "w8", "w10"] and words["target"] == ["w9", "<eos>"]
    assert words["head"] == [] and words["context"] == (_words(12, 0) + " " + _words(12, 9)).split()[-16:]
    chat = Questions(questions, engine, replace(config, prompt_form="chat"), begin(engine))[0]
    words = {name: engine.tokenizer.convert_ids_to_tokens(ids.tolist()) for name, ids in chat.items()}
    assert words["head"] == ["<user>"] and words["prompt"] == ["w7", "w8", "<bot>"]
    with question_corpus(asked) as file:
        assert len(file.read_text().splitlines()) == 5
    assert [words.shape for words in (Questions.collate([asked[0]])["heads"])] == [(0,)]
    with pytest.raises(ValueError, match="raise target"):
        Questions(questions, engine, replace(config, target=4, prompt_form=_words(4, 0) + "{prompt}"), [2])


@torch.no_grad()
def test_what_is_measured_behind_whole_and_empty_contexts_is_the_models_own(engine) -> None:
    target = Target(engine)
    objective = ComprExITObjective(ComprExITAddOn.from_causal_lm(engine, **SMALL.shape), target, 16)
    generator = torch.Generator().manual_seed(0)
    data = [
        {name: torch.randint(7, 97, (n,), generator=generator) for name, n in (("context", 12 + k), ("target", 5))}
        for k in range(3)
    ]
    found = objective.measure(data, Passages.collate, 2)
    for name, context in (("nats_full_context", True), ("nats_without_context", False)):
        total = 0.0
        for item in data:
            before = item["context"] if context else item["context"][-1:]  # there is no BOS
            logits = engine.model(torch.cat([before, item["target"]])[None]).logits[0, -6:-1]
            total += torch.nn.functional.cross_entropy(logits, item["target"], reduction="sum").item()
        assert found[name] == pytest.approx(total / 15, rel=1e-5)


def test_the_stages_have_their_own_warm_up_and_the_papers_prompt() -> None:
    assert (ComprExITConfig().warmup, ComprExITConfig(stage="sft").warmup) == (0.05, 0.0)
    assert ComprExITConfig().prompt_form == PAPER_PROMPT
    assert read_config(ComprExITConfig, None, {"warmup": 0.2, "stage": "sft"}).warmup == 0.2
    with pytest.raises(ValueError, match="prompt_form must be"):
        ComprExITConfig(prompt_form="answer this")
    with pytest.raises(ValueError, match="stage must be one of"):
        ComprExITConfig(stage="rl")


def test_the_command_trains_and_says_what_is_wrong(model_folder, texts, questions, tmp_path, capsys) -> None:
    small = "--steps 2 --batch-size 2 --gradient-accumulation 1 --context 16 --target 8 --window 8 --save-every 10"
    common = ["train", "comprexit", "--model", model_folder, *small.split(), "--gate-width", "8", "--unit-states"]
    assert main([*common, "--data", str(texts), "-o", str(tmp_path / "out")]) == 0
    assert "nats_without_context" in capsys.readouterr().err
    assert ComprExIT.from_pretrained(tmp_path / "out").add_on().window == 8
    sft = [*common, "--stage", "sft", "-o", str(tmp_path / "sft"), "--data"]
    assert main([*sft, str(texts)]) == 2
    assert 'needs a "context"' in capsys.readouterr().err
    assert main([*sft, str(questions), "--context", "300"]) == 2
    assert "do not fit into the 256 tokens" in " ".join(capsys.readouterr().err.split())
