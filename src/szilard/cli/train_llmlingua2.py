"""`szilard train llmlingua2`: a classifier that says which words of a text to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, needs, note
from szilard.cli.train_heads import ConfigOption, LimitOption, OutputOption, RestartOption, add_flags
from szilard.compression.llmlingua2.training_config import ClassifierConfig


def llmlingua2(
    output: OutputOption,
    model: Annotated[str, typer.Option("--model", "-m", help="Encoder to train on: folder or hub id.")],
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help='Records with "original" and "compressed" (.jsonl, .json, .csv, ...).'),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Or texts, which a teacher shortens first (into OUTPUT/pairs.jsonl).")
    ] = None,
    teacher: Annotated[
        str, typer.Option("--teacher", help="rule (English, no model), or a chat model: folder, hub id, .gguf.")
    ] = "rule",
    teacher_batch: Annotated[int, typer.Option("--teacher-batch", help="Chunks that a model shortens at once.")] = 8,
    chunk: Annotated[int, typer.Option("--chunk", help="Tokens that a teacher sees at once, at most.")] = 512,
    config: ConfigOption = None,
    limit: LimitOption = None,
    restart: RestartOption = False,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    **settings: Any,
) -> None:
    """Train LLMLingua-2's classifier: annotate pairs, leave the worst out, fit.

    The output is a token classifier of transformers, for `szilard compress --set checkpoint=OUTPUT`. A stopped run goes
    on when the command is given again, the teacher's part too.
    """
    needs("accelerate")
    from transformers.utils import logging

    from szilard.compression.llmlingua2.annotation import lemmas_by_name
    from szilard.compression.llmlingua2.distillation import chunks, distill, plain_texts, read_pairs
    from szilard.compression.llmlingua2.training import load_tokenizer, train_classifier
    from szilard.training.config import read_config
    from szilard.whole_folder import check_folder

    chosen = read_config(ClassifierConfig, config, settings)
    if (pairs is None) == (data is None):
        raise ValueError("give either --pairs (originals with compressed texts) or --data (texts for a teacher).")
    for name, value in (("--teacher-batch", teacher_batch), ("--chunk", chunk), ("--limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
    check_folder(output)
    lemmas_by_name(chosen.lemmas)  # a pipeline that is missing is told before the teacher begins
    if data is not None:
        texts = plain_texts(data)[:limit]
        tokenizer = load_tokenizer(model)  # a bad name is told before the teacher begins
        if teacher == "rule":
            from szilard.compression.llmlingua2.rule_teacher import RuleTeacher

            chosen_teacher: Any = RuleTeacher(texts)
        else:
            from szilard.compression.llmlingua2.distillation import EngineTeacher

            chosen_teacher = EngineTeacher(load_engine(teacher, engine, device, dtype), seed=chosen.seed)
            tokenizer = chosen_teacher.engine.tokenizer
        pieces = [
            piece
            for text in texts
            for piece in chunks(text, lambda part: len(tokenizer.encode(part, add_special_tokens=False)), chunk)
        ]
        pairs = output / "pairs.jsonl"
        if restart:
            pairs.unlink(missing_ok=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as bar:
            line = bar.add_task("teacher", total=len(pieces))
            distill(
                chosen_teacher,
                pieces,
                pairs,
                batch_size=teacher_batch,
                progress=lambda done, total: bar.update(line, completed=done, total=total),
            )
    assert pairs is not None
    found = read_pairs(pairs)[: limit if data is None else None]
    logging.disable_progress_bar()
    metrics = train_classifier(found, model, chosen, output, restart=restart, device=device)
    note(
        f"{metrics['left']} of {metrics['pairs']} pairs, {metrics['kept_share']:.1%} of the words kept; "
        f"held-out pairs: accuracy {metrics['accuracy']:.3f}, f1 {metrics['f1']:.3f}; written to {output}"
    )


add_flags(llmlingua2, ClassifierConfig)
