"""`szilard train caad`: the grounding space of a model from questions with verified answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note


def caad(
    examples: Annotated[
        Path, typer.Option("--examples", help="Questions and verified answers: .csv (TruthfulQA's too) or .jsonl.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the grounding space to.")],
    model: o.ModelOption = None,
    encoder: Annotated[
        str, typer.Option("--encoder", help="Sentence encoder: folder or hub id.")
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    context: Annotated[int, typer.Option("--context", help="Tokens of a context; 0: the whole text.")] = 8,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many questions.")] = None,
    top_k_logits: Annotated[
        int | None, typer.Option("--top-k-logits", help="Store only the largest K logits of a row; default: all.")
    ] = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
) -> None:
    """Replay verified answers through a model and store its logits, for `--method caad --set space=FOLDER`."""
    from transformers.utils import logging

    from szilard.decoding.grounding import GroundingSpace
    from szilard.decoding.grounding_examples import read_examples
    from szilard.decoding.grounding_files import check_writable_space
    from szilard.decoding.sentence_encoder import load_encoder

    if context < 0:
        raise ValueError(f"--context must be at least 0 (the whole text), not {context}.")
    questions = read_examples(examples, limit=limit)
    check_writable_space(output)
    logging.disable_progress_bar()
    sentences = load_encoder(encoder)
    loaded = load_engine(model, engine, device, dtype)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("questions", total=len(questions))
        space = GroundingSpace.build(
            loaded,
            examples=questions,
            encoder=sentences,
            context=context or None,
            top_k_logits=top_k_logits,
            progress=lambda done, _: progress.update(task, completed=done),
        )
    space.save(output)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    note(f"{len(questions)} questions, {len(space)} entries, {size / 2**20:.0f} MiB written to {output}")
