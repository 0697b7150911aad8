"""`szilard analyze agentic-mi` on a tiny model."""

from __future__ import annotations

import json

import pytest

from szilard.cli.main import main


@pytest.fixture
def run(capsys, monkeypatch, model_folder, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    records = [
        {"context": f"w{30 + at} w{40 + at}", "questions": [{"question": "w70", "answer": f"w{40 + at}"}]}
        for at in range(3)
    ]
    contexts, texts = tmp_path / "contexts.jsonl", tmp_path / "texts.jsonl"
    contexts.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    texts.write_text("\n".join(json.dumps({"text": f"w{40 + at}"}) for at in range(3)), encoding="utf-8")

    def command(*arguments, data=contexts):
        given = ["--contexts", str(data), "--scorer", model_folder, "-n", "4", "--samples", "1"]
        code = main(["analyze", "agentic-mi", *given, *arguments])
        return code, *capsys.readouterr()

    command.texts, command.model, command.folder = str(texts), model_folder, tmp_path
    return command


def test_compressors_and_predictors_are_measured_and_drawn(run):
    page = run.folder / "out.html"
    arguments = ["--compressor", run.model, "--compressor", run.texts, "--predictor", run.model, "-o", str(page)]
    arguments += ["--folder", str(run.folder / "run"), "--prices", "2.5,10"]
    code, out, _ = run(*arguments, "--json")
    found = json.loads(out)
    assert code == 0 and len(found["compressors"]) == len(found["pairs"]) == 2
    assert found["compressors"][1]["compressor"] == "texts" and found["pairs"][0]["cost"] > 0
    assert all(0 <= one["bits"] <= one["ceiling_bits"] for one in found["compressors"])
    assert "Distortion against rate" in page.read_text(encoding="utf-8") and found["recommendation"]
    code, out, _ = run(*arguments)  # goes on from the folder
    assert code == 0 and "bits/token" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--compressor", "nothing.jsonl"], "no file"),
        (["--compressor", "{texts}", "--prices", "2.5"], "two numbers"),
        (["--compressor", "{texts}", "--samples", "0"], "samples"),
        (["--compressor", "{texts}", "--seeds", "0"], "seeds"),
        (["--compressor", "truncation", "--budget", "inf"], "budget must be a share"),
        (["--compressor", "truncation", "--budget", "2.5"], "budget must be a share"),
        (["--compressor", "truncation,sid=head"], "did you mean 'side'"),
        (["--compressor", "llmlingua2,checkpoint=none"], "needs a classifier"),
    ],
)
def test_bad_input_is_one_sentence(run, arguments, words):
    code, _, err = run(*(argument.replace("{texts}", run.texts) for argument in arguments))
    assert code == 2 and words in err


@pytest.mark.parametrize(
    "flags",
    [("--most-tokens", "-5"), ("--prices", "-1,2"), ("--compressor", "./no/such"), ("--predictor", "./no/such")],
)
def test_bad_input_is_told_before_anything_is_measured(run, monkeypatch, flags):
    monkeypatch.setattr("szilard.analysis.agentic_mi.agentic_mi", None)
    code, _, err = run("--compressor", run.texts, *flags)
    assert code == 2 and "something broke" not in err


def test_questions_that_are_no_list_are_told_in_a_sentence(run, tmp_path):
    data = tmp_path / "odd.jsonl"
    data.write_text('{"context": "w3", "questions": 5}\n{"context": "w4"}\n', encoding="utf-8")
    code, _, err = run("--compressor", run.texts, data=data)
    assert code == 2 and "are a list of questions" in " ".join(err.split())


def test_a_text_compressor_takes_its_options(run):
    both = ["--compressor", "truncation,side=head", "--compressor", "truncation,side=tail,keep=[]", "--budget", "0.5"]
    code, out, _ = run(*both, "--json")
    found = json.loads(out)["compressors"]
    assert code == 0 and [one["compressor"] for one in found] == [both[1], both[3]]


def test_contexts_without_questions_take_no_predictor(run, tmp_path):
    data = tmp_path / "plain.jsonl"
    data.write_text('{"context": "w3"}\n{"context": "w4"}\n', encoding="utf-8")
    code, _, err = run("--compressor", run.texts, "--predictor", run.model, data=data)
    assert code == 2 and "needs questions" in err


def test_near_duplicates_of_each_context_compete_when_they_are_given(run, tmp_path):
    data = tmp_path / "pairs.jsonl"
    records = [{"context": f"w{at} w3", "negatives": [f"w{at} w4", f"w{at} w5"]} for at in (30, 31, 32)]
    data.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    code, out, _ = run("--compressor", run.texts, "--hard-negatives", "given", "--json", data=data)
    assert code == 0 and json.loads(out)["compressors"][0]["competitors"] == 3
