"""`szilard analyze markov`: what a language model's states and head hold, as a chain of channels."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note

if TYPE_CHECKING:
    from szilard.analysis.markov_lm.report import MarkovReport


def markov(
    text: Annotated[
        Path, typer.Option("--text", help="Texts: .jsonl as `szilard train medusa` takes it, or .txt: paragraphs.")
    ],
    model: o.ModelOption = None,
    engine: o.EngineOption = "auto",
    horizon: Annotated[int, typer.Option("--horizon", help="K: how far ahead: tokens 1 to K - 1 beyond the next.")] = 4,
    layers: Annotated[
        str, typer.Option("--layers", help="Whose states, with commas; -1 is what the head reads.")
    ] = "-1",
    kernel: Annotated[str, typer.Option("--kernel", help="Of the similarity of predictions.")] = "prototype",
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="A model of the same vocabulary that says what is alike.")
    ] = None,
    given: Annotated[
        str, typer.Option("--given", help="What a drafter sees of the tokens between: all, next (one), or nothing.")
    ] = "all",
    probes: Annotated[
        bool, typer.Option("--probes/--no-probes", help="The surplus; trains probes, for minutes.")
    ] = True,
    geometry: Annotated[bool, typer.Option("--geometry/--no-geometry", help="Geometry and alignment.")] = True,
    untrained: Annotated[bool, typer.Option("--untrained", help="Also align untrained weights, as a floor.")] = False,
    window: Annotated[int, typer.Option("--window", help="Tokens of a stretch of text.")] = 512,
    positions: Annotated[int, typer.Option("--positions", help="Positions that probes learn from, at most.")] = 20_000,
    contexts: Annotated[int, typer.Option("--contexts", help="Contexts that are compared, at most.")] = 1_000,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many texts.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Keep the probes' checkpoints here.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of draws and probes.")] = 0,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a self-contained page.")] = None,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Measure entropy and calibration, the surplus of hidden states, predictive geometry and alignment."""
    from szilard.analysis.markov_lm import markov_report
    from szilard.training.corpus import read_corpus, read_texts
    from szilard.whole_folder import check_folder

    o.check_writable(html)
    try:
        numbers = [int(part) for part in layers.split(",")]
    except ValueError:
        raise ValueError(f"--layers must be whole numbers with commas between them, not {layers!r}.") from None
    if probes and importlib.util.find_spec("accelerate") is None:
        raise ValueError("probes need the package accelerate: pip install 'szilard[train]', or set --no-probes.")
    if output is not None:
        check_folder(output)
    read_texts(text)  # bad data is told before the model is loaded
    loaded = load_engine(model, engine, device, dtype)
    judge = "self" if teacher is None else load_engine(teacher, "transformers", device, dtype)
    texts = [example.ids for example in read_corpus(text, loaded, limit=limit)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        line = bar.add_task("reading", total=None)
        report = markov_report(
            loaded,
            texts,
            horizon=horizon,
            layers=numbers,
            kernel=kernel,
            similarity_source=judge,
            given=given,
            probes=probes,
            geometry=geometry,
            untrained=untrained,
            window=window,
            positions=positions,
            contexts=contexts,
            folder=output,
            seed=seed,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    if html is not None:
        o.write_text(html, report.to_html())
        note(f"page written to {html}")
    if as_json:
        print(report.to_json())
        return
    _show(report)


def _show(report: MarkovReport) -> None:
    console = Console()
    title = f"{report.model}: {report.tokens:,} tokens of {report.texts} texts, nats"
    table = Table(title=title, title_justify="left")
    for name in ("", "mean", "95 % over texts"):
        table.add_column(name)
    rows = {f"entropy ({name})": one for name, one in report.entropy.items()}
    rows |= {"loss": report.loss, "loss minus entropy": report.calibration_gap}
    for name, one in rows.items():
        table.add_row(name, str(one), f"{one.low:.3f} to {one.high:.3f}")
    console.print(table)
    if report.surplus:
        table = Table(title="tokens beyond the next one", title_justify="left")
        for name in ("layer", "ahead", "without state", "with it", "model", "surplus", "recovered", "top-1 agreement"):
            table.add_column(name)
        for row in report.surplus:
            numbers = (row.without, row.with_state, row.model, row.surplus)
            told = [
                str(row.layer),
                str(row.offset),
                *map(str, numbers),
                "" if row.recovered is None else f"{row.recovered:.2f}",
                str(row.top1_agreement),
            ]
            table.add_row(*told)
        console.print(table)
        print(f"useful draft: {report.draft_length} tokens (V-information of the probes, no bound)")
    if report.geometry is not None:
        numbers_told = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in report.geometry.items())
        print(f"pullback metric: {numbers_told}")
    for aligned in report.alignment:
        floors = [] if aligned.null is None else [f"permuted {aligned.null[0]:.3f}"]
        floors += [] if aligned.untrained is None else [f"untrained {aligned.untrained:.3f}"]
        floor = f" ({', '.join(floors)})" if floors else ""
        print(
            f"alignment of layer {aligned.layer} ({report.kernel}, {report.source}): rho {aligned.rho:.3f}"
            f"{floor}, CKA {aligned.cka:.3f}"
        )
