"""What a filter learns from, on disk: the confidences of a block at a step, and which of its predictions were final.

A folder of flat files that only grow. Rows come prompt by prompt; `done.json` says how many of them count, and is
replaced after they are on the disk, so a kill at any moment costs the prompt that was being written, and no more.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from szilard.options import check_number
from szilard.training.loop import Batch
from szilard.whole_folder import check_folder, held, write_whole

_FORMAT = "szilard learn2pd rows"
_FILES: dict[str, tuple[Any, str]] = {
    "confidence.f32": (np.dtype("<f4"), "block"),  # [rows, block]
    "label.u8": (np.dtype("u1"), "block"),  # [rows, block]
    "place.i32": (np.dtype("<i4"), "place"),  # [rows, 3]: prompt, block, step
}
_OTHERS = {"header.json", "done.json", ".header.json.tmp", ".done.json.tmp", ".lock"}


def rows_header(
    base: Mapping[str, Any], *, mask_token_id: int, block_length: int, collected: Mapping[str, Any]
) -> dict[str, Any]:
    """What a folder of rows remembers, and a filter trained on them.

    Args:
        base: of the model: "name", "fingerprint", "hidden_size", "vocab_size".
        mask_token_id: that it was asked with.
        block_length: positions of a row.
        collected: how: a hash of the prompts, the answer's length, ... Rows of one folder are all collected alike.
    """
    check_number("mask_token_id", mask_token_id, low=0, integer=True)
    check_number("block_length", block_length, low=1, integer=True)
    made = {"mask_token_id": mask_token_id, "block_length": block_length, "collected": dict(collected)}
    return json.loads(json.dumps({"format": _FORMAT, "base": dict(base), **made}))


class RowWriter:
    """Adds rows to a folder, which another process may have begun. A context manager, alone in its folder.

    Args:
        folder: for the rows and nothing else.
        header: of `rows_header`.

    Raises:
        ValueError: other files, rows that were collected otherwise, damaged ones, or another process is writing.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        check_folder(folder)
        self.folder, self.header = folder, dict(header)
        self.block_length = int(header["block_length"])
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            opened.enter_context(held(folder / ".lock", f"the rows in {str(folder)!r}"))
            self.rows = self._begin()
            self._done = set(_places(folder, self.rows)[:, 0].tolist())
            self._open = opened.pop_all()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def prompts(self) -> int:
        """Prompts that are done."""
        return len(self._done)

    def has(self, prompt: int) -> bool:
        """Whether the rows of a prompt are all there."""
        return prompt in self._done

    def add(
        self,
        prompt: int,
        *,
        confidence: np.ndarray[Any, Any],
        label: np.ndarray[Any, Any],
        block: np.ndarray[Any, Any],
        step: np.ndarray[Any, Any],
    ) -> None:
        """All rows of one prompt, at once: when this returns they are on the disk.

        Args:
            prompt: its number, not added before.
            confidence: probabilities of the likeliest tokens, [rows, block].
            label: whether these tokens are the final ones, bool [rows, block].
            block: number of the block of each row, [rows].
            step: number of the step in its block, [rows].

        Raises:
            ValueError: a prompt that is done, other shapes, no rows, or confidences outside [0, 1].
        """
        check_number("prompt", prompt, low=0, high=2**31 - 1, integer=True)
        if self.has(prompt):
            raise ValueError(f"the rows of prompt {prompt} are there already.")
        count, wanted = len(confidence), (len(confidence), self.block_length)
        shapes = [np.shape(confidence), np.shape(label), np.shape(block), np.shape(step)]
        if count == 0 or shapes != [wanted, wanted, (count,), (count,)]:
            raise ValueError(
                f"rows must be confidence and label [rows, {self.block_length}], block and step [rows], at least one, "
                f"not {', '.join(str(list(shape)) for shape in shapes)}."
            )
        values = np.asarray(confidence, dtype=_FILES["confidence.f32"][0])
        if not bool(((values >= 0) & (values <= 1)).all()):  # false for nan, too
            raise ValueError(f"confidences of prompt {prompt} are no probabilities between 0 and 1.")
        place = np.stack([np.full(count, prompt), np.asarray(block), np.asarray(step)], axis=1)
        for name, array in (("confidence.f32", values), ("label.u8", np.asarray(label) != 0), ("place.i32", place)):
            with (self.folder / name).open("ab") as file:
                file.write(np.ascontiguousarray(array, dtype=_FILES[name][0]).tobytes())
                file.flush()
                os.fsync(file.fileno())
        write_whole(self.folder / "done.json", json.dumps({"rows": self.rows + count}))
        self.rows += count
        self._done.add(prompt)

    def _begin(self) -> int:
        """How many rows count; what a killed process wrote behind them is cut off."""
        found = {path.name for path in self.folder.iterdir()}
        if "header.json" not in found:
            if found - _FILES.keys() - _OTHERS:
                raise ValueError(f"{str(self.folder)!r} holds other files: rows want a folder of their own.")
            for name in _FILES:
                (self.folder / name).write_bytes(b"")
            write_whole(self.folder / "done.json", json.dumps({"rows": 0}))
            write_whole(self.folder / "header.json", json.dumps(self.header))  # last: now the folder is one of ours
            return 0
        if _header(self.folder) != self.header:
            raise ValueError(
                f"{str(self.folder)!r} holds rows of another model, block length or way of collecting (see its "
                "header.json): name another folder, or remove it."
            )
        rows = _counted(self.folder, self.block_length)
        for name in _FILES:
            os.truncate(self.folder / name, rows * _width(name, self.block_length))
        return rows


class BlockRows(Dataset[Batch]):
    """Rows in a folder, memory-mapped; only those of prompts that were written to their end.

    Attributes:
        header: as `rows_header` made it.
        confidence: float32 [rows, block].
        label: bool [rows, block].
        prompt, block, step: int32 [rows].

    Raises:
        ValueError: no rows, or damaged ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.header = folder, _header(folder)
        self.block_length = int(self.header["block_length"])
        rows = _counted(folder, self.block_length)
        if rows == 0:
            raise ValueError(f"{str(folder)!r} holds no rows yet: collect some first.")
        shape = (rows, self.block_length)
        self.confidence = np.memmap(folder / "confidence.f32", dtype=np.dtype("<f4"), mode="r", shape=shape)
        self.label = np.memmap(folder / "label.u8", dtype=np.bool_, mode="r", shape=shape)
        self.prompt, self.block, self.step = _places(folder, rows).T

    def __len__(self) -> int:
        return len(self.prompt)

    def __getitem__(self, index: Any) -> Batch:
        """{"confidence" float32, "label" bool}: [block] of a row's number, [n, block] of n numbers."""
        return {
            "confidence": torch.from_numpy(np.array(self.confidence[index])),
            "label": torch.from_numpy(np.array(self.label[index])),
        }


def _header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        header = None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError(f"{str(folder)!r} holds no rows of learn2pd (no header.json of theirs).")
    return header


def _counted(folder: Path, block_length: int) -> int:
    """The rows that count, all of which must be there."""
    try:
        rows = int(json.loads((folder / "done.json").read_text(encoding="utf-8"))["rows"])
        for name in _FILES:
            if (folder / name).stat().st_size < rows * _width(name, block_length):
                raise ValueError(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the rows in {str(folder)!r} are damaged ({error}): remove the folder.") from error
    return rows


def _width(name: str, block_length: int) -> int:
    """Bytes of a row in a file."""
    kind, what = _FILES[name]
    return kind.itemsize * (block_length if what == "block" else 3)


def _places(folder: Path, rows: int) -> np.ndarray[Any, Any]:
    """int32 [rows, 3]: prompt, block, step."""
    return np.fromfile(folder / "place.i32", dtype=_FILES["place.i32"][0], count=3 * rows).reshape(rows, 3)
