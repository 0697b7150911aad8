"""The results folder: whole parts only, each key once, whatever else happens to it."""

import os
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from szilard.evaluation import store as module
from szilard.evaluation.report import summarise
from szilard.evaluation.store import SCHEMA, ResultStore


def row(item="a", *, method="greedy", seed=0, **values):
    return {"task": "t", "item": item, "method": method, "model": "m", "seed": seed, "score": 1.0} | values


def test_rows_added_together_are_one_part(tmp_path):
    store = ResultStore(tmp_path / "new" / "folder")
    store.add(row("a"), row("b"))
    store.add()
    assert len(list(store.folder.iterdir())) == 1
    assert set(store.keys()) == {("t", "a", "greedy", "m", 0), ("t", "b", "greedy", "m", 0)}


def test_a_write_that_fails_leaves_no_part(tmp_path, monkeypatch):
    store = ResultStore(tmp_path)
    store.add(row("a"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.add(row("b"))
    monkeypatch.undo()
    assert store.table()["item"].to_pylist() == ["a"]


def test_rows_come_sorted_by_key_in_whatever_order_they_were_added(tmp_path):
    one, other = ResultStore(tmp_path / "one"), ResultStore(tmp_path / "other")
    rows = [row(item, method=method, seed=seed) for item in "ba" for method in ("x", "w") for seed in (1, 0)]
    for given, store in ((rows, one), (rows[::-1], other)):
        for values in given:
            store.add(values | {"finished_at": "2026-01-01", "environment": "{}"})
    assert one.table().equals(other.table())


@pytest.mark.parametrize("crash_after", [0, 1, 2])
def test_a_merge_that_is_cut_short_loses_and_doubles_nothing(tmp_path, monkeypatch, crash_after):
    store = ResultStore(tmp_path)
    for item in "abc":
        store.add(row(item))
    before, removed = store.table(), []
    unlink = module.Path.unlink

    def crashing(path, missing_ok=False):
        if len(removed) == crash_after:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(module.Path, "unlink", crashing)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    monkeypatch.undo()
    assert store.table().equals(before)
    store.compact()
    assert store.table().equals(before) and len(list(tmp_path.iterdir())) == 1


def test_a_reader_beside_a_merging_writer_sees_every_row(tmp_path):
    store, over, seen = ResultStore(tmp_path), threading.Event(), []
    store.add(row("first"))

    def read():
        while not over.is_set():
            seen.append(len(store.keys()))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(25):
        store.add(row(str(number)))
        store.compact()
    over.set()
    reader.join()
    assert seen == sorted(seen) and len(store.keys()) == 26  # what has been there once is never missing


def test_foreign_and_damaged_files_are_named_and_what_a_kill_left_is_not_read(tmp_path):
    store = ResultStore(tmp_path)
    store.add(row("a"))
    part = next(tmp_path.glob("*.parquet"))
    (tmp_path / f".{part.name}.partial").write_bytes(part.read_bytes()[:100])
    assert len(store.table()) == 1
    foreign = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"x": [1]}), foreign)
    with pytest.raises(ValueError, match=r"mine\.parquet' is a Parquet file, but not one of szilard's results"):
        store.keys()
    foreign.unlink()
    torn = tmp_path / "part-torn.parquet"
    torn.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-torn\.parquet' is damaged"):
        store.table()
    torn.unlink()
    torn.symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"part-torn\.parquet' links to nothing"):
        store.table()


def test_every_row_says_what_it_was_measured_with(tmp_path):
    store = ResultStore(tmp_path)
    store.add(row("a"))
    (values,) = store.table().to_pylist()
    assert store.table().schema == SCHEMA and f"{os.cpu_count()} cores" in values["environment"]


def test_rows_that_are_not_szilards_are_named(tmp_path):
    store = ResultStore(tmp_path / "a")
    store.add(row("a", score=None), row("b"))
    with pytest.raises(ValueError, match="have no 'score'"):
        store.table()
    other = ResultStore(tmp_path / "b")
    other.add(row("a", counters="[1", metrics="{}", generated_tokens=1, wall_seconds=1.0))
    with pytest.raises(ValueError, match="the result of a with greedy holds no counts in 'counters' but"):
        summarise(other.table())
