"""Texts for a measurement: read, checked and cut into pieces for a model, and the bar that counts them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szilard.cli.loading import errors, load_engine
from szilard.options import check_number

TextsOption = Annotated[
    Path, typer.Option("--data", help="Texts: .jsonl as `szilard train medusa` takes it, or .txt: paragraphs.")
]


def model_and_pieces(
    data: Path, model: str | None, length: int | None, limit: int, device: str | None, dtype: str
) -> tuple[Any, list[Any]]:
    """The engine, and at most `limit` pieces of `length` tokens each; None: 512, or what the model reads.

    Raises:
        ValueError: bad data, which is told before the model is loaded, or pieces longer than the context window.
    """
    from szilard.analysis.text_pieces import pieces
    from szilard.training.corpus import read_corpus, read_texts

    check_number("length", length, low=2, integer=True, optional=True)
    check_number("limit", limit, low=1, integer=True)
    read_texts(data)
    loaded = load_engine(model, "transformers", device, dtype)
    window = loaded.context_window
    if length is None:
        length = min(512, window or 512)
    if window is not None and length > window:
        raise ValueError(f"pieces of {length} tokens exceed the context window of {loaded.name}: shorten --length.")
    return loaded, list(pieces((text.ids for text in read_corpus(data, loaded)), length, limit=limit))


@contextlib.contextmanager
def counted_texts(texts: list[Any]) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; call what it gives with the number of texts done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as progress:
        line = progress.add_task("texts", total=len(texts))
        yield lambda done: progress.update(line, completed=done)
