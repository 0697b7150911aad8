"""`szilard report`: the results of `szilard evaluate` as a table."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from szilard.cli import options as o


def report_command(
    folder: Annotated[Path, typer.Argument(help="The folder that `szilard evaluate` wrote.")],
    baseline: Annotated[str, typer.Option("--baseline", help="Label of the method to compare with.")] = "greedy",
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write the table as CSV.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Score, interval, difference from the baseline and cost of every method."""
    from szilard.evaluation.report import COLUMNS, summarise
    from szilard.evaluation.store import ResultStore

    if not folder.is_dir():
        raise ValueError(f"there is no results folder {str(folder)!r}.")
    o.check_writable(csv_file)
    store = ResultStore(folder)
    if csv_file is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(
            record | {"counters": json.dumps(record["counters"])}
            for record in summarise(store.table(), baseline=baseline)
        )
        o.write_text(csv_file, text.getvalue())
    show(store, baseline, as_json)


def show(store: Any, baseline: str, as_json: bool) -> None:
    """Print the summary of a store."""
    from szilard.evaluation.report import summarise

    records = summarise(store.table(), baseline=baseline)
    if not records:
        raise ValueError(f"{str(store.folder)!r} holds no results yet.")
    if as_json:
        print(json.dumps([_plain(record) for record in records]))
        return
    for task, model in dict.fromkeys((record["task"], record["model"]) for record in records):
        table = Table(title=f"{task}, {model}", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        table.caption = "* on the Pareto front of score against FLOPs"
        for name in ("method", "items", "score", "95 %", f"vs {baseline}", "won/lost", "p"):
            table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name == "method")
        for name in ("tokens", "forwards", "TFLOP", "tok/s"):
            table.add_column(name, justify="right")
        for r in records:
            if (r["task"], r["model"]) != (task, model):
                continue
            compared = r["method"] != baseline and not math.isnan(r["difference"])
            table.add_row(
                r["method"] + (" *" if r["pareto"] else ""),
                str(r["items"]),
                f"{r['score']:.1%}",
                f"{r['low']:.0%}-{r['high']:.0%}",
                f"{100 * r['difference']:+.1f}" if compared else "",
                f"{r['wins']}/{r['losses']}" if compared else "",
                f"{r['p_value']:.2f}" if compared else "",
                f"{r['tokens']:.0f}",
                f"{r['forwards']:.0f}",
                f"{r['tflops']:.3f}",
                f"{r['tokens_per_second']:.1f}",
            )
        Console().print(table)


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """Without NaN, which JSON does not have."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}
