"""`szilard analyze concepts` and `szilard analyze sae`: concepts in hidden states, and in an autoencoder's features."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.options import check_choice, check_number

if TYPE_CHECKING:
    from szilard.representation.concept_sae.alignment import ConceptAlignment
    from szilard.representation.concept_sae.evaluation import SaeReport
    from szilard.representation.concept_sae.pairs import ConceptPairs

_PairsOption = Annotated[
    Path | None,
    typer.Option("--pairs", help="Folder or file of word pairs: a concept per file, a pair per line, a tab between."),
]
_LayerOption = Annotated[int, typer.Option("--layer", help="Of the hidden states; -1: what the output layer reads.")]
_PenaltyOption = Annotated[str, typer.Option("--penalty", help="C of the probes, or cv: by cross-validation.")]
_SeedOption = Annotated[int, typer.Option("--seed", help="Of folds and draws.")]
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def concepts(
    model: o.ModelOption = None,
    pairs: _PairsOption = None,
    layer: _LayerOption = -1,
    penalty: _PenaltyOption = "cv",
    folds: Annotated[int, typer.Option("--folds", help="Directions and probes of other pairs; 1: of the same.")] = 2,
    null: Annotated[int, typer.Option("--null", help="Permutations of the words that show what chance gives.")] = 20,
    seed: _SeedOption = 0,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a self-contained page of the matrix.")] = None,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Compare where word pairs of a concept differ with where a probe for it points (Liu et al. 2026)."""
    from szilard.representation.concept_sae.alignment import concept_alignment
    from szilard.representation.concept_sae.states import concept_states

    strength = _penalty(penalty)
    check_number("folds", folds, low=1, integer=True)
    check_number("null", null, low=0, integer=True)
    o.check_writable(html)
    words = _read(pairs)
    if min(map(len, words.values())) < 2 * folds:
        raise ValueError(f"{folds} folds need {2 * folds} pairs of every concept: lower --folds.")
    engine = load_engine(model, "transformers", device, dtype)
    with Progress(*_COLUMNS, console=errors, transient=True) as progress:
        line = progress.add_task("concepts", total=len(words))
        found = concept_alignment(
            concept_states(engine, words, layer),
            penalty=strength,
            folds=folds,
            null_permutations=null,
            seed=seed,
            progress=lambda done: progress.update(line, completed=done),
        )
    if html is not None:
        o.write_text(html, _page(found, Path(engine.name).name, layer))
        note(f"matrix written to {html}")
    if as_json:
        print(json.dumps(found.as_dict() | {"model": engine.name, "layer": layer, "skipped": words.skipped}))
        return
    Console().print(_alignment_table(found))
    print(
        f"mean diagonal {float(found.diagonal.mean()):.3f}, mean |off-diagonal| {found.mean_off_diagonal:.3f}, "
        f"projection error {found.projection_error:.3f}"
    )


def sae(
    folder: Annotated[Path, typer.Option("--sae", help="Folder of `szilard train sae`.")],
    model: o.ModelOption = None,
    pairs: _PairsOption = None,
    layer: _LayerOption = -1,
    metric: Annotated[str, typer.Option("--metric", help="exp_pearson, as the paper, or log_pearson.")] = "exp_pearson",
    selection: Annotated[
        str, typer.Option("--selection", help="split: choose features on half of the pairs; all: as the paper.")
    ] = "split",
    code: Annotated[
        str, typer.Option("--code", help="all, or sparse: without a structured one's low-rank part.")
    ] = "all",
    either_side: Annotated[
        bool, typer.Option("--either-side", help="A feature may follow the concept's second value.")
    ] = False,
    penalty: _PenaltyOption = "cv",
    seed: _SeedOption = 0,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Grade a sparse autoencoder: does a feature follow the posterior of each concept (Liu et al. 2026)?"""
    from szilard.representation.concept_sae.evaluation import SELECTIONS, evaluate_sae
    from szilard.representation.concept_sae.feature_scores import METRICS
    from szilard.representation.concept_sae.states import concept_states

    strength = _penalty(penalty)
    check_choice("metric", metric, METRICS)
    check_choice("selection", selection, SELECTIONS)
    check_choice("code", code, ("all", "sparse"))
    words = _read(pairs)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} (--sae): train one with `szilard train sae`.")
    from szilard.representation.concept_sae.kinds import load_sae, trained_on

    with contextlib.redirect_stdout(sys.stderr):  # the hub's reader prints, and stdout may be JSON
        coder: Any = load_sae(folder)
    engine = load_engine(model, "transformers", device, dtype)
    width = int(engine.model.config.get_text_config().hidden_size)  # type: ignore[attr-defined]
    if coder.input_dim != width:
        raise ValueError(
            f"this autoencoder reads activations of width {coder.input_dim}, but {engine.name} has {width}: it was "
            "trained on another model."
        )
    known = trained_on(folder).get("layer")
    layers = int(engine.model.config.get_text_config().num_hidden_layers)  # type: ignore[attr-defined]
    if known is not None and layer % (layers + 1) != known:
        raise ValueError(f"this autoencoder was trained on layer {known}, not {layer}: give --layer {known}.")
    with Progress(*_COLUMNS, console=errors, transient=True) as progress:
        line = progress.add_task("concepts", total=len(words))
        found = evaluate_sae(
            coder,
            concept_states(engine, words, layer),
            metric=metric,
            selection=selection,
            code=code,
            either_side=either_side,
            penalty=strength,
            seed=seed,
            progress=lambda done: progress.update(line, completed=done),
        )
    if as_json:
        print(json.dumps(found.as_dict() | {"model": engine.name, "layer": layer, "skipped": words.skipped}))
        return
    Console().print(_sae_table(found))
    print(
        f"mean correlation {found.mean:.3f} (random dictionary {found.floor:.3f}), mean AUROC {found.auroc:.3f} "
        f"(probes {found.ceiling:.3f}), {found.active:.1f} of {found.dictionary_size:,} features active"
    )


def _penalty(given: str) -> str | float:
    """ "cv" or a number."""
    if given == "cv":
        return given
    try:
        value = float(given)
    except ValueError:
        raise ValueError(f"--penalty must be cv or a number, not {given!r}.") from None
    check_number("penalty", value, low=1e-12)
    return value


def _read(folder: Path | None) -> ConceptPairs:
    """The pairs; what was skipped is told on stderr."""
    from szilard.representation.concept_sae.pairs import ConceptPairs

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = ConceptPairs.packaged() if folder is None else ConceptPairs.from_files(folder)
    for warning in told:
        note(str(warning.message))
    return found


def _alignment_table(found: ConceptAlignment) -> Table:
    """A line per concept: its diagonal, what chance gives, its nearest other probe."""
    crossed = "directions and probes of other pairs" if found.folds > 1 else "directions and probes of the same pairs"
    table = Table(title=f"concepts: {crossed}; chance: the largest of the permutations", title_justify="left")
    table.add_column("concept")
    for column in ("pairs", "diagonal", "chance", "accuracy", "C", "other"):
        table.add_column(column, justify="right")
    table.add_column("largest other probe", overflow="fold")
    others = found.matrix - found.diagonal.diag()
    bound = found.null_bound
    for at, name in enumerate(found.names):
        other = ("", "")
        if len(found.names) > 1:
            place = int(others[at].abs().argmax())
            other = (f"{float(found.matrix[at, place]):+.3f}", found.names[place])
        table.add_row(
            name,
            str(found.pairs[at]),
            f"{float(found.diagonal[at]):.3f}",
            "" if bound is None else f"{float(bound[at]):.3f}",
            f"{float(found.probe_accuracy[at]):.3f}",
            f"{float(found.penalties[at]):.1e}",
            *other,
        )
    return table


def _sae_table(found: SaeReport) -> Table:
    """A line per concept: the features and how they follow it."""
    table = Table(title=f"features by {found.metric}, chosen on {found.selection}", title_justify="left")
    table.add_column("concept")
    for column in ("features", "correlation", "random", "AUROC", "of the probe"):
        table.add_column(column, justify="right")
    for score in found.concepts:
        table.add_row(
            score.name,
            ", ".join(map(str, score.features)),
            f"{score.correlation:.3f}",
            f"{score.floor:.3f}",
            f"{score.auroc:.3f}",
            f"{score.probe_auroc:.3f}",
        )
    return table


def _page(found: ConceptAlignment, model: str, layer: int) -> str:
    from html import escape

    from szilard.report_page import document, heat_map

    names = ", ".join(f"{place}: {escape(name)}" for place, name in enumerate(found.names))
    body = (
        f"<h1>Concept alignment</h1><p>{escape(model)}, layer {layer}. A row is the direction in which the pairs of a "
        f"concept differ, a column the weight of a concept's probe; a cell is their cosine. Concepts: {names}.</p>"
        f"<p>Mean diagonal {float(found.diagonal.mean()):.3f}, mean |off-diagonal| {found.mean_off_diagonal:.3f}, "
        f"projection error {found.projection_error:.3f}; {found.folds} folds.</p>"
        + heat_map(found.matrix.tolist(), rows="direction", columns="probe")
    )
    if found.null_matrix is not None:
        body += "<h2>With swapped words</h2>" + heat_map(found.null_matrix.tolist(), rows="direction", columns="probe")
    return document("concept alignment", body)
