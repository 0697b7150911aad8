"""`szilard analyze attention-entropy`: over how many tokens each head of a model looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.options import check_number

if TYPE_CHECKING:
    from szilard.sessions.head_entropies import HeadEntropyReport

_BAR = 14  # cells of a bar


def attention_entropy(
    data: Annotated[
        Path, typer.Option("--data", help="Texts: .jsonl as `szilard train medusa` takes it, or .txt: paragraphs.")
    ],
    model: o.ModelOption = None,
    length: Annotated[
        int | None, typer.Option("--length", help="Tokens of a piece of text; default: 512, or what the model reads.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many pieces.")] = 16,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a self-contained page of the heads.")] = None,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Measure the entropy of every attention head, and find heads that look everywhere or at one token."""
    from szilard.analysis.attention_entropy import head_entropy_report
    from szilard.analysis.attention_entropy_page import to_html, verdict
    from szilard.analysis.text_pieces import pieces
    from szilard.training.corpus import read_corpus, read_texts

    check_number("length", length, low=2, integer=True, optional=True)
    check_number("limit", limit, low=1, integer=True)
    o.check_writable(html)
    read_texts(data)  # bad data is told before the model is loaded
    loaded = load_engine(model, "transformers", device, dtype)
    if length is None:
        length = min(512, loaded.context_window or 512)
    if loaded.context_window is not None and length > loaded.context_window:
        raise ValueError(f"pieces of {length} tokens exceed the context window of {loaded.name}: shorten --length.")
    texts = list(pieces((text.ids for text in read_corpus(data, loaded)), length, limit=limit))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        line = progress.add_task("texts", total=len(texts))
        report = head_entropy_report(
            loaded.model,  # type: ignore[attr-defined]
            texts,
            name=Path(loaded.name).name,
            progress=lambda done: progress.update(line, completed=done),
        )
    if html is not None:
        o.write_text(html, to_html(report))
        note(f"heads written to {html}")
    if as_json:
        print(json.dumps(report.as_dict()))
        return
    Console().print(_table(report))
    print(verdict(report))


def _table(report: HeadEntropyReport) -> Table:
    """A line per layer: its mean, as a bar, what a uniform head has, and the range over its heads."""
    quarters = " / ".join(f"{share:.0%}" for share in report.quarters)
    title = f"entropy of attention, nats, {report.texts} texts; heads by quarters of {report.max:.3f}: {quarters}"
    table = Table(title=title, title_justify="left")
    for name in ("layer", "mean", "", "uniform", "lowest head", "highest head"):
        table.add_column(name, justify="left" if name == "" else "right")
    most = max(report.uniform) or 1.0
    for index, (mean, uniform, heads) in enumerate(zip(report.layers, report.uniform, report.heads, strict=True)):
        low, high = min(range(len(heads)), key=heads.__getitem__), max(range(len(heads)), key=heads.__getitem__)
        table.add_row(
            str(index),
            f"{mean:.3f}",
            "█" * round(_BAR * mean / most),
            f"{uniform:.3f}",
            f"{heads[low]:.3f} ({low})",
            f"{heads[high]:.3f} ({high})",
        )
    return table
