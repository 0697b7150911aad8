"""`szilard evaluate`: what methods are worth on a task; resumable."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.cli.report import show
from szilard.decoding.method import Method, parse_option
from szilard.registry import make_method, method_class


def evaluate_command(
    methods: Annotated[
        str, typer.Option("--methods", help="Names, separated by commas; name:label for several settings of one.")
    ] = "greedy",
    task: Annotated[str, typer.Option("--task", help="Tasks, separated by commas.")] = "humaneval",
    model: o.ModelOption = None,
    engine: o.EngineOption = "auto",
    data: Annotated[
        list[str] | None, typer.Option("--data", help="A local file of the task's items, or task=FILE. Repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many items.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs per item of a method that draws.")] = 1,
    shard: Annotated[str, typer.Option("--shard", help="i/n: only items i, i+n, ...")] = "0/1",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results; a run goes on there.")] = Path(
        "results/evaluation"
    ),
    assignments: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="label.option=value of a method. Repeatable.")
    ] = None,
    task_assignments: Annotated[
        list[str] | None, typer.Option("--task-set", help="task.option=value. Repeatable.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", "-n", help="Instead of the task's.")] = None,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Run the programs that the model writes, in a sandbox.")
    ] = False,
    traces: Annotated[bool, typer.Option("--traces", help="Keep the trace of every run.")] = False,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Answer a task's items with several methods, score them, and keep every result. Killed runs go on."""
    from szilard.evaluation.runner import evaluate
    from szilard.evaluation.store import ResultStore
    from szilard.evaluation.tasks import make_task

    chosen = _methods(methods, assignments or [])
    tasks = []
    for name in filter(None, (part.strip() for part in task.split(","))):
        settings: dict[str, Any] = {}
        for assignment in task_assignments or []:
            target, _, rest = assignment.partition(".")
            if target == name:
                option, equals, value = rest.partition("=")
                if not equals:
                    raise ValueError(f"--task-set is written task.option=value, not {assignment!r}.")
                settings[option] = value
        made = make_task(name, settings)
        if made.executes_code:
            if not allow_code_execution:
                raise ValueError(
                    f"the task '{made.slug}' runs programs that the model writes, in a limited process: allow it with "
                    "--allow-code-execution."
                )
            made = make_task(name, settings | {"allow_code_execution": True})
        tasks.append((made, made.items(_data_of(made.slug, data or []))))
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {seeds}.")
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f"--shard is written i/n with 0 <= i < n, as in 0/2, not {shard!r}.")
    store = ResultStore(output)
    store.table()  # a damaged folder is refused before any work
    loaded = load_engine(model, engine, device, dtype)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed = []
    for made, items in tasks:
        with Progress(*columns, TimeRemainingColumn(), console=errors) as bar:
            line = bar.add_task(made.slug)
            failed += evaluate(
                loaded,
                made,
                chosen,
                store,
                items=items,
                limit=limit,
                seeds=range(seeds),
                shard=(int(index), int(count)),
                max_new_tokens=max_new_tokens,
                traces=traces,
                progress=partial(_update, bar, line),
            )
    for item, label, error in failed:
        note(f"{item} with {label} failed: {error}")
    show(store, chosen[0][0], as_json)


def _update(bar: Progress, line: Any, done: int, total: int) -> None:
    bar.update(line, completed=done, total=total)


def _methods(names: str, assignments: list[str]) -> list[tuple[str, Method]]:
    """(label, method) of `ead:half,greedy` and `half.threshold=0.5`."""
    wanted = [part.strip() for part in names.split(",") if part.strip()]
    labels = [part.partition(":")[2] or part.partition(":")[0] for part in wanted]
    if len(set(labels)) < len(labels):
        raise ValueError("two methods have the same label; tell them apart as in ead:low,ead:high.")
    for assignment in assignments:
        if assignment.partition(".")[0] not in labels:
            raise ValueError(f"--set {assignment!r} names none of the methods: write {labels[0]}.option=value.")
    chosen = []
    for part, label in zip(wanted, labels, strict=True):
        cls = method_class(part.partition(":")[0])
        own = [text.partition(".")[2] for text in assignments if text.partition(".")[0] == label]
        chosen.append((label, make_method(cls, dict(parse_option(cls, text) for text in own))))
    if not chosen:
        raise ValueError("name at least one method with --methods.")
    return chosen


def _data_of(slug: str, given: list[str]) -> str | None:
    """The file for a task among `FILE` and `task=FILE`."""
    for text in given:
        name, equals, path = text.partition("=")
        if equals and name == slug:
            return path
    plain = [text for text in given if "=" not in text]
    return plain[0] if plain else None
