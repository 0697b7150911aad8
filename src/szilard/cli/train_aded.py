"""`szilard train aded`: a tri-gram table from texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.options import check_number


def aded(
    data: Annotated[
        Path, typer.Option("--data", help="Texts: .jsonl as `szilard train medusa` takes it, or .txt: paragraphs.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the table to.")],
    model: o.ModelOption = None,
    top_k: Annotated[int, typer.Option("--top-k", help="Successors kept per bigram.")] = 12,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many texts.")] = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
) -> None:
    """Count tri-grams of texts in a model's tokens, for `--method aded --set table=FOLDER`.

    The closer the texts are to what the model will write, the more drafts are accepted: take answers of the model
    itself, chats in its template.
    """
    from szilard.engines.pair import spelling
    from szilard.speculative.trigram_table import TrigramTable, check_writable_table
    from szilard.training.corpus import read_corpus, read_texts

    check_number("top-k", top_k, low=1, integer=True)
    check_number("limit", limit, low=1, integer=True, optional=True)
    check_writable_table(output)
    read_texts(data)  # bad data is told before the model is loaded
    loaded = load_engine(model, engine, device, dtype)
    known = spelling(partial(loaded.tokenizer.encode, add_special_tokens=False))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        texts = progress.track(read_corpus(data, loaded, limit=limit), description="texts")
        table = TrigramTable.from_ids((text.ids for text in texts), loaded.vocab_size, top_k=top_k, spelling=known)
    table.save(output)
    note(f"{len(table)} bigrams with {table.entries} successors, written to {output}")
