"""The records of a user's file: read from every format that is taken, and what is wrong with one, in words."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read_text(file: Path) -> str:
    """A text file.

    Raises:
        ValueError: no such file, or not in UTF-8.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} is not text in UTF-8 (byte {error.start}): save it as UTF-8.") from None


def read_records(path: Path) -> Iterator[Any]:
    """Records, whatever they are, of a .jsonl, .jsonl.gz, .json, .csv or .parquet file.

    Raises:
        ValueError: not one of these, or damaged.
    """
    try:
        if path.name.endswith(".parquet"):
            import pyarrow.parquet

            yield from pyarrow.parquet.read_table(path).to_pylist()
            return
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.name.endswith(".gz") else data).decode("utf-8-sig")
        if path.name.endswith(".json"):
            records = json.loads(text)
            if not isinstance(records, list):
                raise ValueError("not a list")
            yield from records
            return
        if path.name.endswith(".csv"):
            yield from csv.DictReader(io.StringIO(text, newline=""))
            return
        for line in text.split("\n"):  # not splitlines: a text may hold other line separators
            if line.strip():
                yield json.loads(line)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:  # JSON's, Unicode's and Arrow's among them
        raise ValueError(f"{str(path)!r} cannot be read as JSON lines, CSV or Parquet ({error}).") from None


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """As `read_records`, of records that must be objects with named fields.

    Raises:
        ValueError: also for a record that is none.
    """
    for number, record in enumerate(read_records(path), start=1):
        if not isinstance(record, dict):
            raise ValueError(f"{str(path)!r}, record {number}, is no object with named fields.")
        yield record


def fault(record: Any) -> str | None:
    """What is malformed in a record of prompts or texts to train on; None: nothing. What is missing is no fault."""
    if not isinstance(record, Mapping):
        return f"is {_word(record)} and no object with fields"
    for name in ("messages", "turns", "prompt"):
        value = record.get(name)
        if isinstance(value, list):
            wrong = _fault_of_turns(value, texts=name == "turns")
            if wrong is not None:
                return f"has a field {name!r} that {wrong}"
        elif value is not None and (name != "prompt" or not isinstance(value, str)):
            wanted = "a text or a chat" if name == "prompt" else "a list"
            return f"has a field {name!r} that is {_word(value)} and not {wanted}"
    for name in ("question", "text", "answer"):
        value = record.get(name)
        if value is not None and not isinstance(value, str):
            return f"has a field {name!r} that is {_word(value)} and not a text"
    for name in ("ids", "prompt_ids"):
        value = record.get(name)
        if value is not None and not (isinstance(value, list) and all(map(_is_id, value))):
            return f"has a field {name!r} that is not a list of token ids (whole numbers from 0)"
    return None


def _fault_of_turns(turns: list[Any], *, texts: bool) -> str | None:
    for number, turn in enumerate(turns, start=1):
        if isinstance(turn, str) and texts:
            continue
        if not isinstance(turn, Mapping):
            return f"holds {_word(turn)} in the place of turn {number}"
        if not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str | list):
            return f"holds a turn without 'role' and 'content' (number {number})"
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _word(value: Any) -> str:
    names = {
        str: "a text",
        list: "a list",
        dict: "an object",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "nothing" if value is None else type(value).__name__)
