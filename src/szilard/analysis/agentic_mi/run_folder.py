"""What a long measurement has done so far, on disk: a killed one goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from szilard.analysis.agentic_mi.sources import Compression
from szilard.whole_folder import check_folder

FORM = "szilard agentic-mi"


class RunFolder:
    """`run.json` (what is measured), `compressions.jsonl`, `answers-*.jsonl`, and a column of the matrix per file.

    Args:
        path: the folder; None: nothing is kept.
        facts: what the results depend on, for JSON.

    Raises:
        ValueError: the folder holds another measurement or other files, or cannot be written.
    """

    def __init__(self, path: Path | None, facts: dict[str, Any]) -> None:
        self.path = path
        if path is None:
            return
        check_folder(path)
        header = {"format": FORM, **json.loads(json.dumps(facts))}
        file = path / "run.json"
        if file.exists():
            try:
                known = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                known = {}
            if known != header:
                names = sorted(name for name in {*known, *header} if known.get(name) != header.get(name))
                raise ValueError(
                    f"the folder {str(path)!r} holds another measurement ({', '.join(names)} differ): name a new one."
                )
            return
        if path.exists() and any(path.iterdir()):
            raise ValueError(f"the folder {str(path)!r} holds other files; name a new folder.")
        path.mkdir(parents=True, exist_ok=True)
        self._whole(file, json.dumps(header, indent=1).encode())

    def compressions(self) -> dict[tuple[int, int], Compression]:
        """Those that are there."""
        records = self.lines("compressions")
        return {(record["context"], record["sample"]): Compression(**record) for record in records}

    def add_compressions(self, found: Iterable[Compression]) -> None:
        """Append them; they are on the disk when this returns."""
        self.append("compressions", [asdict(one) for one in found])

    def column(self, number: int) -> np.ndarray | None:
        """A column of the matrix, float64 [contexts, samples], or None."""
        if self.path is None:
            return None
        file = self.path / f"column-{number:05d}.npy"
        return np.load(file, allow_pickle=False) if file.exists() else None

    def add_column(self, number: int, values: np.ndarray) -> None:
        """Keep a column, as a whole file."""
        if self.path is None:
            return
        file = self.path / f"column-{number:05d}.npy"
        scratch = file.with_suffix(".partial")
        with scratch.open("wb") as out:
            np.save(out, values, allow_pickle=False)
            out.flush()
            os.fsync(out.fileno())
        os.replace(scratch, file)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The records of a .jsonl; a torn last line, of a run killed while writing, is left out."""
        file = None if self.path is None else self.path / f"{name}.jsonl"
        if file is None or not file.exists():
            return []
        found = []
        for line in file.read_text(encoding="utf-8").split("\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def append(self, name: str, records: Sequence[dict[str, Any]]) -> None:
        """Append records to a .jsonl; they are on the disk when this returns."""
        if self.path is None:
            return
        with (self.path / f"{name}.jsonl").open("ab") as file:
            # The line break comes first, too: a torn line before it stays a line of its own.
            file.write(("\n" + "\n".join(json.dumps(record) for record in records) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _whole(file: Path, data: bytes) -> None:
        scratch = file.with_suffix(".partial")
        scratch.write_bytes(data)
        os.replace(scratch, file)
