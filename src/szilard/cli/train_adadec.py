"""`szilard train adadec`: the entropy threshold of a model from reference solutions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.options import check_number


def adadec(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write the threshold to (JSON).")],
    task: Annotated[
        str | None, typer.Option("--task", help="Learn from an evaluation task's solutions (mbpp: its training split).")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="A local file of the task's items.")] = None,
    examples: Annotated[
        Path | None, typer.Option("--examples", help='Or JSON lines with "prompt" and "solution".')
    ] = None,
    model: o.ModelOption = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many examples.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="With --examples: through the chat template.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the split and the undersampling.")] = 42,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Learn AdaDec's threshold from reference solutions, for `--method adadec --set threshold=FILE`.

    A model scores the solutions. Use examples that you will not evaluate on.
    """
    from szilard.decoding.adadec_threshold import fit_threshold

    if (task is None) == (examples is None):
        raise ValueError("give either --task (such as mbpp, with --data FILE if it is local) or --examples FILE.")
    check_number("limit", limit, low=1, integer=True, optional=True)
    check_number("seed", seed, low=0, high=2**32 - 1, integer=True)
    if examples is not None and data is not None:
        raise ValueError("--data goes with --task; --examples is itself the file.")
    raw = not chat
    if task is not None:
        pairs, raw = solutions(task, data)
    else:
        assert examples is not None
        pairs = read_pairs(examples)
    pairs = pairs[:limit]
    if not pairs:
        raise ValueError(f"{str(examples)!r} holds no example.")
    o.check_writable(output)
    loaded = load_engine(model, engine, device, dtype)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        line = progress.add_task("examples", total=len(pairs))
        fit = fit_threshold(
            loaded, pairs, seed=seed, raw=raw, progress=lambda done: progress.update(line, completed=done)
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


def solutions(name: str, data: Path | None) -> tuple[list[tuple[Any, str]], bool]:
    """(prompt, reference solution) of a task's items, of the training split where it has one; and whether they are raw.

    Raises:
        ValueError: a task without solutions.
    """
    from szilard.evaluation.tasks import make_task

    task = make_task(name)
    if hasattr(task, "split") and task.executes_code:
        task = make_task(name, {"split": "train"})
    items = task.items(data)
    if "solution" not in items[0].reference:
        raise ValueError(f"the task '{task.slug}' has no reference solutions to learn from; take mbpp or humaneval.")
    return [(item.prompt, item.reference["solution"]) for item in items], items[0].raw


def read_pairs(path: Path) -> list[tuple[Any, str]]:
    """(prompt, solution) of every line.

    Raises:
        ValueError: no such file, or a line without the fields.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    pairs: list[tuple[Any, str]] = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no UTF-8 text ({error}).") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            pair = record["prompt"], record.get("solution", record.get("canonical_solution"))
            if not all(isinstance(part, str) and part for part in pair):
                raise KeyError("solution")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{str(path)!r}, line {number}: an example is a JSON object with 'prompt' and 'solution' (texts)."
            ) from None
        pairs.append(pair)
    return pairs
