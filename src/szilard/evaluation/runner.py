"""Running methods over a task: in a fixed order, resumable at every item, in shards if need be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from szilard.decoding.method import Method, check_number
from szilard.engines.engine import Engine
from szilard.evaluation.store import ResultStore
from szilard.evaluation.tasks import Item, Task

Progress = Callable[[int, int], None]


def evaluate(
    engine: Engine,
    task: Task,
    methods: Sequence[tuple[str, Method]],
    store: ResultStore,
    *,
    items: Sequence[Item] | None = None,
    limit: int | None = None,
    seeds: Sequence[int] = (0,),
    shard: tuple[int, int] = (0, 1),
    max_new_tokens: int | None = None,
    traces: bool = False,
    progress: Progress | None = None,
) -> list[tuple[str, str, Exception]]:
    """Answer and score every item with every method; what the store has already is not repeated.

    Args:
        methods: label and method. One that draws runs once per seed, any other once, with the first seed.
        items: instead of the task's own.
        limit: only the first so many items.
        shard: (i, n): only items i, i + n, i + 2 n, ...
        max_new_tokens: instead of the task's own.
        traces: keep every run's trace, as JSON beside the results.
        progress: called with the number of finished and of all runs.

    Returns:
        (item, method, error) of the runs that failed; they are tried again next time.
    """
    check_number("limit", limit, low=1, integer=True, optional=True)
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard must be i/n with 0 <= i < n, not {index}/{count}.")
    chosen = list(items if items is not None else task.items())[:limit][index::count]
    runs = [
        (item, label, method, seed)
        for item in chosen
        for label, method in methods
        for seed in (seeds if draws(method) else seeds[:1])
    ]
    done = store.keys()
    failed: list[tuple[str, str, Exception]] = []
    for number, (item, label, method, seed) in enumerate(runs):
        if progress is not None:
            progress(number, len(runs))
        if (task.slug, item.id, label, engine.name, seed) in done:
            continue
        try:
            row = _run(engine, task, item, method, seed, max_new_tokens or task.max_new_tokens, traces, store)
        except ValueError as error:  # an item that does not fit; anything else ends the run, and is our fault
            failed.append((item.id, label, error))
            continue
        options = json.dumps(method.changed_options(), sort_keys=True, default=str)
        store.add({"method": label, "options": options} | row)
    if progress is not None:
        progress(len(runs), len(runs))
    return failed


def draws(method: Method) -> bool:
    """Whether seeds make a difference: only where the method itself samples."""
    return method.slug == "sampling"


def _run(
    engine: Engine,
    task: Task,
    item: Item,
    method: Method,
    seed: int,
    max_new_tokens: int,
    traces: bool,
    store: ResultStore,
) -> dict[str, Any]:
    result = engine.generate(
        item.prompt,
        method,
        raw=item.raw,
        stop=list(item.stop) or None,
        seed=seed,
        max_new_tokens=max_new_tokens,
        trace=traces,
    )
    metrics = task.score(item, result.text)
    cost = result.cost
    return {
        "task": task.slug,
        "item": item.id,
        "model": engine.name,
        "seed": seed,
        "score": metrics["score"],
        "metrics": json.dumps(metrics, sort_keys=True),
        "text": result.text,
        "finish_reason": result.finish_reason,
        "generated_tokens": len(result.tokens),
        "forward_passes": cost.total_forward_passes,
        "model_tokens": json.dumps(cost.tokens, sort_keys=True),
        "flops": float(cost.flops + cost.extra_flops),
        "wall_seconds": cost.wall_seconds,
        "counters": json.dumps(cost.counters, sort_keys=True),
        "trace": _keep_trace(result, store, task, item, method, seed) if traces else "",
    }


def _keep_trace(result: Any, store: ResultStore, task: Task, item: Item, method: Method, seed: int) -> str:
    name = "-".join([task.slug, item.id.replace("/", "_"), method.slug, str(seed)]) + ".json"
    folder = Path(store.folder, "traces")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}"
    partial.write_text(result.trace.to_json(), encoding="utf-8")
    partial.rename(folder / name)
    return f"traces/{name}"
