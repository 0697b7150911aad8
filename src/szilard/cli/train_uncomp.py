"""`szilard train uncomp`: which heads and layers of a model use many directions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.options import check_choice, check_number


def uncomp(
    data: Annotated[
        Path, typer.Option("--data", help="Texts: .jsonl as `szilard train medusa` takes it, or .txt: paragraphs.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write the plan to (JSON).")],
    model: o.ModelOption = None,
    what: Annotated[str, typer.Option("--what", help="Entropy of which states: query, key or value.")] = "query",
    top: Annotated[
        int | None, typer.Option("--top", help="Largest eigenvalues that count; default: a quarter of the head size.")
    ] = None,
    length: Annotated[int, typer.Option("--length", help="Tokens of a piece of text.")] = 512,
    limit: Annotated[int, typer.Option("--limit", help="At most so many pieces.")] = 512,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
) -> None:
    """Measure the matrix entropy of heads and layers on texts, for `--method greedy+uncomp --set uncomp.plan=FILE`.

    Once per model, with no training: head groups and stages of any number follow from the one plan.
    """
    from szilard.analysis.text_pieces import pieces
    from szilard.attention.uncomp.plan import WHAT, calibrate_uncomp
    from szilard.training.corpus import read_corpus, read_texts

    check_choice("what", what, WHAT)
    check_number("top", top, low=1, integer=True, optional=True)
    check_number("length", length, low=2, integer=True)
    check_number("limit", limit, low=1, integer=True)
    o.check_writable(output)
    read_texts(data)  # bad data is told before the model is loaded
    loaded = load_engine(model, "transformers", device, dtype)
    if loaded.context_window is not None and length > loaded.context_window:
        raise ValueError(f"pieces of {length} tokens exceed the context window of {loaded.name}: shorten --length.")
    texts = list(pieces((text.ids for text in read_corpus(data, loaded)), length, limit=limit))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as progress:
        line = progress.add_task("texts", total=len(texts))
        plan = calibrate_uncomp(
            loaded.model,  # type: ignore[attr-defined]
            texts,
            what=what,
            top=top,
            name=Path(loaded.name).name,
            progress=lambda done: progress.update(line, completed=done),
        )
    plan.save(output)
    stages = plan.layer_stage()
    note(
        f"{plan.layers} layers of {plan.kv_heads} key-value heads on {plan.texts} texts: scores "
        f"{min(plan.layer_scores):.2f} to {max(plan.layer_scores):.2f}, {stages[-1] + 1} stage(s). Written to {output}"
    )
