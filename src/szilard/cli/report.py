"""`szilard report`: the results of `szilard evaluate` as a table."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import note


def report_command(
    folder: Annotated[Path, typer.Argument(help="The folder that `szilard evaluate` wrote.")],
    baseline: Annotated[str, typer.Option("--baseline", help="Label of the method to compare with.")] = "greedy",
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write the table as CSV.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a self-contained page: pictures, table, changed items.")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Score, interval, difference from the baseline and cost of every method."""
    from szilard.evaluation.page import to_html
    from szilard.evaluation.report import summarise, to_csv
    from szilard.evaluation.store import ResultStore

    if not folder.is_dir():
        raise ValueError(f"there is no results folder {str(folder)!r}.")
    o.check_writable(csv_file)
    o.check_writable(html)
    if html is not None and csv_file is not None and html.resolve() == csv_file.resolve():
        raise ValueError(f"--html and --csv name the same file, {str(html)!r}.")
    store = ResultStore(folder)
    results = store.table()
    _print(results, folder, baseline, as_json)
    if csv_file is not None:
        o.write_text(csv_file, to_csv(summarise(results, baseline=baseline)))
        note(f"table written to {csv_file}")
    if html is not None:
        beside = Path(os.path.relpath(folder.resolve(), html.resolve().parent)).as_posix()
        o.write_text(html, to_html(results, baseline=baseline, folder=beside))
        note(f"page written to {html}")


def show(store: Any, baseline: str, as_json: bool) -> None:
    """Print the summary of a store."""
    _print(store.table(), store.folder, baseline, as_json)


def _print(results: Any, folder: Path, baseline: str, as_json: bool) -> None:
    from szilard.evaluation.drafting import summarise_drafting
    from szilard.evaluation.report import summarise

    records = summarise(results, baseline=baseline)
    drafting = summarise_drafting(results, baseline=baseline)
    if not records:
        raise ValueError(f"{str(folder)!r} holds no results yet.")
    labels = dict.fromkeys(record["method"] for record in records)
    if baseline not in labels:
        note(f"no results of the baseline {baseline!r} to compare with; there are {', '.join(labels)}.")
    if as_json:
        print(json.dumps([_plain(record) | _drafting_of(record, drafting) for record in records]))
        return
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width of its own
    for task, model in dict.fromkeys((record["task"], record["model"]) for record in records):
        table = Table(title=escape(f"{task}, {model}"), title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        table.caption = f"diff: points against {escape(baseline)}; * on the Pareto front of score against FLOPs"
        for name in ("method", "n", "score", "95 %", "diff", "won/lost", "p", "tokens", "forwards", "TFLOP", "tok/s"):
            table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
        for r in records:
            if (r["task"], r["model"]) != (task, model):
                continue
            compared = r["method"] != baseline and not math.isnan(r["difference"])
            table.add_row(
                escape(r["method"]) + (" *" if r["pareto"] else ""),
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
        console.print(table)
        drafted = [d for d in drafting if (d["task"], d["model"]) == (task, model)]
        if drafted:
            console.print(_drafting_table(drafted, baseline))


def _drafting_table(records: list[dict[str, Any]], baseline: str) -> Table:
    from szilard.evaluation.drafting import POSITIONS

    table = Table(title="drafting", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.caption = f"at k: steps that kept k drafts or more; speed: tokens/s over those of {escape(baseline)}"
    places = [f"at {place}" for place in range(1, POSITIONS + 1)]
    for name in ("method", "items", "n", "tokens/pass", "read/pass", *places, "speed"):
        table.add_column(name, justify="left" if name in ("method", "items") else "right", no_wrap=True)
    for r in records:
        positions = [f"{share:.0%}" for share in r["by_position"]] or [""] * POSITIONS
        speed = "" if r["speed_up"] is None else f"{r['speed_up']:.2f}x"
        figures = (f"{r['tokens_per_pass']:.2f}", f"{r['verified']:.1f}", *positions, speed)
        table.add_row(escape(r["method"]), escape(r["kind"]), str(r["items"]), *figures)
    return table


def _drafting_of(record: dict[str, Any], drafting: list[dict[str, Any]]) -> dict[str, Any]:
    """What is told of this record's drafts, by kind of item."""
    names = ("task", "model", "method")
    own = [d for d in drafting if all(d[name] == record[name] for name in names)]
    return {"drafting": [{k: v for k, v in d.items() if k not in names} for d in own]} if own else {}


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """Without NaN, which JSON does not have."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}
