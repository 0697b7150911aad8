"""Rows on disk: what is written is read, and what a kill cut off is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from szilard.diffusion.learn2pd.rows import BlockRows, RowWriter, rows_header
from tests.diffusion.learn2pd.rows import BASE, BLOCK, HEADER, filled, rows_of


def test_what_was_added_is_read(tmp_path):
    rows = filled(tmp_path / "rows", prompts=3)
    assert len(rows) == 30 and rows.header == HEADER and rows.block_length == BLOCK
    assert rows.prompt.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    for prompt in range(3):
        mine, wanted = rows.prompt == prompt, rows_of(prompt)
        assert np.array_equal(rows.confidence[mine], wanted["confidence"])
        assert np.array_equal(rows.label[mine], wanted["label"]) and rows.label.dtype == np.bool_
        assert rows.block[mine].tolist() == wanted["block"].tolist()
        assert rows.step[mine].tolist() == wanted["step"].tolist()
    one, some = rows[11], rows[np.array([11, 3])]
    assert one["confidence"].shape == (BLOCK,) and one["label"].dtype == torch.bool
    assert torch.equal(some["confidence"][0], one["confidence"]) and some["label"].shape == (2, BLOCK)


def test_prompts_come_in_any_order_and_once(tmp_path):
    folder = tmp_path / "rows"
    with RowWriter(folder, HEADER) as writer:
        writer.add(7, **rows_of(7))
        writer.add(2, **rows_of(2))
        with pytest.raises(ValueError, match="prompt 7 are there already"):
            writer.add(7, **rows_of(7))
    with RowWriter(folder, HEADER) as writer:
        assert writer.prompts == 2 and writer.has(7) and not writer.has(3)
        writer.add(3, **rows_of(3))
    assert BlockRows(folder).prompt[::10].tolist() == [7, 2, 3]


@pytest.mark.parametrize("file", ["confidence.f32", "label.u8", "place.i32", "done.json"])
def test_a_prompt_that_was_being_written_is_written_again(tmp_path, monkeypatch, file):
    folder, real = tmp_path / "rows", os.replace
    filled(folder, prompts=2)

    class Killed(Exception):
        pass

    def killed_at(path: str) -> None:
        if file == path:
            raise Killed

    def replace(source: str, target: str) -> None:
        killed_at(Path(target).name)
        real(source, target)

    synced = iter(["confidence.f32", "label.u8", "place.i32"])
    monkeypatch.setattr(os, "fsync", lambda number: killed_at(next(synced)))
    monkeypatch.setattr(os, "replace", replace)
    with RowWriter(folder, HEADER) as writer, pytest.raises(Killed):
        writer.add(2, **rows_of(2))
    monkeypatch.undo()
    assert len(BlockRows(folder)) == 20  # a reader does not see the half
    with RowWriter(folder, HEADER) as writer:
        assert writer.rows == 20 and not writer.has(2)
        writer.add(2, **rows_of(2))
    assert np.array_equal(BlockRows(folder).confidence, filled(tmp_path / "whole", prompts=3).confidence)


def test_a_killed_process_leaves_whole_prompts_and_no_lock(tmp_path):
    folder = tmp_path / "rows"
    code = (
        "import sys; from pathlib import Path; from tests.diffusion.learn2pd.rows import *\n"
        "with RowWriter(Path(sys.argv[1]), HEADER) as writer:\n"
        "    for prompt in range(10**6):\n"
        "        writer.add(prompt, **rows_of(prompt)); print(prompt, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with RowWriter(folder, HEADER) as writer:
        done = writer.prompts
        assert done >= 3 and writer.rows == 10 * done and not writer.has(done)
        writer.add(done, **rows_of(done))
    rows = BlockRows(folder)
    expected = np.concatenate([rows_of(prompt)["confidence"] for prompt in range(done + 1)])
    assert np.array_equal(rows.confidence, expected)


def test_two_processes_do_not_write_at_once(tmp_path):
    with RowWriter(tmp_path / "rows", HEADER), pytest.raises(ValueError, match="another process is writing"):
        RowWriter(tmp_path / "rows", HEADER)


@pytest.mark.parametrize(
    "other",
    [
        {"mask_token_id": 5},
        {"block_length": BLOCK + 1},
        {"base": BASE | {"fingerprint": "xyz"}},
        {"collected": {"answer": 24}},
    ],
)
def test_rows_of_another_kind_are_not_mixed(tmp_path, other):
    filled(tmp_path / "rows", prompts=1)
    options = {"base": BASE, "mask_token_id": 48, "block_length": BLOCK, "collected": HEADER["collected"]} | other
    with pytest.raises(ValueError, match="another model, block length or way of collecting"):
        RowWriter(tmp_path / "rows", rows_header(options.pop("base"), **options))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"confidence": np.full((10, BLOCK), 1.5)}, "no probabilities"),
        ({"confidence": np.full((10, BLOCK), np.nan)}, "no probabilities"),
        ({"label": np.zeros((10, BLOCK + 1), dtype=bool)}, r"\[rows, 6\]"),
        ({"block": np.zeros(9)}, r"block and step \[rows\]"),
        ({name: values[:0] for name, values in rows_of(0).items()}, "at least one"),
    ],
)
def test_wrong_rows_are_refused_and_nothing_is_written(tmp_path, change, words):
    with RowWriter(tmp_path / "rows", HEADER) as writer:
        with pytest.raises(ValueError, match=words):
            writer.add(0, **(rows_of(0) | change))
        assert (tmp_path / "rows" / "confidence.f32").stat().st_size == 0


def test_folders_that_hold_something_else_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no rows of learn2pd"):
        BlockRows(tmp_path)
    with RowWriter(tmp_path / "empty", HEADER):
        pass
    with pytest.raises(ValueError, match="holds no rows yet"):
        BlockRows(tmp_path / "empty")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        RowWriter(tmp_path, HEADER)
    filled(tmp_path / "cut", prompts=2)
    os.truncate(tmp_path / "cut" / "label.u8", 5)
    for reader in (BlockRows, lambda folder: RowWriter(folder, HEADER)):
        with pytest.raises(ValueError, match=r"damaged \(label.u8\)"):
            reader(tmp_path / "cut")
    (tmp_path / "cut" / "done.json").write_text(json.dumps({"rows": "many"}))
    with pytest.raises(ValueError, match="damaged"):
        BlockRows(tmp_path / "cut")
