"""`szilard train adadec`: the entropy threshold of a model from reference solutions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note


def adadec(
    examples: Annotated[
        Path, typer.Option("--examples", help='JSON lines with "prompt" and "solution" (or MBPP\'s "text" and "code").')
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write the threshold to (JSON).")],
    model: o.ModelOption = None,
    first: Annotated[int | None, typer.Option("--from-task", help="Only tasks with at least this task_id.")] = None,
    last: Annotated[int | None, typer.Option("--to-task", help="Only tasks with at most this task_id.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many examples.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompts through the chat template.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the split and the undersampling.")] = 42,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Score reference solutions with a model and learn AdaDec's threshold, for `--method adadec --set threshold=FILE`.

    Use examples that you will not evaluate on: of MBPP the training split, --from-task 601 --to-task 974.
    """
    from szilard.decoding.adadec_threshold import fit_threshold

    pairs = read_pairs(examples, first, last)[:limit]
    if not pairs:
        raise ValueError(f"{str(examples)!r} holds no example in that range.")
    o.check_writable(output)
    loaded = load_engine(model, engine, device, dtype)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("examples", total=len(pairs))
        fit = fit_threshold(
            loaded, pairs, seed=seed, raw=not chat, progress=lambda done: progress.update(task, completed=done)
        )
    fit.save(output)
    if as_json:
        print(output.read_text(encoding="utf-8"), end="")
        return
    note(
        f"threshold {fit.threshold:.4f} nats from {fit.positions} positions: the true token is first at "
        f"{fit.above['first_below']:.1%} of those below it and {fit.above['first_above']:.1%} of those above "
        f"({fit.above['share']:.1%} of all; there among the first three at {fit.above['first_three_above']:.1%}). "
        f"Spearman(entropy, rank) {fit.spearman:.2f}. Written to {output}"
    )


def read_pairs(path: Path, first: int | None = None, last: int | None = None) -> list[tuple[str, str]]:
    """(prompt, solution) of every line whose task_id is in the range.

    Raises:
        ValueError: no such file, or a line without the fields.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "text" in record and "code" in record:
                prompt = '"""\n' + "\n".join([record["text"], *record.get("test_list", [])]) + '\n"""\n'
                pair = prompt, record["code"].replace("\r\n", "\n")
            else:
                pair = record["prompt"], record.get("solution", record.get("canonical_solution"))
            task = record.get("task_id")
            if not all(isinstance(part, str) and part for part in pair):
                raise KeyError("solution")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{str(path)!r}, line {number}: an example is a JSON object with 'prompt' and 'solution' (texts)."
            ) from None
        if isinstance(task, int) and ((first is not None and task < first) or (last is not None and task > last)):
            continue
        pairs.append(pair)
    return pairs
