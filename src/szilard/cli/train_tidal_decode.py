"""`szilard train tidal-decode`: the layers of a model that should select anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.options import check_number


def tidal_decode(
    data: Annotated[Path, typer.Option("--data", help="A text file: numbers are hidden in stretches of it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write the plan to (JSON).")],
    model: o.ModelOption = None,
    layers: Annotated[int, typer.Option("--layers", help="How many layers select anew.")] = 1,
    budget: Annotated[
        int, typer.Option("--budget", help="Tokens that a sparse layer reads; small ones tell more.")
    ] = 64,
    dense_layers: Annotated[int, typer.Option("--dense-layers", help="First layers that read everything.")] = 2,
    per: Annotated[str, typer.Option("--per", help="Who selects: query (head), kv (head) or layer.")] = "query",
    sinks: Annotated[int, typer.Option("--sinks", help="First tokens that are always read.")] = 0,
    recent: Annotated[int, typer.Option("--recent", help="Last tokens that are always read.")] = 0,
    prompts: Annotated[int, typer.Option("--prompts", help="Hidden numbers.")] = 8,
    length: Annotated[int, typer.Option("--length", help="Tokens of the text around a number.")] = 1024,
    seed: Annotated[int, typer.Option("--seed", help="Of the stretches and the numbers.")] = 0,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Find the layers that should select anew, for `TidalDecode.from_file(FILE)`.

    Seven-digit numbers are hidden in a text, and asked for under every layer; the layer under which the model gives
    them the highest log-probability is taken. A run that was stopped goes on where it was: scores are kept in
    FILE.scores.jsonl.
    """
    from szilard.attention.tidal_calibration import calibrate, read_haystack
    from szilard.attention.tidal_decode import TidalDecode
    from szilard.whole_folder import write_whole

    check_number("layers", layers, low=1, integer=True)
    check_number("prompts", prompts, low=1, integer=True)
    check_number("length", length, low=32, integer=True)
    check_number("seed", seed, low=0, integer=True)
    settings: dict[str, Any] = {"budget": budget, "dense_layers": dense_layers, "per": per, "sinks": sinks}
    method = TidalDecode(**settings, recent=recent, reselect_layers=())
    if budget >= length:
        raise ValueError(f"budget must be below length={length}, not {budget}: otherwise every token is read.")
    text = read_haystack(data, length=length)
    o.check_writable(output)
    loaded: Any = load_engine(model, "transformers", device, dtype)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        line = progress.add_task("scores", total=None)
        plan = calibrate(
            loaded.model,
            loaded.tokenizer,
            text,
            method=method,
            layers=layers,
            prompts=prompts,
            length=length,
            seed=seed,
            journal=output.with_name(f"{output.name}.scores.jsonl"),
            progress=lambda done, total: progress.update(line, completed=done, total=total),
        )
    plan["model"] = loaded.name
    write_whole(output, json.dumps(plan, indent=2) + "\n")
    if as_json:
        print(output.read_text(encoding="utf-8"), end="")
        return
    found = ", ".join(map(str, plan["settings"]["reselect_layers"]))
    note(
        f"layers that select anew: {found}. Log-probability of the hidden numbers at a budget of {budget}: "
        f"{plan['score']:.3f} nats per token; {plan['full']:.3f} with full attention, {plan['without']:.3f} with no "
        f"such layer. Written to {output}"
    )
