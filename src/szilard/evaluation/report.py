"""The report: one line per task, model and method, each against the baseline on the same items."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from szilard.evaluation.statistics import bootstrap_interval, paired, pareto_front

COLUMNS = (
    "task", "model", "method", "items", "score", "low", "high", "difference", "wins", "losses", "p_value",
    "tokens", "forwards", "tflops", "seconds", "tokens_per_second", "pareto", "counters",
)  # fmt: skip


def summarise(table: pa.Table, *, baseline: str = "greedy") -> list[dict[str, Any]]:
    """One record per task, model and method, with the keys of `COLUMNS`; means are over runs.

    `score` is the mean over items (each the mean over its seeds), `low` and `high` its 95 % bootstrap interval;
    `difference`, `wins`, `losses` and `p_value` (exact sign test) compare with the baseline method on the items that
    both have; `pareto` says whether no other method of the group is at once cheaper in FLOPs and better.
    """
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in table.to_pylist():
        groups[row["task"], row["model"]][row["method"]].append(row)
    records = []
    for (task, model), methods in sorted(groups.items()):
        scores = {method: _by_item(rows) for method, rows in methods.items()}
        group: list[dict[str, Any]] = []
        for method, rows in methods.items():
            low, high = bootstrap_interval(list(scores[method].values()))
            difference, wins, losses, p_value = paired(scores[method], scores.get(baseline, {}))
            tokens, seconds = _mean(rows, "generated_tokens"), _mean(rows, "wall_seconds")
            group.append(
                {
                    "task": task,
                    "model": model,
                    "method": method,
                    "items": len(scores[method]),
                    "score": sum(scores[method].values()) / len(scores[method]),
                    "low": low,
                    "high": high,
                    "difference": difference,
                    "wins": wins,
                    "losses": losses,
                    "p_value": p_value,
                    "tokens": tokens,
                    "forwards": _mean(rows, "forward_passes"),
                    "tflops": _mean(rows, "flops") / 1e12,
                    "seconds": seconds,
                    "tokens_per_second": tokens / seconds if seconds else 0.0,
                    "counters": _mean_counters(rows),
                }
            )
        front = set(pareto_front([(record["tflops"], record["score"]) for record in group]))
        for index, record in enumerate(group):
            record["pareto"] = index in front
        records += sorted(group, key=lambda record: (record["method"] != baseline, record["method"]))
    return records


def _by_item(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        scores[row["item"]].append(row["score"])
    return {item: sum(values) / len(values) for item, values in scores.items()}


def _mean(rows: Sequence[dict[str, Any]], column: str) -> float:
    return sum(row[column] or 0 for row in rows) / len(rows)


def _mean_counters(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        for name, value in json.loads(row["counters"] or "{}").items():
            totals[name] += value
    return {name: total / len(rows) for name, total in sorted(totals.items())}
