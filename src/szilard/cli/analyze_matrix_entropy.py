"""`szilard analyze matrix-entropy`: how many directions a model's layers and heads use on texts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import note
from szilard.cli.texts import TextsOption, counted_texts, model_and_pieces
from szilard.options import check_choice, check_number

_BAR = 14  # cells of a bar


def matrix_entropy(
    data: TextsOption,
    model: o.ModelOption = None,
    what: Annotated[str, typer.Option("--what", help="Of which states: query, key, value or hidden.")] = "query",
    top: Annotated[int | None, typer.Option("--top", help="Largest eigenvalues that count; default: all.")] = None,
    length: Annotated[int, typer.Option("--length", help="Tokens of a piece of text.")] = 512,
    limit: Annotated[int, typer.Option("--limit", help="At most so many pieces.")] = 16,
    nats: Annotated[bool, typer.Option("--nats", help="In nats instead of shares of log(dimensions).")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a self-contained page of the curves.")] = None,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Measure the matrix entropy of queries, keys, values or hidden states over layers and heads."""
    from szilard.analysis.entropy_page import to_html
    from szilard.sessions.matrix_entropy_profile import WHAT, EntropyReport, entropy_report

    check_choice("what", what, WHAT)
    check_number("top", top, low=1, integer=True, optional=True)
    o.check_writable(html)
    loaded, texts = model_and_pieces(data, model, length, limit, device, dtype)
    with counted_texts(texts) as progress:
        report: EntropyReport = entropy_report(
            loaded.model,
            texts,
            what=what,
            top=top,
            nats=nats,
            name=Path(loaded.name).name,
            progress=progress,
        )
    if html is not None:
        o.write_text(html, to_html(report))
        note(f"curves written to {html}")
    if as_json:
        print(json.dumps(asdict(report)))
        return
    Console().print(_table(report))


def _table(report: object) -> Table:
    """A line per layer: its entropy, as a bar, and the range over its heads."""
    from szilard.sessions.matrix_entropy_profile import EntropyReport

    assert isinstance(report, EntropyReport)
    unit = "nats" if report.unit == "nats" else "share of log(dimensions)"
    of = "all" if report.top is None else f"the {report.top} largest"
    title = f"matrix entropy of {report.what}, {unit}, {of} eigenvalues, {report.texts} texts"
    table = Table(title=title, title_justify="left")
    table.add_column("layer", justify="right")
    table.add_column("entropy", justify="right")
    table.add_column("")
    single = len(report.heads[0]) == 1
    for name in () if single else ("lowest head", "mean head", "highest head"):
        table.add_column(name, justify="right")
    most = max(report.layers) or 1.0
    for index, (entropy, heads) in enumerate(zip(report.layers, report.heads, strict=True)):
        low, high = min(range(len(heads)), key=heads.__getitem__), max(range(len(heads)), key=heads.__getitem__)
        row = [str(index), f"{entropy:.3f}", "█" * round(_BAR * entropy / most)]
        if not single:
            mean = sum(heads) / len(heads)
            row += [f"{heads[low]:.3f} ({low})", f"{mean:.3f}", f"{heads[high]:.3f} ({high})"]
        table.add_row(*row)
    return table
