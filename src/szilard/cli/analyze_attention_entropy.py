"""`szilard analyze attention-entropy`: over how many tokens each head of a model looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import note
from szilard.cli.texts import TextsOption, counted_texts, model_and_pieces

if TYPE_CHECKING:
    from szilard.sessions.head_entropies import HeadEntropyReport

_BAR = 14  # cells of a bar


def attention_entropy(
    data: TextsOption,
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

    o.check_writable(html)
    loaded, texts = model_and_pieces(data, model, length, limit, device, dtype)
    with counted_texts(texts) as progress:
        report = head_entropy_report(
            loaded.model,
            texts,
            name=Path(loaded.name).name,
            progress=progress,
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
