"""`szilard compress` and contexts of `szilard generate`."""

import json

import pytest
import torch

from szilard.cli.main import main
from szilard.compression.mean_pool.modules import MeanPoolProjector
from szilard.compression.store import ContextStore
from szilard.engines import load
from szilard.training.target import Target

TEXT = "w10 w11 w12 w13 w14 w15 w16 w17"


@pytest.fixture
def notes(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def checkpoint(tmp_path, model_folder):
    torch.manual_seed(1)
    folder = tmp_path / "mean-pool"
    MeanPoolProjector(Target(load(model_folder)).base, layer=2, ratio=4, scale=0.4).save_pretrained(folder)
    return folder


def run(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def test_a_text_is_printed_shorter(capsys, notes, tmp_path, model_folder):
    command = ("compress", notes, "--method", "truncation", "--budget", "0.5", "--model", model_folder)
    found = run(capsys, *command)
    assert found.out.split() == TEXT.split()[:4]
    assert "truncation: 8 -> 4 tokens (50%)" in found.err
    rows = json.loads(run(capsys, *command, "--json").out)
    assert rows["text"].split() == TEXT.split()[:4] and rows["compressed_tokens"] == 4
    run(capsys, *command, "-o", tmp_path / "short.txt", "--html", tmp_path / "page.html")
    assert (tmp_path / "short.txt").read_text().split() == TEXT.split()[:4]
    assert "w17" in (tmp_path / "page.html").read_text()


def test_vectors_are_kept_and_used_by_id(capsys, notes, tmp_path, model_folder, checkpoint):
    store = tmp_path / "store"
    soft = ("--method", "mean-pool", "--set", f"checkpoint={checkpoint}", "--model", model_folder)
    found = run(capsys, "compress", notes, *soft, "--store", store, "--cache")
    assert "mean-pool: 8 -> 2 positions (25%) kept as 'notes'" in found.err
    assert ContextStore(store).get("notes").prefix.positions == 1 + 2
    about = ("--store", store, "--context", "notes", "--model", model_folder, "-n", "4", "--json")
    result = json.loads(run(capsys, "generate", "w9", *about).out)
    assert "[2 vectors of mean-pool for 8 tokens]" in result["prompt"]
    again = json.loads(
        run(capsys, "generate", "w9", "--context", notes, "--model", model_folder, "-n", "4", "--json").out
    )
    assert again["prompt"].split() == ["<user>", *TEXT.split(), "w9", "<bot>"]


@pytest.mark.parametrize("method", ["selective-context", "llmlingua"])
def test_compressors_that_ask_a_language_model_get_it(capsys, notes, model_folder, method):
    found = run(capsys, "compress", notes, "--method", method, "--budget", "4", "--model", model_folder)
    assert f"{method}: 8 ->" in found.err and set(found.out.split()) < set(TEXT.split())


def test_entries_are_called_after_their_files_and_none_is_written_over(capsys, notes, tmp_path):
    store, command = tmp_path / "store", ("--method", "truncation", "--store", tmp_path / "store")
    odd = tmp_path / "_my notes (1).txt"
    odd.write_text(TEXT)
    run(capsys, "compress", odd, notes, *command, "--html", tmp_path / "page.html")
    assert list(ContextStore(store)) == ["my-notes-1-", "notes"]
    assert (tmp_path / "page.html").read_text().count('<section class="text">') == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("w1 w2")
    twice = run(capsys, "compress", notes, tmp_path / "other" / "notes.txt", *command, code=2)
    assert "two files would be kept as 'notes'" in twice.err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--budget", "0"), "budget must be a share of the tokens in (0, 1]"),
        (("--budget", "2.5"), "budget must be a share of the tokens in (0, 1]"),
        (("--budget", "half"), "--budget is a share in (0, 1] or a whole number of tokens"),
        (("--budget", "9"), "a budget of 9 tokens is larger than the context, which has 8"),
        (("--method", "greedy"), "there is no compressor 'greedy'"),
        (("--set", "sid=head"), "truncation has no option 'sid'; did you mean 'side'?"),
        (("--id", "a"), "--id and --cache belong to --store"),
        (("--store", "shelf", "--id", "a/b", "--model", "no-such-model"), "an id is 1 to 128"),
        (("--method", "mean-pool"), "makes vectors, which cannot be printed: give --store"),
        (("nothing.txt",), "there is no file 'nothing.txt'"),
    ],
)
def test_bad_input_is_told_in_a_sentence(capsys, notes, model_folder, flags, sentence):
    found = run(capsys, "compress", notes, "--method", "truncation", "--model", model_folder, *flags, code=2)
    assert sentence in found.err and "Traceback" not in found.err


def test_contexts_that_are_not_there(capsys, notes, tmp_path, model_folder):
    common = ("generate", "w9", "--model", model_folder)
    assert "there is no context 'x'" in run(capsys, *common, "--store", tmp_path, "--context", "x", code=2).err
    assert "--store needs --context" in run(capsys, *common, "--store", tmp_path, code=2).err
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    assert "holds no text" in run(capsys, *common, "--context", empty, code=2).err
    assert "holds no text" in run(capsys, "compress", empty, code=2).err
