"""`szilard train aded`: a tri-gram table from texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.decoding.method import check_number


def aded(
    data: Annotated[
        Path, typer.Option("--data", help='.jsonl with "text" or "messages" (a chat), or .txt: paragraphs.')
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
    from szilard.evaluation.tasks import read_records
    from szilard.speculative.trigram_table import TrigramTable, check_writable_table

    check_number("top-k", top_k, low=1, integer=True)
    check_number("limit", limit, low=1, integer=True, optional=True)
    if not data.is_file():
        raise ValueError(f"there is no file {str(data)!r}.")
    check_writable_table(output)
    records: list[Any]
    if data.suffix == ".txt":
        records = [{"text": part} for part in data.read_text(encoding="utf-8").split("\n\n") if part.strip()]
    else:
        records = list(read_records(data))
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not (isinstance(record.get("text"), str) or record.get("messages")):
            raise ValueError(f"{str(data)!r}, record {number}, has neither 'text' nor 'messages'.")
    if not records:
        raise ValueError(f"{str(data)!r} holds no text.")
    loaded = load_engine(model, engine, device, dtype)
    tokenizer = loaded.tokenizer
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        chosen = progress.track(records[:limit], description="texts")
        table = TrigramTable.from_ids((_ids(tokenizer, record) for record in chosen), loaded.vocab_size, top_k=top_k)
    table.save(output)
    note(f"{len(table)} bigrams with {table.entries} successors, written to {output}")


def _ids(tokenizer: Any, record: dict[str, Any]) -> list[int]:
    if isinstance(record.get("text"), str):
        return tokenizer.encode(record["text"], add_special_tokens=False)
    return list(tokenizer.apply_chat_template(record["messages"], tokenize=True, return_dict=True)["input_ids"])
