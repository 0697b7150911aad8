"""`szilard train cot`: a model folder that opens, and a second call that goes on."""

import json

import pytest

import szilard
from szilard.engines.transformers_engine import TransformersEngine
from szilard.reasoning.cot_training import train_cot
from szilard.reasoning.supervised_config import SupervisedConfig
from tests.reasoning.latent_sft import tiny

CONFIG = SupervisedConfig(steps=4, batch_size=4, save_every=2, log_every=2, max_new_tokens=8, held_out=0.25)


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.jsonl"
    rows = [{"problem": one.problem, "cot": one.cot, "answer": one.answer} for one in tiny.problems(16)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def engine():
    return TransformersEngine(tiny.arithmetic_model(0), tiny.tokenizer(), name="tiny")


def test_a_model_folder_comes_out_and_a_finished_run_says_the_same(tmp_path, data):
    found = train_cot(engine(), data, CONFIG, tmp_path / "out")
    assert set(found) == {"accuracy", "steps"}
    assert train_cot(engine(), data, CONFIG, tmp_path / "out") == found
    assert szilard.load(tmp_path / "out").generate("1 + 1 =", max_new_tokens=2).text is not None


def test_another_run_and_foreign_folders_are_refused(tmp_path, data):
    train_cot(engine(), data, CONFIG, tmp_path / "out")
    with pytest.raises(ValueError, match="other settings or data"):
        train_cot(engine(), data, SupervisedConfig(steps=5, held_out=0.25), tmp_path / "out")
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join([lines[1], lines[0], *lines[2:]]))  # as many problems, in another order
    with pytest.raises(ValueError, match="other settings or data"):
        train_cot(engine(), data, CONFIG, tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="something else"):
        train_cot(engine(), data, CONFIG, tmp_path / "foreign")
