"""Activations on disk: shards that are whole or not there, read row by row without loading them.

    header.json       what they are of: model, layer, width, number format
    shards.json       which shards count, sums over them, and how many texts they cover
    shard-00000.npy   [rows, d] float16 or float32

A shard is written beside its place and moved there; it counts when `shards.json`, written in the same way, names it. A
process that is killed at any moment leaves a folder that reads, and that goes on where its last shard ended.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from szilard.whole_folder import as_folder, write_whole

HEADER, SHARDS, FORMAT = "header.json", "shards.json", "szilard activations 1"
NUMBERS: dict[str, Any] = {"float16": np.float16, "float32": np.float32}


class ActivationStore:
    """Activations that were written to a folder.

    Attributes:
        header: what they are of.
        input_dim: d.
        mean: [d] float32, of all rows.
        scale: makes the mean norm of a row sqrt(d).

    Raises:
        ValueError: no such folder, or a shard that is missing or cut off.
        TypeError: no path.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = as_folder(folder)
        header, journal = read_header(self.folder), read_shards(self.folder)
        if header is None or not isinstance(header.get("input_dim"), int) or not journal["rows"]:
            raise ValueError(f"{str(folder)!r} holds no activations: write them with harvest_activations.")
        self.header: dict[str, Any] = header
        self.input_dim = int(self.header["input_dim"])
        self.offsets = np.concatenate([[0], np.cumsum(journal["rows"])])
        self.shards = [self._open(number, rows) for number, rows in enumerate(journal["rows"])]
        count = len(self)
        self.mean = torch.tensor(journal["sum"], dtype=torch.float64).div(count).float()
        self.scale = float(np.sqrt(self.input_dim) * count / max(journal["norms"], 1e-30))

    def _open(self, number: int, rows: int) -> np.ndarray:
        file = self.folder / shard_name(number)
        try:
            found = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{str(file)!r} is missing or cut off: remove the folder, and harvest anew.") from error
        if found.shape != (rows, self.input_dim):
            raise ValueError(f"{str(file)!r} holds {list(found.shape)}, not [{rows}, {self.input_dim}]: harvest anew.")
        return found

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __getitem__(self, rows: Any) -> Tensor:
        """Rows by a slice, by whole numbers in any order, or by a truth value for each; float32 [n, d], [d] for one.

        Raises:
            IndexError: a row that is not there.
            TypeError: neither whole numbers nor truth values.
        """
        chosen = self._numbers(rows)
        wanted = np.atleast_1d(chosen).astype(np.int64)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"rows must be below {len(self)}, not {chosen.max()} (or {chosen.min()}).")
        places = np.searchsorted(self.offsets, wanted, side="right") - 1
        out = np.empty((len(wanted), self.input_dim), np.float32)
        for number in np.unique(places):
            here = places == number
            out[here] = self.shards[number][wanted[here] - self.offsets[number]]
        found = torch.from_numpy(out)
        return found[0] if chosen.ndim == 0 else found

    def _numbers(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        chosen = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise IndexError(f"truth values must be one for each of {len(self)} rows, not {list(chosen.shape)}.")
            return np.flatnonzero(chosen)
        if chosen.ndim > 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise TypeError(f"rows are given by a slice, a whole number or a list of them, not {rows!r:.60}.")
        return chosen


class ActivationWriter:
    """Writes shards behind those that a folder already has.

    Args:
        folder: there, and this process's alone.
        header: what the activations are of, with "input_dim" and "numbers".

    Attributes:
        rows: on disk, and in memory.
        texts: how many the shards cover.
        digest: of those texts.

    Raises:
        ValueError: the folder holds something else.
    """

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self.folder, self.numbers = folder, NUMBERS[header["numbers"]]
        there = read_header(folder)
        header = {"format": FORMAT, **header}
        if there is None:
            if any(path.name not in ("lock", f".{HEADER}.tmp") for path in folder.iterdir()):
                raise ValueError(f"{str(folder)!r} holds other files: activations want a folder of their own.")
            write_whole(folder / HEADER, json.dumps(header, indent=1))
        elif there != header:
            names = [name for name in header if there.get(name) != header[name]]
            raise ValueError(
                f"{str(folder)!r} holds activations with another {', '.join(names)}: give the same, or another folder."
            )
        self.journal = read_shards(folder)
        self.texts, self.digest = self.journal["texts"], self.journal["digest"]
        self.sum = np.asarray(self.journal["sum"] or np.zeros(header["input_dim"]), np.float64)
        self.waiting: list[np.ndarray] = []
        self.rows = sum(self.journal["rows"])

    @property
    def in_memory(self) -> int:
        """Rows that wait for their shard."""
        return sum(map(len, self.waiting))

    def append(self, rows: Tensor) -> None:
        """Take rows [n, d].

        Raises:
            ValueError: numbers that are none, or beyond the format.
        """
        found = rows.float().cpu().numpy()
        limit = np.finfo(self.numbers).max
        if not (np.abs(found) <= limit).all():  # false for NaN, too
            told = "that are no numbers" if not np.isfinite(found).all() else f"beyond {limit:g}: store float32"
            raise ValueError(f"the model gives activations {told}.")
        self.waiting.append(found.astype(self.numbers))
        self.rows += len(found)

    def flush(self, texts: int, digest: str) -> None:
        """Make a shard of what waits; `texts` texts are covered then, and have this digest."""
        if self.waiting:
            rows = np.concatenate(self.waiting)
            number = len(self.journal["rows"])
            scratch = self.folder / f".{shard_name(number)}.tmp"
            with scratch.open("wb") as file:
                np.save(file, rows)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self.folder / shard_name(number))
            self.sum = self.sum + rows.sum(0, dtype=np.float64)
            self.journal["norms"] += float(np.linalg.norm(rows.astype(np.float32), axis=1).sum(dtype=np.float64))
            self.journal["rows"].append(len(rows))
            self.waiting = []
        self.texts, self.digest = texts, digest
        self.journal |= {"texts": texts, "digest": digest, "sum": self.sum.tolist()}
        write_whole(self.folder / SHARDS, json.dumps(self.journal))


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.npy"


def read_header(folder: Path) -> dict[str, Any] | None:
    """What a folder of activations is of; None where there is none."""
    try:
        found = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def read_shards(folder: Path) -> dict[str, Any]:
    """The shards that count."""
    none: dict[str, Any] = {"rows": [], "texts": 0, "digest": "", "sum": None, "norms": 0.0}
    try:
        found = json.loads((folder / SHARDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return none
    return found if isinstance(found, dict) and none.keys() <= found.keys() else none
