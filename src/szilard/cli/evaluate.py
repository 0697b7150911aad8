"""`szilard evaluate`: what methods are worth on a task; resumable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, needs, note
from szilard.cli.report import show
from szilard.decoding.method import Method
from szilard.engines.choice import EngineChoice
from szilard.options import parse_option

if TYPE_CHECKING:
    from szilard.evaluation.store import ResultStore
    from szilard.evaluation.tasks import Item, Task

_FAILURES_SHOWN = 20


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
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", help="Items answered in one call; its cost is shared out equally.")
    ] = 1,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Run the programs that the model writes, in a sandbox.")
    ] = False,
    traces: Annotated[bool, typer.Option("--traces", help="Keep the trace of every run.")] = False,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    compile_: o.CompileOption = False,
    quantize: o.QuantizeOption = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Runs as Ray tasks: on the cluster of RAY_ADDRESS, or on this machine.")
    ] = False,
    worker_cpus: Annotated[float, typer.Option("--worker-cpus", help="With --ray: cores of each worker.")] = 1.0,
    worker_gpus: Annotated[
        float | None, typer.Option("--worker-gpus", help="With --ray: GPUs of each; default: 1 with --device cuda.")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Answer a task's items with several methods, score them, and keep every result. Killed runs go on.

    Exit code 1: some runs failed; they are named, and tried again by the same command.
    """
    from szilard.evaluation.runner import check_settings, evaluate
    from szilard.evaluation.store import ResultStore
    from szilard.evaluation.tasks import ChoiceTask

    chosen = _methods(methods, assignments or [])
    made_tasks = _tasks(task, task_assignments or [], allow_code_execution)
    files = _files([made.slug for made in made_tasks], data or [])
    for option, number in {"seeds": seeds, "limit": limit, "max-new-tokens": max_new_tokens}.items():
        if number is not None and number < 1:
            raise ValueError(f"--{option} must be at least 1, not {number}.")
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {batch_size}.")
    index, _, count = shard.partition("/")
    if not (shard.isascii() and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f"--shard is written i/n with 0 <= i < n, as in 0/2, not {shard!r}.")
    tasks = [(made, made.items(files.get(made.slug))) for made in made_tasks]
    for _, method in chosen:
        method.check()
    for made in made_tasks:
        made.check()
    if any(isinstance(made, ChoiceTask) for made in made_tasks):
        silent = [label for label, method in chosen if type(method).shaping is Method.shaping]
        if acting := [label for label in silent if label not in ("greedy", "sampling")]:
            note(
                f"{', '.join(acting)}: likelihood tasks measure the model itself; the method acts only where text is "
                "written."
            )
    store = ResultStore(output)
    store.table()  # a damaged folder is refused before any work
    store.check_writable()
    with contextlib.ExitStack() as stack:
        if ray:
            gpus = float((device or "").startswith("cuda")) if worker_gpus is None else worker_gpus
            sweep = stack.enter_context(
                _sweep(EngineChoice(model, engine, device, dtype, compile_, quantize), worker_cpus, gpus)
            )
            run: Any = partial(sweep.evaluate, sweep.check(made_tasks, chosen, store, max_new_tokens=max_new_tokens))
        else:
            loaded = load_engine(model, engine, device, dtype, compile_, quantize)
            for made in made_tasks:
                check_settings(loaded, made, chosen, store, max_new_tokens=max_new_tokens)
            run = partial(evaluate, loaded)
        failed = _run(
            run, tasks, chosen, store, limit, seeds, (int(index), int(count)), max_new_tokens, batch_size, traces
        )
    if failed:
        note(f"{failed} runs failed and are not in the results; the same command tries them again.")
    labels = [label for label, _ in chosen]
    if store.keys():
        show(store, "greedy" if "greedy" in labels else labels[0], as_json)
    if failed:
        raise typer.Exit(1)


def _sweep(choice: EngineChoice, cpus: float, gpus: float) -> Any:
    needs("ray", extra="ray")
    for option, number in {"worker-cpus": cpus, "worker-gpus": gpus}.items():
        if not number >= 0:
            raise ValueError(f"--{option} must be at least 0, not {number}.")
    choice.check()
    from szilard.evaluation.ray_sweep import RaySweep

    return RaySweep(choice, cpus=cpus, gpus=gpus)


def _run(
    run: Callable[..., list[tuple[str, str, Exception]]],
    tasks: Sequence[tuple[Task, Sequence[Item]]],
    chosen: Sequence[tuple[str, Method]],
    store: ResultStore,
    limit: int | None,
    seeds: int,
    shard: tuple[int, int],
    max_new_tokens: int | None,
    batch_size: int,
    traces: bool,
) -> int:
    """Every task with a progress bar; how many runs failed."""
    index, count = shard
    if not any(items[:limit][index::count] for _, items in tasks):
        note(f"shard {index}/{count} holds none of the items.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed = 0
    for made, items in tasks:
        with Progress(*columns, TimeRemainingColumn(), console=errors) as bar:
            line = bar.add_task(made.slug)
            try:
                errors_of_task = run(
                    made,
                    chosen,
                    store,
                    items=items,
                    limit=limit,
                    seeds=range(seeds),
                    shard=shard,
                    max_new_tokens=max_new_tokens,
                    batch_size=batch_size,
                    traces=traces,
                    progress=partial(_update, bar, line),
                )
            except KeyboardInterrupt:
                note("what is finished is kept in the results; the same command goes on from there.")
                raise
        failed += len(errors_of_task)
        for item, label, error in errors_of_task[:_FAILURES_SHOWN]:
            note(f"{item} with {label} failed: {error or type(error).__name__}")
    return failed


def _update(bar: Progress, line: Any, done: int, total: int) -> None:
    bar.update(line, completed=done, total=total)


def _methods(names: str, assignments: list[str]) -> list[tuple[str, Method]]:
    """(label, method) of `ead:half,greedy` and `half.threshold=0.5`."""
    wanted = [part.strip() for part in names.split(",") if part.strip()]
    labels = [part.partition(":")[2] if ":" in part else part for part in wanted]
    if not labels:
        raise ValueError("name at least one method with --methods.")
    if not all(labels):
        raise ValueError(f"--methods {names!r} has an empty label; write name:label.")
    if len(set(labels)) < len(labels):
        raise ValueError("two methods have the same label; tell them apart as in ead:low,ead:high.")
    own: dict[str, list[str]] = {label: [] for label in labels}
    for assignment in assignments:
        owners = [label for label in labels if assignment.startswith(f"{label}.")]
        if not owners:
            raise ValueError(f"--set {assignment!r} names none of the methods: write {labels[0]}.option=value.")
        label = max(owners, key=len)  # a label may have a dot in it
        own[label].append(assignment[len(label) + 1 :])
    chosen = []
    for part, label in zip(wanted, labels, strict=True):
        method = o.method_from(part.partition(":")[0], own[label])
        assert method is not None
        chosen.append((label, method))
    return chosen


def _tasks(names: str, assignments: list[str], allow_code_execution: bool) -> list[Task]:
    """The tasks of `humaneval,gsm8k` and `gsm8k.style=completion`."""
    from szilard.evaluation.tasks import make_task, tasks_of

    plain = [make_task(slug) for part in names.split(",") if part.strip() for slug in tasks_of(part)]
    if not plain:
        raise ValueError("name at least one task with --task.")
    settings: dict[str, dict[str, Any]] = {made.slug: {} for made in plain}
    if len(settings) < len(plain):
        raise ValueError(f"--task {names!r} names a task twice.")
    classes: dict[str, Any] = {made.slug: type(made) for made in plain}
    for assignment in assignments:
        target, dot, rest = assignment.partition(".")
        slugs = tasks_of(target)
        if not (dot and set(slugs) <= settings.keys()):
            raise ValueError(
                f"--task-set {assignment!r}: write TASK.OPTION=VALUE with one of the tasks of this run "
                f"({', '.join(settings)})."
            )
        for slug in slugs:
            settings[slug].update([parse_option(classes[slug], rest)])
    for made in plain:
        if made.executes_code:
            if not allow_code_execution:
                raise ValueError(
                    f"the task '{made.slug}' runs programs that the model writes, in a limited process: allow it with "
                    "--allow-code-execution."
                )
            settings[made.slug]["allow_code_execution"] = True
    return [make_task(slug, options) for slug, options in settings.items()]


def _files(slugs: list[str], given: list[str]) -> dict[str, str]:
    """Files by task, of `task=FILE` or, with one task, `FILE`."""
    from szilard.evaluation.tasks import task_names, tasks_of

    files: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (equals and set(tasks_of(name)) <= set(task_names())):  # a path may have an equals sign in it
            if len(slugs) > 1 and tuple(slugs) != tasks_of(slugs[0].partition("-")[0]):
                raise ValueError(f"--data {text!r} does not say which task it is for: write {slugs[0]}={text}.")
            named, path = tuple(slugs), text
        else:
            named = tasks_of(name)
        for slug in named:
            if slug not in slugs:
                raise ValueError(
                    f"--data {text!r} is for a task that does not run; the run's tasks: {', '.join(slugs)}."
                )
            if slug in files:
                raise ValueError(f"--data names two files for the task '{slug}'; one is enough.")
            files[slug] = path
    return files
