"""Running methods over a task: in a fixed order, resumable at every item, in shards if need be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from szilard.decoding.cost import Cost
from szilard.decoding.method import Method
from szilard.decoding.trace import Trace
from szilard.decoding.under import decoding_of
from szilard.engines.engine import Engine
from szilard.engines.prompts import is_chat
from szilard.engines.result import Result
from szilard.engines.transformers_generate import check_needs
from szilard.evaluation.likelihood import log_likelihoods
from szilard.evaluation.store import ResultStore
from szilard.evaluation.tasks import ChoiceTask, Item, Task, TextTask
from szilard.options import check_number

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
    batch_size: int = 1,
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
        batch_size: items answered in one call. What the call cost is shared out equally among its rows. The batches
            are the same however often the run is resumed, so that what is drawn does not depend on where it was killed;
            another `limit`, `shard` or `batch_size` makes other batches.
        traces: keep every run's trace, as JSON beside the results.
        progress: called with the number of finished and of all runs.

    Returns:
        (item, method, error) of the runs that failed; they are not stored, and tried again next time.

    Raises:
        ValueError: a limit, a shard or a batch size that cannot be; a method that needs what the engine lacks, a task
            in chats or of likelihoods for a model that takes or gives none; or the store holds results of the same
            label, task and model that were made with other hyperparameters, which a summary would mix up.
    """
    check_number("limit", limit, low=1, integer=True, optional=True)
    check_number("batch_size", batch_size, low=1, integer=True)
    check_number("max_new_tokens", max_new_tokens, low=1, integer=True, optional=True)
    if not isinstance(task, (TextTask, ChoiceTask)):
        raise TypeError(f"a task is a TextTask (it scores what is written) or a ChoiceTask, not {task!r}.")
    task.check()
    for _, method in methods:
        if isinstance(task, TextTask):
            check_needs(method, engine.provides, f"engine '{engine.kind}' with {engine.name}")
        method.check(engine)
    if isinstance(task, ChoiceTask) and "denoising" in engine.provides:
        raise ValueError(
            f"{engine.name} fills a canvas and gives no likelihood of a text read from left to right, which "
            f"'{task.slug}' scores: take a task that scores what is written."
        )
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard must be i/n with 0 <= i < n, not {index}/{count}.")
    chosen = list(items if items is not None else task.items())[:limit][index::count]
    total = len(chosen) * sum(len(seeds if draws(method) else seeds[:1]) for _, method in methods)
    if not engine.has_chat_template and chosen and all(is_chat(item.prompt) for item in chosen):
        raise ValueError(
            f"'{task.slug}' asks in chats, and {engine.name} has no chat template: take a model that has one, or where "
            f"the task offers it a plain form (--task-set {task.slug}.compact=true)."
        )
    limit_of_tokens = max_new_tokens or task.max_new_tokens
    window = engine.context_window
    if window is not None and limit_of_tokens >= window:
        raise ValueError(
            f"{limit_of_tokens} new tokens leave no room for a prompt in the window of {engine.name}, {window} tokens: "
            "set max_new_tokens lower."
        )
    for stop in {item.stop for item in chosen if item.stop and isinstance(task, TextTask)}:
        engine.stop_criterion(stop)
    settings = _settings(task, engine, limit_of_tokens)
    check_settings(engine, task, methods, store, max_new_tokens=max_new_tokens)
    options = {label: _options(method, engine) for label, method in methods}
    done = store.keys()
    digests = {item.id: digest(item) for item in chosen}
    check_stored_items(task, chosen, store)
    failed: list[tuple[str, str, Exception]] = []
    finished = 0
    for batch in batches(chosen, batch_size):
        for label, method in methods:
            for seed in seeds if draws(method) else seeds[:1]:
                if progress is not None:
                    progress(finished, total)
                finished += len(batch)
                missing = [item for item in batch if (task.slug, item.id, label, engine.name, seed) not in done]
                if not missing:
                    continue
                answers = _answers(engine, task, batch, method, seed, limit_of_tokens, traces)
                known = {"task": task.slug, "model": engine.name, "method": label, "seed": seed}
                known |= {"options": options[label], "settings": settings}
                rows = []
                for item in missing:
                    try:
                        answer = answers[item.id]
                        if isinstance(answer, Exception):
                            raise answer
                        row = known | {"item": item.id, "digest": digests[item.id]} | _row(answer)
                    except Exception as error:  # one item must not cost the night's run; all are named at its end
                        failed.append((item.id, label, error.with_traceback(None)))  # whose frames hold tensors
                        continue
                    if answer.trace is not None:
                        row["trace"] = _keep_trace(answer.trace, store, row)
                    rows.append(row)
                store.add(*rows)
    if progress is not None:
        progress(total, total)
    return failed


def draws(method: Method) -> bool:
    """Whether seeds make a difference: only where the method itself samples, from no stream of its own.

    Of a rule that fills a canvas: where it draws which columns it commits.
    """
    if "denoising" in method.needs:
        rule = decoding_of(method)
        chance = getattr(rule, "score", "") == "random" or getattr(rule, "rule", "") == "chance"
        return chance or bool(getattr(rule, "score_temperature", 0))
    return method.slug.partition("+")[0] == "sampling" and getattr(method, "seed", None) is None


def _options(method: Method, engine: Engine) -> str:
    """The changed hyperparameters as JSON, the same in every process (objects without their address)."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", json.dumps(method.recorded_options(engine), sort_keys=True, default=str))


def digest(item: Item) -> str:
    """A short hash of what is asked and what is right."""
    content = json.dumps([item.prompt, item.reference, item.raw, item.stop], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def check_stored_items(task: Task, items: Sequence[Item], store: ResultStore) -> None:
    """Refuse items of which the store holds results with another prompt or reference.

    Raises:
        ValueError: it does.
    """
    digests = {item.id: digest(item) for item in items}
    for (slug, name, *_), known_digest in store.keys().items():
        if slug == task.slug and digests.get(name, known_digest) != known_digest:
            raise ValueError(
                f"{str(store.folder)!r} holds results of {name} with another prompt or reference than now: that was "
                "another data file; take another folder."
            )


def _settings(task: Task, engine: Engine, max_new_tokens: int) -> str:
    known = {"max_new_tokens": max_new_tokens, "fingerprint": engine.fingerprint}
    return json.dumps(task.settings() | known, sort_keys=True)


def check_settings(
    engine: Engine,
    task: Task,
    methods: Sequence[tuple[str, Method]],
    store: ResultStore,
    *,
    max_new_tokens: int | None = None,
) -> None:
    """Refuse labels under which the store holds results of other options, settings or weights.

    Raises:
        ValueError: it does.
    """
    settings = _settings(task, engine, max_new_tokens or task.max_new_tokens)
    kept = store.settings()
    for label, method in methods:
        before, now = kept.get((task.slug, label, engine.name), set()), (_options(method, engine), settings)
        if before and before != {now}:
            had = " and ".join(" on ".join(pair) for pair in sorted(before))
            raise ValueError(
                f"{str(store.folder)!r} holds results of '{label}' that were made with {had}, not with "
                f"{' on '.join(now)}: give this one a label of its own, as in {method.slug}:new, or another folder."
            )


def batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Neighbouring items that one call can answer: `raw` and `stop` hold for all of its prompts."""
    for _, group in groupby(items, key=lambda item: (item.raw, item.stop)):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


@dataclass(frozen=True)
class _Answer:
    """What one item got, and with how many items it shared the cost of its call."""

    text: str
    finish_reason: str
    generated_tokens: int
    cost: Cost
    sharers: int
    score: Callable[[], dict[str, float]]
    trace: Trace | None = None


def _answers(
    engine: Engine, task: Task, batch: Sequence[Item], method: Method, seed: int, max_new_tokens: int, traces: bool
) -> dict[str, _Answer | Exception]:
    """The answers of a batch by item, or why there is none.

    A batch that fails is answered row by row, so that only the items that cannot be answered are missing.
    """
    if isinstance(task, ChoiceTask):
        return {item.id: _choices(engine, task, item, method) for item in batch}
    assert isinstance(task, TextTask)
    prompts = [item.prompt for item in batch]
    try:
        results = engine.generate(
            prompts if len(batch) > 1 else prompts[0],
            method,
            raw=batch[0].raw,
            stop=list(batch[0].stop) or None,
            seed=seed,
            max_new_tokens=max_new_tokens,
            trace=traces,
        )
    except Exception as error:
        if len(batch) == 1:
            return {batch[0].id: error}
        results = None
    if results is None:
        alone = [_answers(engine, task, [item], method, seed, max_new_tokens, traces) for item in batch]
        return {name: answer for found in alone for name, answer in found.items()}
    rows: list[Result] = results if len(batch) > 1 else [results]
    return {
        item.id: _Answer(
            *(row.text, row.finish_reason, len(row.tokens), row.cost, len(batch)),
            partial(task.score, item, row.text),
            row.trace,
        )
        for item, row in zip(batch, rows, strict=True)
    }


def _choices(engine: Engine, task: ChoiceTask, item: Item, method: Method) -> _Answer | Exception:
    choices = task.choices(item)
    try:
        likelihoods, cost = log_likelihoods(engine, item.prompt, choices, method, raw=item.raw)
    except Exception as error:
        return error
    best = max(range(len(choices)), key=lambda index: likelihoods[index].total)
    return _Answer(choices[best], "", 0, cost, 1, partial(task.score_choices, item, likelihoods))


def _row(answer: _Answer) -> dict[str, Any]:
    """The columns that an answer fills; the cost of its call is divided by the sharers."""
    metrics = answer.score()
    cost, sharers = answer.cost, answer.sharers
    return {
        "score": metrics["score"],
        "metrics": json.dumps(metrics, sort_keys=True),
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "generated_tokens": answer.generated_tokens,
        "forward_passes": round(cost.total_forward_passes / sharers),
        "model_tokens": _shared_out(cost.tokens, sharers),
        "flops": float(cost.flops + cost.extra_flops) / sharers,
        "wall_seconds": cost.wall_seconds / sharers,
        "counters": _shared_out(_counters(cost, sharers), sharers),
        "trace": "",
    }


def _counters(cost: Cost, sharers: int) -> dict[str, float]:
    """The call's counters; of a filled canvas also its rounds and the columns that they computed.

    A run alone has a forward per round. In a batch, rows that are filled early take part in fewer forwards: its
    `row_rounds` are the rounds of all rows together.
    """
    if "row_rounds" not in cost.counters:
        return cost.counters
    rounds = cost.total_forward_passes if sharers == 1 else cost.counters["row_rounds"]
    return cost.counters | {"rounds": rounds, "computed_columns": sum(cost.tokens.values())}


def _shared_out(counts: dict[str, Any], sharers: int) -> str:
    """Counts are divided; what is no whole number is a share already, and holds for every row."""
    shared = {name: n / sharers if isinstance(n, int) and sharers > 1 else n for name, n in counts.items()}
    return json.dumps(shared, sort_keys=True)


def _keep_trace(trace: Trace, store: ResultStore, row: dict[str, Any]) -> str:
    """Save a trace beside the results and return its name there; runs that differ in anything have different names."""
    key = [str(row[name]) for name in ("task", "item", "method", "model", "seed")]
    readable = "-".join(re.sub(r"[^\w.]+", "_", part)[:40] for part in (*key[:3], key[4]))
    name = f"{readable}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]}.json"
    folder = Path(store.folder, "traces")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial"
    partial.write_text(trace.to_json(), encoding="utf-8")
    partial.replace(folder / name)
    return f"traces/{name}"
