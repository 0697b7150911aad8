"""What drafting bought: tokens per target pass, drafts kept, acceptance by position, speed, per kind of item."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

POSITIONS = 4  # acceptance is told of so many drafts

Row = dict[str, Any]


def summarise_drafting(table: pa.Table, *, baseline: str = "greedy") -> list[dict[str, Any]]:
    """One record per task, model, drafting method and kind of item, and one of all kinds ("all").

    A kind is what stands before the slash in an item's name (Spec-Bench: qa/81); a task of one kind has only "all".

    Keys: `task`, `model`, `method`, `kind`, `items`, `tokens_per_pass` (tokens that a forward of the target settles per
    row), `accepted` (those of them beyond the one that plain decoding would have settled), `verified` (nodes or slots
    that the target read per row and forward, the root included), `by_position` (share of the steps that settled one
    such token or more, two or more, ...; empty where a method does not count it), and `speed_up` (tokens per second
    over the baseline's on the same items and seeds; None without one).
    """
    answers: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in table.to_pylist():
        answers[row["task"], row["model"]][row["method"]].append(row | {"counts": json.loads(row["counters"] or "{}")})
    records = []
    for (task, model), methods in sorted(answers.items()):
        reference = {(row["item"], row["seed"]): row for row in methods.get(baseline, [])}
        for method, rows in sorted(methods.items()):
            drafted = [row for row in rows if "accepted" in row["counts"] and row["counts"].get("row_steps")]
            kinds: dict[str, list[Row]] = defaultdict(list)
            for row in drafted:
                kinds[row["item"].split("/")[0] if "/" in row["item"] else ""].append(row)
            groups = {"all": drafted} | (dict(sorted(kinds.items())) if len(kinds) > 1 else {})
            for kind, own in groups.items():
                if own:
                    name = {"task": task, "model": model, "method": method, "kind": kind}
                    records.append(name | _figures(own, reference))
    return records


def _figures(rows: Sequence[Row], reference: dict[tuple[str, int], Row]) -> dict[str, Any]:
    def total(name: str) -> float:
        return sum(row["counts"].get(name, 0) for row in rows)

    steps = total("row_steps")
    reached = [total(f"accepted_{place}") / steps for place in range(1, POSITIONS + 1)]
    pairs = [(row, reference[row["item"], row["seed"]]) for row in rows if (row["item"], row["seed"]) in reference]
    own, other = (_rate([pair[place] for pair in pairs]) for place in (0, 1))
    return {
        "items": len({row["item"] for row in rows}),
        "tokens_per_pass": 1 + total("accepted") / steps,
        "accepted": total("accepted") / steps,
        "verified": (total("nodes_verified") or total("slots")) / steps,
        "by_position": reached if any(reached) or not total("accepted") else [],
        "speed_up": own / other if own and other else None,
    }


def _rate(rows: Sequence[Row]) -> float:
    """Tokens per second."""
    seconds = sum(row["wall_seconds"] for row in rows)
    return sum(row["generated_tokens"] for row in rows) / seconds if seconds else 0.0
