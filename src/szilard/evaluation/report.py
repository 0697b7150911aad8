"""The report: one line per task, model and method, each against the baseline on the same items; what changed; CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from szilard.evaluation.statistics import bootstrap_interval, paired, paired_bootstrap, pareto_front

COLUMNS = (
    "task", "model", "method", "items", "score", "low", "high", "compared", "difference", "difference_low",
    "difference_high", "wins", "losses", "p_value", "tokens", "forwards", "tflops", "seconds", "tokens_per_second",
    "pareto", "metrics", "model_tokens", "counters",
)  # fmt: skip


def summarise(table: pa.Table, *, baseline: str = "greedy") -> list[dict[str, Any]]:
    """One record per task, model and method, with the keys of `COLUMNS`; means are over runs.

    `score` is the mean over items (each the mean over its seeds), `low` and `high` its 95 % bootstrap interval;
    `compared` counts the items that the baseline answered, too;
    `difference`, its 95 % interval, `wins`, `losses` and `p_value` (exact sign test) compare with the baseline method
    on the items that both have; `pareto` says whether no other method of the group is at once cheaper in FLOPs and
    better.
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
            margin = paired_bootstrap(scores[method], scores.get(baseline, {}))
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
                    "compared": len(scores[method].keys() & scores.get(baseline, {}).keys()),
                    "difference": difference,
                    "difference_low": margin[0],
                    "difference_high": margin[1],
                    "wins": wins,
                    "losses": losses,
                    "p_value": p_value,
                    "tokens": tokens,
                    "forwards": _mean(rows, "forward_passes"),
                    "tflops": _mean(rows, "flops") / 1e12,
                    "seconds": seconds,
                    "tokens_per_second": tokens / seconds if seconds else 0.0,
                    "metrics": {k: v for k, v in _mean_counts(rows, "metrics").items() if k != "score"},
                    "model_tokens": _mean_counts(rows, "model_tokens"),
                    "counters": _mean_counts(rows, "counters"),
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


def _mean_counts(rows: Sequence[dict[str, Any]], column: str) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        try:
            counts = json.loads(row[column] or "{}")
            for name, value in counts.items():
                totals[name] += value
        except (ValueError, AttributeError, TypeError):
            raise ValueError(
                f"the result of {row['item']} with {row['method']} holds no counts in {column!r} but {row[column]!r}: "
                "it was not written by szilard."
            ) from None
    return {name: total / len(rows) for name, total in sorted(totals.items())}


@dataclass(frozen=True)
class Change:
    """An item on which a method and the baseline score differently.

    Attributes:
        score, reference_score: means over the seeds, of the method and of the baseline.
        text, reference_text: what they wrote (with several seeds: with the first).
        trace, reference_trace: files beside the results, or empty.
    """

    task: str
    model: str
    method: str
    item: str
    score: float
    reference_score: float
    text: str
    reference_text: str
    trace: str
    reference_trace: str


def changes(table: pa.Table, *, baseline: str = "greedy") -> list[Change]:
    """The items that each method won from or lost to the baseline, won ones first."""
    runs: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in table.to_pylist():
        runs[row["task"], row["model"]][row["method"]].append(row)
    found = []
    for (task, model), methods in runs.items():
        if baseline not in methods:
            continue
        reference, first_reference = _by_item(methods[baseline]), _first(methods[baseline])
        for method in methods.keys() - {baseline}:
            score, first = _by_item(methods[method]), _first(methods[method])
            for item in score.keys() & reference.keys():
                if score[item] != reference[item]:
                    mine, theirs = first[item], first_reference[item]
                    texts = (mine["text"] or "", theirs["text"] or "", mine["trace"] or "", theirs["trace"] or "")
                    found.append(Change(task, model, method, item, score[item], reference[item], *texts))
    return sorted(found, key=lambda c: (c.task, c.model, c.method, c.score < c.reference_score, _natural(c.item)))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key under which item/9 comes before item/10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _first(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The row of the lowest seed, by item."""
    return {row["item"]: row for row in sorted(rows, key=lambda row: row["seed"], reverse=True)}


def to_csv(records: Sequence[dict[str, Any]]) -> str:
    """The records as CSV; counts by name are JSON in their cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: json.dumps(v) if isinstance(v, dict) else v for name, v in record.items()})
    return text.getvalue()
