"""`szilard analyze infomec`: how modular, explicit and compact a representation is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import note

if TYPE_CHECKING:
    from szilard.information.infomec import InfoMEC


def infomec(
    latents: Annotated[Path, typer.Option("--latents", help="[samples, latents]: .npy, or .csv without a header.")],
    sources: Annotated[Path, typer.Option("--sources", help="[samples, factors] of the same samples; equal is alike.")],
    discrete: Annotated[
        bool, typer.Option("--discrete", help="Latents are labels, such as a codebook's indices.")
    ] = False,
    neighbors: Annotated[int, typer.Option("--neighbors", help="Of the estimate for continuous latents.")] = 10,
    bins: Annotated[
        int | None, typer.Option("--bins", help="Cut continuous latents into so many bins instead.")
    ] = None,
    active_fraction: Annotated[
        float,
        typer.Option("--active-fraction", help="A continuous latent counts above this share of the largest range."),
    ] = 0.05,
    names: Annotated[str | None, typer.Option("--names", help="Of the factors, with commas.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a self-contained page with the matrix.")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Grade latents against the factors that made the data: InfoM, InfoE, InfoC (Hsu et al. 2023)."""
    from szilard.information.infomec import infomec as measure

    o.check_writable(html)
    s, z = _read("--sources", sources), _read("--latents", latents)
    labels = [part.strip() for part in names.split(",")] if names else [str(place) for place in range(s.shape[-1])]
    if len(labels) != s.shape[-1]:
        raise ValueError(f"--names has {len(labels)} names for {s.shape[-1]} factors.")
    found = measure(s, z, discrete=discrete, neighbors=neighbors, active_fraction=active_fraction, bins=bins)
    if html is not None:
        o.write_text(html, _page(found, labels))
        note(f"matrix written to {html}")
    if as_json:
        print(json.dumps(found.as_dict() | {"names": labels}))
        return
    Console().print(_table(found, labels))
    print(
        f"InfoM {found.modularity:.3f}  InfoE {found.explicitness:.3f}  InfoC {found.compactness:.3f}   "
        f"{int(found.active.sum())} of {len(found.active)} latents active, {found.samples:,} samples"
    )
    if found.samples < 10 * found.columns:
        print(
            f"InfoE is high by chance here: {found.samples:,} samples for {found.columns:,} columns of the classifier"
        )


def _read(name: str, file: Path) -> Any:
    import numpy as np

    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r} ({name}).")
    try:
        is_text = file.suffix == ".csv"
        table = np.loadtxt(file, delimiter=",", ndmin=2) if is_text else np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{str(file)!r} ({name}) is no table of numbers: give .npy, or .csv without a header."
        ) from error
    if not isinstance(table, np.ndarray) or table.ndim != 2:
        raise ValueError(f"{str(file)!r} ({name}) must hold one array [samples, columns].")
    return table


def _table(found: InfoMEC, names: list[str]) -> Table:
    """A line per factor: what the classifier reads, and the latents that tell most."""
    table = Table(title="what each factor's latents tell (share of its entropy)", title_justify="left")
    table.add_column("factor")
    for column in ("read linearly", "best latent", "its share", "second"):
        table.add_column(column, justify="right")
    for name, row, explicit in zip(names, found.nmi, found.explicitness_of, strict=True):
        order = row.argsort()[::-1]
        second = f"{row[order[1]]:.3f} ({order[1]})" if len(order) > 1 else ""
        table.add_row(name, f"{explicit:.3f}", str(order[0]), f"{row[order[0]]:.3f}", second)
    return table


def _page(found: InfoMEC, names: list[str]) -> str:
    from html import escape

    from szilard.report_page import document

    rows = ", ".join(f"{place}: {escape(name)}" for place, name in enumerate(names))
    idle = ", ".join(str(place) for place, active in enumerate(found.active) if not active) or "none"
    return document(
        "InfoMEC",
        f"<h1>InfoMEC</h1><p>modularity {found.modularity:.3f}, explicitness {found.explicitness:.3f}, compactness "
        f"{found.compactness:.3f}; {found.samples:,} samples. Rows are factors ({rows}), columns latents; a cell is "
        f"the share of the factor's entropy that the latent tells. Latents that do not move: {idle}.</p>"
        + found.heatmap(),
    )
