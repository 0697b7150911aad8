"""What is held out of a training, and what is refused before it begins."""

import json
from dataclasses import replace

import pytest

from szilard.speculative.draft_training import train_heads
from szilard.speculative.medusa.training import MedusaObjective
from szilard.training.course import Course, split
from szilard.whole_folder import check_folder, check_replaceable
from tests.speculative.test_medusa import SMALL, engine_of


def test_whole_texts_are_held_out() -> None:
    texts = [0, 0, 0, 1, 2, 2, 3, 4, 4, 4]
    learned, held = split(texts, 0.4, seed=0)
    assert sorted(learned + held) == list(range(10))
    assert len({texts[index] for index in held}) == 2
    assert not {texts[index] for index in held} & {texts[index] for index in learned}
    assert split(texts, 0.4, seed=0) == (learned, held)
    assert any(split(texts, 0.4, seed)[1] != held for seed in range(1, 5))


def test_of_a_single_text_stretches_are_held_out() -> None:
    learned, held = split([7] * 10, 0.2, seed=0)
    assert len(learned) == 8 and len(held) == 2


def test_one_is_held_out_and_one_stays() -> None:
    assert [len(part) for part in split([0, 1, 2], 0.01, seed=0)] == [2, 1]
    assert [len(part) for part in split([0, 1], 0.9, seed=0)] == [1, 1]
    assert split([0], 0.5, seed=0) == ([0], [])
    assert split([0, 1], 0.0, seed=0) == ([0, 1], [])
    assert split([], 0.5, seed=0) == ([], [])


def test_a_training_that_cannot_begin_leaves_the_folder_to_the_next(tmp_path):
    short, long = tmp_path / "short.jsonl", tmp_path / "long.jsonl"
    short.write_text(json.dumps({"text": "w9"}) + "\n")
    long.write_text(
        "".join(json.dumps({"text": " ".join(f"w{7 + i % 8}" for i in range(30))}) + "\n" for _ in range(3))
    )
    engine, out = engine_of("llama"), tmp_path / "out"
    with pytest.raises(ValueError, match="nothing to train on"):
        train_heads(MedusaObjective, engine, short, SMALL, out)
    assert not out.exists()
    config = replace(SMALL, steps=10, save_every=10)
    assert train_heads(MedusaObjective, engine, long, config, out)["positions"] > 0


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is a file: name another place"):
            check_folder(folder)
    check_folder(tmp_path / "new" / "below")
    with pytest.raises(ValueError, match="holds other files"):
        check_replaceable(tmp_path, "header.json", "mine")


def test_folders_of_others_are_left_alone(tmp_path):
    long = tmp_path / "long.jsonl"
    long.write_text(
        "".join(json.dumps({"text": " ".join(f"w{7 + i % 8}" for i in range(30))}) + "\n" for _ in range(3))
    )
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (model / name).write_text("mine")
    for restart in (False, True):
        with pytest.raises(ValueError, match="something else than a training"):
            train_heads(MedusaObjective, engine_of("llama"), long, SMALL, model, restart=restart)
    with pytest.raises(ValueError, match="want a folder of their own"):
        train_heads(MedusaObjective, engine_of("llama"), long, SMALL, tmp_path / "out", cache=model)
    (model / "header.json").write_text("{}")
    with pytest.raises(ValueError, match="holds other files"):
        check_replaceable(model, "header.json", "szilard.trigrams")
    assert all((model / name).read_text() == "mine" for name in ("config.json", "model.safetensors", "README.md"))


def test_a_cut_cache_is_not_trained_on(tmp_path):
    long = tmp_path / "long.jsonl"
    long.write_text(
        "".join(json.dumps({"text": " ".join(f"w{7 + i % 8}" for i in range(30))}) + "\n" for _ in range(3))
    )
    engine, config = engine_of("llama"), replace(SMALL, steps=10, save_every=10)
    train_heads(MedusaObjective, engine, long, config, tmp_path / "one", cache=tmp_path / "cache")
    (tmp_path / "cache" / "hidden.f16").write_bytes(b"")
    with pytest.raises(ValueError, match="missing or cut off"):
        train_heads(MedusaObjective, engine, long, config, tmp_path / "two", cache=tmp_path / "cache")


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    long, out = tmp_path / "long.jsonl", tmp_path / "out"
    long.write_text(
        "".join(json.dumps({"text": " ".join(f"w{7 + i % 8}" for i in range(30))}) + "\n" for _ in range(3))
    )
    config = replace(SMALL, steps=2)
    refused = pytest.raises(ValueError, match="another process is writing the folder")
    with Course(engine_of("llama"), long, config, out), refused:
        train_heads(MedusaObjective, engine_of("llama"), long, config, out)
    assert not (out / ".lock").exists()
    assert train_heads(MedusaObjective, engine_of("llama"), long, config, out)["positions"] > 0
    assert not (out / ".lock").exists()
