"""The table of a trace, as Arrow has it, and its files: JSON and Parquet."""

from __future__ import annotations

import json
import math
import os
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

SCHEMA_VERSION = 1
FORMAT = "szilard.trace"
CANDIDATES = pa.list_(pa.struct([("token", pa.int64()), ("text", pa.string()), ("weight", pa.float64())]))
_TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "candidates": CANDIDATES,
}
_TYPE_NAMES = {arrow_type: name for name, arrow_type in _TYPES.items()}
REQUIRED = {
    "row": pa.int64(),
    "step": pa.int64(),
    "token": pa.int64(),
    "text": pa.string(),
    "entropy": pa.float64(),
    "mode": pa.string(),
    "candidates": CANDIDATES,
}
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def normal_type(name: str, given: pa.DataType) -> pa.DataType:
    """The type that a trace holds such values in.

    Raises:
        ValueError: it holds none of this type.
    """
    if pa.types.is_boolean(given):
        return pa.bool_()
    if pa.types.is_integer(given):
        return pa.int64()
    if pa.types.is_floating(given) or pa.types.is_null(given):
        return pa.float64()
    if pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_dictionary(given):
        return pa.string()
    raise ValueError(f"The trace column {name!r} has the Arrow type {given}; a trace holds {', '.join(_TYPES)}.")


def as_type(name: str, column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """A column in another type.

    Raises:
        ValueError: its values have none in that type.
    """
    try:
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise ValueError(f"The trace column {name!r} must be {_TYPE_NAMES[wanted]}, not {column.type}.") from error


def to_json(table: pa.Table) -> str:
    """See `Trace.to_json`."""
    columns = {field.name: _TYPE_NAMES[field.type] for field in table.schema}
    floats = [name for name, type_name in columns.items() if type_name == "float64"]
    records = table.to_pylist()
    for record in records:
        for name in floats:
            record[name] = _finite_or_name(record[name])
        for entry in record["candidates"] or ():
            entry["weight"] = _finite_or_name(entry["weight"])
    document = {"format": FORMAT, "version": SCHEMA_VERSION, "columns": columns, "records": records}
    return json.dumps(document, allow_nan=False)


def from_json(text: str) -> pa.Table:
    """The inverse of `to_json`.

    Raises:
        ValueError: the text is not a trace, or one of a newer format version.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Not a szilard trace: the JSON cannot be parsed ({error}).") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'Not a szilard trace: the JSON has no "format": "{FORMAT}".')
    if document.get("version") != SCHEMA_VERSION:
        raise ValueError(
            f"This trace has format version {document.get('version')!r}; this szilard reads version "
            f"{SCHEMA_VERSION}. Install the szilard version that wrote it."
        )
    try:
        schema = pa.schema([(name, _TYPES[kind]) for name, kind in document["columns"].items()])
        records = [dict(record) for record in document["records"]]
        for field in schema:
            for record in records:
                value = record.get(field.name)
                if field.type == pa.float64():
                    record[field.name] = _NON_FINITE[value] if isinstance(value, str) else value
                elif field.type == CANDIDATES and value is not None:
                    for entry in value:
                        weight = entry["weight"]
                        entry["weight"] = _NON_FINITE[weight] if isinstance(weight, str) else weight
        return pa.Table.from_pylist(records, schema=schema)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise ValueError(f"Not a readable szilard trace: {type(error).__name__}: {error}.") from error


def save(table: pa.Table, path: Path) -> Path:
    """Write a table as its suffix says, atomically; the path."""
    suffix = _kind(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        if suffix == ".json":
            temporary.write_text(to_json(table), encoding="utf-8")
        else:
            pa.parquet.write_table(table, temporary, write_page_checksum=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: Path) -> pa.Table:
    """Read a table that `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix, or a file that is not a complete trace.
    """
    suffix = _kind(path)
    content = path.read_bytes()
    try:
        if suffix == ".json":
            return from_json(content.decode("utf-8"))
        table = pa.parquet.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
        version = (table.schema.metadata or {}).get(FORMAT.encode(), b"").decode()
        if version != str(SCHEMA_VERSION):
            raise ValueError(f"its {FORMAT} version is {version or 'absent'}, not {SCHEMA_VERSION}")
    except (ValueError, OSError, pa.ArrowException) as error:  # Arrow reports damaged bytes as OSError
        raise unreadable(path, error) from error
    return table


def unreadable(path: Path, error: Exception) -> ValueError:
    """What to say of a file that holds no trace."""
    return ValueError(f"Cannot read {path} as a trace: {' '.join(str(error).split())}")


def _finite_or_name(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".json", ".parquet"):
        raise ValueError(
            f"A trace is stored as .json or .parquet; {path.name!r} ends in neither. Choose one of the two."
        )
    return suffix
