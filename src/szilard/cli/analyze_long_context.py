"""`szilard analyze long-context`: what cache and attention methods find again in a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from szilard.attention.method import AttentionMethod
from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine
from szilard.options import check_number, nearest

NONE = "none"


def long_context(
    data: Annotated[Path, typer.Option("--data", help="A .txt of running text that the contexts are made of.")],
    methods: Annotated[
        str, typer.Option("--methods", help="Cache and attention methods by commas; none: the model as it is.")
    ] = "none,snapkv",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="A hyperparameter of one method. Repeatable.", metavar="METHOD.NAME=VALUE"),
    ] = None,
    model: o.ModelOption = None,
    length: Annotated[int, typer.Option("--length", help="Tokens of a context.")] = 512,
    count: Annotated[int, typer.Option("--count", help="Items of every task.")] = 8,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Items that are read together.")] = 4,
    pairs: Annotated[int, typer.Option("--pairs", help="Pairs of words in a context of that task.")] = 16,
    new: Annotated[int, typer.Option("--new", help="Tokens of a continuation.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of the items.")] = 0,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    json_: o.JsonOption = False,
) -> None:
    """Hide a number or pairs of words in long text and ask for them under each method; and let the text go on.

    The question stands inside the prompt that is compressed, and after it; how the text goes on is in nats per token.
    """
    from szilard.evaluation.attention_quality import measure

    chosen = _chosen(methods, set_)
    for name, value in (("length", length), ("count", count), ("batch-size", batch_size), ("new", new)):
        check_number(name, value, low=1, integer=True)
    if not data.is_file():
        raise ValueError(f"there is no file {str(data)!r}: give --data a .txt of running text.")
    text = data.read_text(encoding="utf-8")
    loaded: Any = load_engine(model, "transformers", device, dtype)
    records = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        line = progress.add_task("", total=5 * len(chosen))
        for name, method in chosen.items():
            progress.update(line, description=name)
            options: dict[str, Any] = {"length": length, "count": count, "batch_size": batch_size, "seed": seed}
            for record in measure(loaded.model, loaded.tokenizer, text, method, pairs=pairs, new=new, **options):
                records.append({"method": name} | record)
                progress.advance(line)
    if json_:
        print(json.dumps(records))
        return
    table = Table("method", "task", "question", "tokens right", "answers right", "nats", "held", "read", box=None)
    for record in records:
        table.add_row(
            record["method"],
            record["task"],
            record["question"],
            f"{record['right']} of {record['tokens']}",
            f"{record['exact']} of {record['items']}",
            f"{record['nats']:.3f}",
            f"{record['kv_held_share']:.1%}",
            f"{record['kv_read_share']:.1%}",
        )
    Console().print(table)


def _chosen(names: str, assignments: list[str] | None) -> dict[str, AttentionMethod | None]:
    """Methods by name, each with its own assignments.

    Raises:
        ValueError: an unknown method or option, or an option of a method that is not among them.
    """
    chosen: dict[str, AttentionMethod | None] = {}
    rest = list(assignments or [])
    for name in dict.fromkeys(name.strip() for name in names.split(",") if name.strip()):
        if name == NONE:
            chosen[name] = None
            continue
        method, rest = o.attention_from(name, rest)
        chosen[method.slug] = method
    if not chosen:
        raise ValueError("there are no methods to measure: name some, as in --methods none,snapkv.")
    if rest:
        owner = rest[0].partition(".")[0]
        raise ValueError(f"--set {rest[0]} belongs to none of these methods{nearest(owner, chosen)}")
    return chosen
