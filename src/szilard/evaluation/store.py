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
from collections.abc import Sequence
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
        ("digest", pa.string()),  # of the item's prompt and reference: another data file is noticed
        ("method", pa.string()),
        ("options", pa.string()),  # JSON: the method's changed hyperparameters
        ("settings", pa.string()),  # JSON: the task's options, the length limit, a fingerprint of the model
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
        if not str(folder).strip():
            raise ValueError("the results folder's name is empty; give one, as in runs/humaneval.")
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{str(folder)!r} is a file; results are kept in a folder.")

    def check_writable(self) -> None:
        """Make the folder.

        Raises:
            ValueError: it cannot be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"results cannot be kept in {str(self.folder)!r}: {error.strerror or error}.") from None
        if not os.access(self.folder, os.W_OK):
            raise ValueError(f"results cannot be kept in {str(self.folder)!r}: it is not writable.")

    def add(self, *rows: dict[str, Any]) -> None:
        """Add rows as one part: all of them are on the disk when this returns, or none. Missing columns are empty."""
        if rows:
            now = datetime.now(timezone.utc)
            known = {"environment": json.dumps(environment(), sort_keys=True), "finished_at": now.isoformat()}
            table = pa.Table.from_pylist([known | row for row in rows], schema=SCHEMA)
            self._write(table, f"{now:%Y%m%dT%H%M%S%f}")

    def _write(self, table: pa.Table, stamp: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{stamp}-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"
        partial = self.folder / f".{name}.partial"
        with partial.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / name)
        _flush_folder(self.folder)  # the name, too, outlives a power cut
        return self.folder / name

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def _read(self, columns: Sequence[str]) -> pa.Table:
        """These columns of all parts, duplicates included.

        Raises:
            ValueError: a part is damaged, or a Parquet file that is no part lies in the folder.
        """
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        while True:
            tables = []
            for part in self._parts():
                try:
                    with part.open("rb") as source:
                        file = pq.ParquetFile(source)
                        if not set(SCHEMA.names) <= set(file.schema_arrow.names):
                            raise ValueError(
                                f"{str(part)!r} is a Parquet file, but not one of szilard's results; move it elsewhere."
                            )
                        tables.append(file.read(columns=list(columns)).select(columns).cast(schema))
                except FileNotFoundError:
                    if part.is_symlink():
                        message = f"the results file {str(part)!r} links to nothing; remove it to go on."
                        raise ValueError(message) from None
                    break  # merged meanwhile: look again, its rows are in a part that the list did not have yet
                except (pa.ArrowException, OSError) as error:
                    raise ValueError(
                        f"the results file {str(part)!r} is damaged ({error}); move it elsewhere to go on."
                    ) from None
            else:
                return pa.concat_tables(tables) if tables else schema.empty_table()

    def table(self) -> pa.Table:
        """All rows, each key once (the first that finished), sorted by key.

        Raises:
            ValueError: a part is damaged or holds rows without a key or a score, or a Parquet file that is no part lies
                in the folder.
        """
        table = self._read(SCHEMA.names)
        for name in (*KEY, "score"):
            if table[name].null_count:
                raise ValueError(
                    f"{table[name].null_count} rows in {str(self.folder)!r} have no {name!r}: they are not szilard's; "
                    "move the file that holds them elsewhere."
                )
        table = table.sort_by([(name, "ascending") for name in (*KEY, "finished_at")])
        seen: set[tuple[Any, ...]] = set()
        keep = []
        for key in zip(*(table[name].to_pylist() for name in KEY), strict=True):
            keep.append(key not in seen)
            seen.add(key)
        return table.filter(pa.array(keep, pa.bool_()))

    def keys(self) -> dict[tuple[Any, ...], str]:
        """(task, item, method, model, seed) of every row, and the digest of its item."""
        table = self._read((*KEY, "digest"))
        return dict(
            zip(zip(*(table[name].to_pylist() for name in KEY), strict=True), table["digest"].to_pylist(), strict=True)
        )

    def settings(self) -> dict[tuple[str, str, str], set[tuple[str, str]]]:
        """(options, settings) that the results of a (task, method, model) were made with; normally one pair each."""
        found: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
        names = ("task", "method", "model", "options", "settings")
        table = self._read(names)
        for *key, options, settings in zip(*(table[name].to_pylist() for name in names), strict=True):
            found.setdefault((key[0], key[1], key[2]), set()).add((options, settings))
        return found

    def compact(self) -> None:
        """Merge the parts into one. The merged part is written first: a crash in between loses and doubles nothing."""
        parts = self._parts()
        if len(parts) > 1:
            self._write(self.table(), f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}")
            for part in parts:
                part.unlink(missing_ok=True)  # another process may be merging too


def _flush_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows: folders cannot be opened, renames are durable without
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
