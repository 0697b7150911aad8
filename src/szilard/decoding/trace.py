"""The trace of a run: what happened at every step, as a table.

A `TraceRecorder` sits inside a decoding loop and only appends references to the tensors it is given: no device
synchronisation, no copy, no Python loop over the batch. `TraceRecorder.finish` turns them into a `Trace`: one record
per generated token, columnar (Arrow), immutable, printable (`Trace.to_ansi`) and drawable (`Trace.to_html`).

Columns every trace has; a value that was not recorded is null:

| column     | type    | meaning                                                                                  |
|------------|---------|------------------------------------------------------------------------------------------|
| row        | int64   | row of the batch                                                                         |
| step       | int64   | 0-based position among the tokens recorded for this row                                  |
| token      | int64   | id of the token that was chosen                                                          |
| text       | string  | what the token adds to the text ("" while a UTF-8 character is incomplete)               |
| entropy    | float64 | entropy of the next-token distribution that the token was chosen from, in nats            |
| mode       | string  | "discrete": the token itself was fed to the model; "latent": a mixture of embeddings was |
| candidates | list    | the mixture or the runners-up: `Candidate(token, text, weight)`, heaviest first           |

plus whatever the method recorded: `varentropy` (nats squared), `probability` of the chosen token, `reference` (nats),
`switched`, `switches`, `stay`, `anchored`, ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute

from szilard.decoding import trace_files
from szilard.decoding.trace_files import FORMAT, REQUIRED, SCHEMA_VERSION, as_type, normal_type

if TYPE_CHECKING:
    import pandas

MODES = ("discrete", "latent")  # what the integer column `mode` of a recorder means
_LEAST_MAXIMUM = 1.0  # nats


class Candidate(NamedTuple):
    """One token of a step's mixture, or one alternative to the chosen token."""

    token: int
    text: str | None
    weight: float


class TraceStep:
    """One record of a trace. Columns are attributes; what was not recorded reads as None.

    >>> step.token, step.entropy, step.mode, step.candidates  # doctest: +SKIP
    (314, 1.93, 'latent', (Candidate(token=314, text=' is', weight=0.41), ...))
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # keeps copy, pickle and friends from seeing None where they probe for a method
            raise AttributeError(name)
        return self._values.get(name)

    def __getstate__(self) -> dict[str, Any]:
        return self._values

    def __setstate__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TraceStep) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def as_dict(self) -> dict[str, Any]:
        """The recorded values by column name, nulls left out."""
        return {name: value for name, value in self._values.items() if value is not None}

    def __repr__(self) -> str:
        return f"TraceStep({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"


class Trace:
    """What happened, step by step: an immutable table with one record per generated token.

    Iterating gives `TraceStep` records, `trace["entropy"]` a NumPy array, `trace[0]` the first record. See the module's
    docstring for the columns.
    """

    __slots__ = ("_table",)

    _table: pa.Table

    def __init__(self, table: pa.Table) -> None:
        """Wrap an Arrow table that has at least the columns `row`, `step`, `token` and `entropy`.

        Raises:
            ValueError: a column is missing or has a type that a trace does not hold.
        """
        missing = [name for name in ("row", "step", "token", "entropy") if name not in table.column_names]
        if missing:
            raise ValueError(f"This table is not a trace: the column(s) {', '.join(missing)} are missing.")
        columns: dict[str, pa.ChunkedArray] = {}
        for name, required in REQUIRED.items():
            if name in table.column_names:
                columns[name] = as_type(name, table[name], required)
            else:
                columns[name] = pa.chunked_array([pa.nulls(len(table), required)])
        candidates = columns.pop("candidates")  # bulky, so it reads better as the last column
        for name in table.column_names:
            if name not in REQUIRED:
                columns[name] = as_type(name, table[name], normal_type(name, table[name].type))
        columns["candidates"] = candidates
        metadata = {FORMAT: str(SCHEMA_VERSION)}
        object.__setattr__(self, "_table", pa.table(columns).combine_chunks().replace_schema_metadata(metadata))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("A trace is immutable; build a new one from `trace.to_arrow()`.")

    def __reduce__(self) -> tuple[type[Trace], tuple[pa.Table]]:
        return Trace, (self._table,)

    # ------------------------------------------------------------------------------------------------ reading

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[TraceStep]:
        for record in self._table.to_pylist():
            if record["candidates"] is not None:
                record["candidates"] = tuple(Candidate(**entry) for entry in record["candidates"])
            yield TraceStep(record)

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: int) -> TraceStep: ...
    def __getitem__(self, key: str | int) -> np.ndarray | TraceStep:
        """A column by name ([steps], read-only; nulls become NaN, or None in non-numeric columns), or a record."""
        if isinstance(key, str):
            if key not in self._table.column_names:
                raise KeyError(f"This trace has no column {key!r}; it has {', '.join(self.columns)}.")
            values: np.ndarray = self._table[key].to_numpy()
            values.flags.writeable = False
            return values
        index = key + len(self) if key < 0 else key
        if not 0 <= index < len(self):
            raise IndexError(f"This trace has {len(self)} steps; there is no step {key}.")
        return next(iter(Trace(self._table.slice(index, 1))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and self.to_json() == other.to_json()  # JSON, because there NaN equals NaN

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        rows = f" in {len(self.rows)} rows" if len(self.rows) > 1 else ""
        latent = self.summary()["latent_steps"]
        return f"Trace({len(self)} steps{rows}{f', {latent} latent' if latent else ''})"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self._table.column_names)

    @property
    def rows(self) -> tuple[int, ...]:
        """The batch rows that have at least one step, ascending."""
        return tuple(sorted(self._table["row"].unique().to_pylist()))

    def row(self, row: int) -> Trace:
        """The part of the trace that belongs to one row of the batch (empty when the row has no steps)."""
        return Trace(self._table.filter(pa.compute.equal(self._table["row"], row)))

    def summary(self) -> dict[str, int | float | None]:
        """The trace in five numbers, over all rows.

        Returns:
            `steps`; `mean_entropy` (nats, over the steps where it is finite; None when there is none); `latent_steps`;
            `latent_share` of the steps (0..1); `switches`: changes between discrete and latent mode in either
            direction, as recorded in `switched`, or counted from `mode` when the method did not record it.
        """
        entropy = self["entropy"]
        known = entropy[np.isfinite(entropy)]
        latent = self["mode"] == "latent"
        if "switched" in self.columns:
            switches = sum(bool(value) for value in self["switched"].tolist())
        else:
            row = self["row"]
            switches = int(np.count_nonzero((latent[1:] != latent[:-1]) & (row[1:] == row[:-1])))
        return {
            "steps": len(self),
            "mean_entropy": float(known.mean()) if len(known) else None,
            "latent_steps": int(np.count_nonzero(latent)),
            "latent_share": float(np.mean(latent)) if len(self) else 0.0,
            "switches": switches,
        }

    # ------------------------------------------------------------------------------------------------ as data

    def to_arrow(self) -> pa.Table:
        """The table itself (Arrow tables are immutable, so nothing is copied)."""
        return self._table

    def to_pandas(self) -> pandas.DataFrame:
        """A pandas DataFrame with one record per step.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Trace.to_pandas needs pandas: run `pip install pandas`.", name="pandas"
            ) from error
        return self._table.to_pandas()

    # ----------------------------------------------------------------------------------------------- as a file

    def to_json(self) -> str:
        """Strictly valid JSON: format, version, column types, and the records.

        Null is a missing value; NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity".
        """
        return trace_files.to_json(self._table)

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is not a trace, or one of a newer format version.
        """
        table = trace_files.from_json(text)
        try:
            return cls(table)
        except ValueError as error:
            raise ValueError(f"Not a readable szilard trace: {type(error).__name__}: {error}.") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the trace to a `.json` or `.parquet` file, atomically: the file is complete or it is not there.

        Returns:
            The path written.

        Raises:
            ValueError: another suffix.
        """
        return trace_files.save(self._table, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a trace that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: another suffix, or a file that is not a complete trace.
        """
        table = trace_files.load(Path(path))
        try:
            return cls(table)
        except ValueError as error:
            raise trace_files.unreadable(Path(path), error) from error

    # ----------------------------------------------------------------------------------------------- as a picture

    def to_ansi(self, *, width: int | None = None, color: bool = True, max_entropy: float | None = None) -> str:
        """The text coloured by entropy for a terminal; see `szilard.decoding.heatmap.to_ansi`."""
        from szilard.decoding import heatmap

        return heatmap.to_ansi(self, width=width, color=color, max_entropy=max_entropy)

    def to_svg(self, *, title: str = "", columns: int = 96, max_entropy: float | None = None) -> str:
        """The text coloured by entropy, under the curve of entropies; see `szilard.decoding.trace_svg.to_svg`."""
        from szilard.decoding import trace_svg

        return trace_svg.to_svg(self, title=title, columns=columns, max_entropy=max_entropy)

    def to_html(
        self,
        *,
        title: str = "Trace",
        prompt: str = "",
        method: str = "",
        facts: Mapping[str, str | int | float] | None = None,
    ) -> str:
        """A self-contained HTML page of this trace; `szilard.decoding.page.render_page` compares several."""
        from szilard.decoding import page

        if facts is None:
            facts = {name.replace("_", " "): value for name, value in self.summary().items() if value is not None}
        run = page.Run(title=method or title, prompt=prompt, trace=self, facts=facts)
        return page.render_page([run], title=title)


def entropy_maximum(*traces: Trace) -> float:
    """The entropy (nats) at the hot end of the scale: the largest finite one of all traces, but at least 1 nat.

    The floor keeps a run that is certain throughout from looking hot.
    """
    finite = [trace["entropy"][np.isfinite(trace["entropy"])] for trace in traces]
    return max([_LEAST_MAXIMUM, *(float(values.max()) for values in finite if len(values))])
