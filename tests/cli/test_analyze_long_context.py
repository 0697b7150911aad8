"""`szilard analyze long-context` on a tiny model."""

from __future__ import annotations

import json

import pytest

from szilard.cli.main import main


@pytest.fixture
def run(capsys, monkeypatch, model_folder, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{10 + at % 80}" for at in range(200)), encoding="utf-8")

    def command(*arguments, data=text):
        small = ["--length", "40", "--count", "2", "--pairs", "2", "--new", "4"]
        code = main(["analyze", "long-context", "--data", str(data), "-m", model_folder, *small, *arguments])
        return code, *capsys.readouterr()

    return command


def test_every_method_is_measured_on_the_same_tasks(run):
    code, out, _ = run("--methods", "none,snapkv", "--set", "snapkv.budget=12", "-s", "snapkv.window=4", "--json")
    records = json.loads(out)
    assert code == 0
    assert [record["method"] for record in records] == ["none"] * 5 + ["snapkv"] * 5
    assert all(record["kv_held_share"] == 1 for record in records[:5])
    assert all(record["kv_held_share"] < 0.6 for record in records[5:])


def test_the_table_names_what_was_kept(run):
    code, out, _ = run("--methods", "streaming-llm", "--set", "streaming-llm.budget=10")
    assert code == 0 and "streaming-llm" in out and "needle" in out and "held" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "snapkw"], "snapkv"),
        (["--methods", ","], "no methods"),
        (["--methods", "none", "--set", "snapkv.budget=3"], "none of these methods"),
        (["--count", "0"], "count"),
        (["--length", "900"], "longer text"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2 and message in err.replace("\n", " ")


def test_a_file_that_is_not_there_is_named(run, tmp_path):
    code, _, err = run(data=tmp_path / "none.txt")
    assert code == 2 and "none.txt" in err.replace("\n", "")
