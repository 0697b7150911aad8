"""The results: a folder of Parquet files, one row per item, method, seed and model.

Rows are only ever added. Every part is written to a temporary name, flushed to the disk and renamed, so that a killed
run leaves whole parts only, and several runs (shards) may write to one folder.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import uuid
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.string()),
        ("method", pa.string()),
        ("options", pa.string()),  # JSON
        ("model", pa.string()),
        ("seed", pa.int64()),
        ("score", pa.float64()),
        ("metrics", pa.string()),  # JSON
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("generated_tokens", pa.int64()),
        ("forward_passes", pa.int64()),
        ("model_tokens", pa.string()),  # JSON: tokens through each model
        ("flops", pa.float64()),
        ("wall_seconds", pa.float64()),
        ("counters", pa.string()),  # JSON
        ("trace", pa.string()),  # a file beside the parts, or empty
        ("environment", pa.string()),  # JSON
        ("finished_at", pa.string()),
    ]
)
KEY = ("task", "item", "method", "model", "seed")


class ResultStore:
    """Results in a folder; it is made when the first row comes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{str(folder)!r} is a file; results are kept in a folder.")

    def add(self, row: dict[str, Any]) -> None:
        """Add one row; it is on the disk when this returns. Missing columns are empty."""
        now = datetime.now(timezone.utc)
        values = {"environment": json.dumps(environment(), sort_keys=True), "finished_at": now.isoformat()} | row
        self._write(pa.Table.from_pylist([values], schema=SCHEMA), f"{now:%Y%m%dT%H%M%S%f}")

    def _write(self, table: pa.Table, stamp: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{stamp}-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"
        partial = self.folder / f".{name}.partial"
        with partial.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.folder / name)
        return self.folder / name

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def table(self) -> pa.Table:
        """All rows, each key once (the first that finished), sorted by key.

        Raises:
            ValueError: a part is damaged.
        """
        tables = []
        for part in self._parts():
            try:
                tables.append(pq.read_table(part).cast(SCHEMA))
            except FileNotFoundError:
                continue  # merged meanwhile: its rows are in the merged part
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"the results file {str(part)!r} is damaged ({error}); remove it to go on.") from None
        if not tables:
            return SCHEMA.empty_table()
        table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in (*KEY, "finished_at")])
        seen: set[tuple[Any, ...]] = set()
        keep = []
        for key in zip(*(table[name].to_pylist() for name in KEY), strict=True):
            keep.append(key not in seen)
            seen.add(key)
        return table.filter(pa.array(keep))

    def keys(self) -> set[tuple[Any, ...]]:
        """(task, item, method, model, seed) of every row."""
        table = self.table()
        return set(zip(*(table[name].to_pylist() for name in KEY), strict=True))

    def compact(self) -> None:
        """Merge the parts into one. The merged part is written first: a crash in between loses and doubles nothing."""
        parts = self._parts()
        if len(parts) > 1:
            self._write(self.table(), f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}")
            for part in parts:
                part.unlink()


@cache
def environment() -> dict[str, Any]:
    """What a number depends on beside the code: versions, machine, commit."""
    import torch
    import transformers

    from szilard import __version__

    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "szilard": __version__,
        "commit": commit,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
