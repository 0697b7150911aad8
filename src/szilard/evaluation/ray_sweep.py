"""A sweep's runs as tasks of Ray: workers answer and score, this process keeps the results."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from szilard.decoding.method import Method
from szilard.engines.choice import EngineChoice
from szilard.evaluation.runner import Progress, batches, check_settings, check_stored_items, draws, evaluate
from szilard.evaluation.store import ResultStore
from szilard.evaluation.tasks import Item, Task
from szilard.ray_cluster import joined

RETRIES = 3
_AHEAD = 4  # tasks that wait per worker, so that none is idle and an interrupt has little to cancel


@dataclass(frozen=True)
class Unit:
    """What one Ray task answers: a batch of items, by one method, with one seed."""

    items: tuple[Item, ...]
    label: str
    method: Method
    seed: int


class _Kept:
    """What `check_settings` reads of a store, in a process that does not have it."""

    def __init__(self, folder: str, settings: dict[Any, Any]) -> None:
        self.folder, self._settings = folder, settings

    def settings(self) -> dict[Any, Any]:
        return self._settings


class RaySweep:
    """Evaluation on a Ray cluster: that of RAY_ADDRESS, or one that is started on this machine.

    The results are those of `evaluate`, down to the batches and seeds, and are kept by this process alone: workers need
    no folder in common with it. A task whose worker dies is done again, at most `RETRIES` times, on any other.

    Args:
        choice: the model, loaded once in every worker.
        cpus: cores that a worker reserves; its arithmetic uses so many threads.
        gpus: GPUs that it reserves.
    """

    def __init__(self, choice: EngineChoice, *, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self._choice = choice
        self._cluster = contextlib.ExitStack()
        self._cluster.enter_context(joined(log_to_driver=False))
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES}
        self._check: Any = ray.remote(**options)(_check)
        self._answer: Any = ray.remote(**options)(_answer)
        self._workers = max(1, int(ray.cluster_resources().get("CPU", 1) / cpus)) if cpus else os.cpu_count() or 1

    def __enter__(self) -> RaySweep:
        return self

    def __exit__(self, *_: Any) -> None:
        self._cluster.close()

    def check(
        self,
        tasks: Sequence[Task],
        methods: Sequence[tuple[str, Method]],
        store: ResultStore,
        *,
        max_new_tokens: int | None = None,
    ) -> str:
        """Load the model in a worker, see that it can do what is asked, and that the store fits; its name.

        Raises:
            ValueError: as `evaluate` and `check_settings`.
        """
        settings = store.settings()
        return _got(
            self._check.remote(self._choice, list(tasks), list(methods), str(store.folder), settings, max_new_tokens)
        )

    def evaluate(
        self,
        name: str,
        task: Task,
        methods: Sequence[tuple[str, Method]],
        store: ResultStore,
        *,
        items: Sequence[Item],
        limit: int | None = None,
        seeds: Sequence[int] = (0,),
        shard: tuple[int, int] = (0, 1),
        max_new_tokens: int | None = None,
        batch_size: int = 1,
        traces: bool = False,
        progress: Progress | None = None,
    ) -> list[tuple[str, str, Exception]]:
        """As the function of this name, on the cluster; `name` is what `check` gave."""
        index, count = shard
        chosen = list(items)[:limit][index::count]
        check_stored_items(task, chosen, store)
        done = store.keys()
        units = [
            Unit(tuple(batch), label, method, seed)
            for batch in batches(chosen, batch_size)
            for label, method in methods
            for seed in (seeds if draws(method) else seeds[:1])
        ]
        total = sum(len(unit.items) for unit in units)
        missing = {
            place: {item.id for item in unit.items if (task.slug, item.id, unit.label, name, unit.seed) not in done}
            for place, unit in enumerate(units)
        }
        open_units = [place for place in missing if missing[place]]
        finished = total - sum(len(units[place].items) for place in open_units)
        failed: list[tuple[str, str, Exception]] = []
        handed = ray.put((self._choice, task, max_new_tokens, batch_size, traces))
        for place, found in self._in_turn(handed, units, open_units):
            unit, wanted = units[place], missing[place]
            if progress is not None:
                progress(finished, total)
            finished += len(unit.items)
            if isinstance(found, Exception):
                failed += [(item.id, unit.label, found) for item in unit.items if item.id in wanted]
                continue
            rows, errors, files = found
            for file, text in files.items():
                _keep(Path(store.folder, file), text)
            store.add(*(row for row in rows if row["item"] in wanted))
            failed += [(item, label, RuntimeError(said)) for item, label, said in errors if item in wanted]
        if progress is not None:
            progress(total, total)
        return failed

    def _in_turn(self, handed: Any, units: Sequence[Unit], places: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Results as they come, or the error of a unit whose workers died."""
        waiting = list(reversed(places))
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < _AHEAD * self._workers:
                    place = waiting.pop()
                    running[self._answer.remote(handed, units[place])] = place
                (ready, *_), _ = ray.wait(list(running))
                place = running.pop(ready)
                try:
                    found = _got(ready)
                except RayError as error:
                    found = RuntimeError(f"its worker failed: {str(error).splitlines()[0]}")
                yield place, found
        finally:
            for reference in running:
                ray.cancel(reference)


def _check(
    choice: EngineChoice,
    tasks: list[Task],
    methods: list[tuple[str, Method]],
    folder: str,
    settings: dict[Any, Any],
    max_new_tokens: int | None,
) -> str:
    engine = choice.load()
    with tempfile.TemporaryDirectory() as scratch:
        for task in tasks:
            check_settings(engine, task, methods, _Kept(folder, settings), max_new_tokens=max_new_tokens)  # type: ignore[arg-type]
            evaluate(engine, task, methods, ResultStore(scratch), items=[], max_new_tokens=max_new_tokens)
    return engine.name


def _answer(
    handed: tuple[EngineChoice, Task, int | None, int, bool], unit: Unit
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]], dict[str, str]]:
    """Rows of a unit, what failed and why, and the traces by their file's name."""
    choice, task, max_new_tokens, batch_size, traces = handed
    with tempfile.TemporaryDirectory() as scratch:
        store = ResultStore(scratch)
        failed = evaluate(
            choice.load(),
            task,
            [(unit.label, unit.method)],
            store,
            items=unit.items,
            seeds=(unit.seed,),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            traces=traces,
        )
        rows = store.table().to_pylist()
        files = {row["trace"]: Path(scratch, row["trace"]).read_text(encoding="utf-8") for row in rows if row["trace"]}
    return rows, [(item, label, str(error) or type(error).__name__) for item, label, error in failed], files


def _got(reference: Any) -> Any:
    """The result of a task; errors of the request as they were raised.

    Raises:
        ValueError, TypeError: the task's own.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, (ValueError, TypeError)):
            kind = ValueError if isinstance(cause, ValueError) else TypeError  # subclasses may want other arguments
            raise kind(str(cause)) from None
        raise


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
