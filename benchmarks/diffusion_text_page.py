"""Tables on texts and on speed of masked diffusion models, for the reproduction page.

Every function gives markdown, and "" where nothing was measured.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from diffusion_run import pooled
from markdown_table import table
from record_tables import tables

Record = dict[str, Any]
SHARES = ("agreement", "same", "accuracy")
KINDS = {"stories and records": ("story", "record"), "sums and chains": ("sum", "chain")}


def _by_setting(records: Sequence[Record], names: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Record]]:
    """Records by these parts of their keys, by task; only what was measured on every task."""
    found: dict[tuple[Any, ...], dict[str, Record]] = defaultdict(dict)
    for record in records:
        found[tuple(record["key"][name] for name in names)][record["key"]["task"]] = record
    most = max(map(len, found.values()), default=0)
    return {at: own for at, own in found.items() if len(own) == most}


def rules(records: Sequence[Record]) -> str:
    """Agreement and accuracy against rounds."""
    found = _by_setting([r for r in records if r["key"]["part"] == "rules"], ("curve", "setting"))
    if not found:
        return ""
    tasks = list(next(iter(found.values())))
    key = next(iter(next(iter(found.values())).values()))["key"]
    names = (*SHARES, "rounds", "text_rounds", "answer_tokens_per_round", "bits_per_round", "bound")
    means = {at: pooled(list(own.values()), names) for at, own in found.items()}
    line = sorted(
        (m["rounds"], m["agreement"]) for (curve, _), m in means.items() if curve in ("threshold", "one per round")
    )
    rows = []
    for at, own in found.items():
        mean = means[at]
        cells = [*map(str, at), *(f"{100 * mean[name]:.1f}" for name in SHARES), f"{mean['rounds']:.2f}"]
        cells += [f"{mean['text_rounds']:.2f}", _percent(_between(line, mean["rounds"]))]
        cells += [f"{mean[name]:.2f}" if name in mean else "" for name in names[5:]]
        cells += [
            f"{100 * own[t]['agreement']:.0f}, {100 * own[t]['accuracy']:.0f}, {own[t]['rounds']:.1f}" for t in tasks
        ]
        rows.append(cells)
    head = ("rule", "", "agreement", "same", "right", "rounds", "of the text", "threshold at as many")
    more = ("answer tokens per round", "bits per round", "at least", *tasks)
    return (
        f"### Texts that are determined in part: {key['model']}\n\n```\npython benchmarks/localleap_text.py --filter FOLDER\n```\n\n"
        f"{key['samples']} texts of each kind ({', '.join(tasks)}), {key['columns']} answer columns in blocks of {key['block']}. Agreement: "
        "columns of the text that hold what one column per round gives; same: texts that are equal; right: texts that are one "
        "of the right ones; all in %. Rounds of the text: those that committed something before its end. Threshold at as many: "
        "agreement of the threshold rule at this number of rounds, on a line between its settings. By kind: agreement, right, rounds.\n\n"
    ) + table((*head, *more), rows)


def diagnostic(records: Sequence[Record]) -> str:
    """How often predictions are final, by confidence and distance to the nearest anchor."""
    own = [record for record in records if record["key"]["part"] == "diagnostic"]
    if not own:
        return ""
    lower, nearest = own[0]["confidence"], own[0]["distance"]  # ends of the buckets
    text = ""
    for kind, tasks in KINDS.items():
        right: Counter[tuple[float, str]] = Counter()
        count: Counter[tuple[float, str]] = Counter()
        for record in own:
            if record["key"]["task"] in tasks:
                for cell, (agreed, number) in record["cells"].items():
                    confidence, distance = cell.split(", ")
                    right[float(confidence), distance] += agreed
                    count[float(confidence), distance] += number
        if not count:
            continue
        columns = [*map(str, nearest), "none"]
        rows = []
        for low, high in pairwise((*lower, 1.0)):
            cells = [(right[low, at], count[low, at]) for at in columns]
            rows.append([f"{low:g} to {high:g}", *(f"{100 * r / n:.0f} ({n})" if n else "" for r, n in cells)])
        titles = [f"{low}" if high == low + 1 else f"{low} to {high - 1}" for low, high in pairwise(nearest)]
        text += f"\n{kind}:\n\n" + table(["confidence", *titles, f"{nearest[-1]} and more", "no anchor"], rows)
    return (
        "#### What is final, by confidence and distance\n\nOne column per round; every open column of the block that is part of the "
        "text, in every round: how often its prediction is the token that is committed in the end, in % (of how many), by its confidence "
        "and its distance to the nearest other open column with confidence 0.9 or more.\n"
    ) + text


def window(records: Sequence[Record]) -> str:
    """Agreement and accuracy against columns computed."""
    found = _by_setting(records, ("part", "setting"))
    if not found:
        return ""
    key = records[0]["key"]
    tasks = list(next(iter(found.values())))
    text = (
        f"### A window of the canvas: {key['model']}\n\n```\npython benchmarks/window_text.py\n```\n\nThe same texts ({key['samples']} of each kind), "
        "one column per round without blocks. Agreement (%), same (%): with what the same rule gives on the whole canvas; right (%); columns "
        "computed for an answer; fewer: the whole canvas's over these. By kind: agreement, right.\n"
    )
    for part, note in (("options", "w_in 16, w_ex 32, R 16, unless said otherwise"), ("grid", "all sizes")):
        rows = []
        for (own_part, setting), own in found.items():
            if own_part == part:
                mean = pooled(list(own.values()), (*SHARES, "rounds", "columns", "fewer_columns"))
                cells = [setting, *(f"{100 * mean[name]:.1f}" for name in SHARES), f"{mean['rounds']:.1f}"]
                cells += [f"{mean['columns']:.0f}", f"{mean['fewer_columns']:.2f}"]
                rows.append(
                    [*cells, *(f"{100 * own[t]['agreement']:.0f}, {100 * own[t]['accuracy']:.0f}" for t in tasks)]
                )
        if part == "grid":
            rows.sort(key=lambda cells: float(cells[5]))
        if rows:
            text += f"\n{note[0].upper()}{note[1:]}:\n\n"
            text += table(["", "agreement", "same", "right", "rounds", "columns", "fewer", *tasks], rows)
    return text


def speed(records: Sequence[Record]) -> str:
    """What the loop costs, and what a window saves by the clock."""
    if not records:
        return ""
    return "### Rounds by the clock\n\n```\npython benchmarks/diffusion_speed.py --save\n```\n\n" + "\n".join(
        tables(records)
    )


def _between(line: Sequence[tuple[float, float]], at: float) -> float | None:
    """The height of a curve, straight between its points; None: outside them."""
    for (left, low), (right, high) in pairwise(line):
        if left <= at <= right:
            return low if right == left else low + (high - low) * (at - left) / (right - left)
    return None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
