"""Where measurements are kept: one JSON object a line, appended at once, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

FOLDER = Path(__file__).parent.parent / "results"


class Store:
    """Records of one file under `results/`; a record is known by its `key`."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / f"{name}.jsonl"
        self.done = {json.dumps(record["key"], sort_keys=True) for record in self}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed while writing

    def __contains__(self, key: dict[str, Any]) -> bool:
        return json.dumps(key, sort_keys=True) in self.done

    def add(self, key: dict[str, Any], values: dict[str, Any]) -> None:
        """Append a record, on disk before this returns."""
        record = {"key": key, **values, "environment": environment()}
        self.path.parent.mkdir(exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size > 0
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done.add(json.dumps(key, sort_keys=True))


def environment() -> dict[str, Any]:
    """What a number depends on beside the code."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
