"""ParallelBench's tables and picture on the reproduction page, from records of `diffusion_parallelbench.py`.

Every function gives markdown (or an SVG), and "" where nothing was measured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, linear_regression
from typing import Any

import curve_picture
from curve_picture import Panel
from diffusion_contestants import BLOCKS
from diffusion_run import pooled
from markdown_table import table

from szilard.evaluation.parallelbench import (
    Point,
    SweepTable,
    centre_of_mass,
    oracle,
    pb_at,
    replace_random_accuracy,
    shuffle_accuracy,
)
from szilard.evaluation.parallelbench.sweep import Row

Record = dict[str, Any]
Curves = dict[tuple[str, Any], dict[str, Record]]  # by curve and setting, by task
COMMAND = "```\npython benchmarks/diffusion_parallelbench.py --filter FOLDER\n```\n\n"
PANELS = ("shuffle", "replace_random", "copy", "latin_square", "sudoku")
ABLATIONS = (  # curves that the picture leaves to the table
    *("top-k, margin", "top-k, entropy", "schedule, chance", "LocalLeap, W = 1", "LocalLeap, W = 8", "ETE, 4 branches"),
    *("threshold, blocks", "ETE, blocks"),
)
OTHER_STUDIES = ("blocks, k = 2", "end of text, ")  # curves that are no rule over its own knob
STEPPED = ("top-k", "schedule", "EGP")  # no points between their settings
ACCURACIES = (80, 75, 70)
KEPT = (
    ("top-k, confidence", 1, "one per round"),
    ("threshold", 0.9, "threshold 0.9"),
    ("Learn2PD", 0.96, "Learn2PD 0.96"),
)
DEFAULTS = (
    *(("top-k, confidence", 1), ("threshold", 0.9), ("factor", 1.0), ("entropy bound", 0.001), ("entropy bound", 0.1)),
    *(("LocalLeap, W = 4", 0.75), ("ETE", 0.9), ("ETE, stalled", 0.9), ("ETE, m = 2", 0.9), ("ETE, 2 branches", 0.9)),
    *(("ETE, 4 branches", 0.9), ("EGP oracle", "")),
)
SUMMARY = ("tokens_per_round", "answer_tokens_per_round", "rounds", "bound", "bits_per_round", "copies", "columns")


def _grouped(records: Sequence[Record], *items: str) -> tuple[Curves, list[str]]:
    """Settings for which every task of a set was measured, and the tasks: lists of these items ("": puzzles)."""
    found: Curves = defaultdict(dict)
    for record in records:
        key = record["key"]
        if key["items"] in items and not key["temperature"]:
            found[key["curve"], key["setting"]][key["task"]] = record
    tasks = list(dict.fromkeys(task for own in found.values() for task in own))
    return {at: own for at, own in found.items() if len(own) == len(tasks)}, tasks


def _rules(found: Curves) -> Curves:
    return {at: own for at, own in found.items() if not at[0].startswith(OTHER_STUDIES)}


def _accuracy(records: Sequence[Record]) -> float:
    return 100 * fmean(record["accuracy"] for record in records)


def _point(own: dict[str, Record]) -> Point:
    return Point(fmean(r["tokens_per_round"] for r in own.values()), _accuracy(list(own.values())))


def curves(records: Sequence[Record], items: str) -> str:
    """Every rule over its knob: means over tasks, then the accuracy of a few."""
    found, tasks = _grouped(records, *(("names", "") if items == "names" else (items,)))
    if not found:
        return ""
    key = next(iter(next(iter(found.values())).values()))["key"]
    lists = "lists of names of two tokens, and puzzles" if items == "names" else "lists of single words"
    head = f"### ParallelBench, {lists}: {key['model']}\n\n"
    if items == "words":
        head += COMMAND + (
            f"{key['samples']} compact questions of each task, {key['columns']} answer columns in one block of 32 unless said "
            "otherwise, the likeliest tokens. Tokens per round: columns over rounds, padding behind the answer included (the "
            "paper's axis); answer: those up to its end alone. At least: rounds that its bits take at its largest round. Copies: "
            "canvases that go through the model per round and answer. The EGP oracle knows the answer of one column per round. "
            "Schedules: LLaDA's is top-k by confidence.\n\n"
        )
    return head + _curve_table(found, tasks)


def _curve_table(found: Curves, tasks: Sequence[str]) -> str:
    shown = [task for task in PANELS if task in tasks]
    rows = []
    for (curve, setting), own in _rules(found).items():
        means = pooled(list(own.values()), SUMMARY)
        cells = [curve, str(setting), f"{_accuracy(list(own.values())):.1f}", *(_number(means.get(n)) for n in SUMMARY)]
        rows.append([*cells, *(f"{100 * own[task]['accuracy']:.0f}" for task in shown)])
    columns = ("tokens per round", "answer", "rounds", "at least", "bits per round", "copies", "columns computed")
    return table(["rule", "", f"accuracy, {len(tasks)} tasks", *columns, *shown], rows)


def speed_at_accuracy(records: Sequence[Record]) -> str:
    """PB@80/75/70 of every rule, and the best threshold of every sample."""
    found, tasks = _grouped(records, "words")
    rules = _rules(found)
    if not rules:
        return ""
    rows = []
    for curve in dict.fromkeys(curve for curve, _ in rules):
        points = [_point(own) for (name, _), own in rules.items() if name == curve]
        reached = [pb_at(points, at, interpolate=not curve.startswith(STEPPED)) for at in ACCURACIES]
        rows.append([curve, *(f"{speed:.2f}" for speed in reached)])
    text = (
        f"#### Tokens per round at an accuracy\n\nPB@A: the most tokens per round at which the average over {len(tasks)} tasks is at "
        "least A %; on lines between settings where the knob is continuous, 0 where it is never reached.\n\n"
    )
    text += table(["rule", *(f"PB@{at}" for at in ACCURACIES)], rows)
    best = _oracle(rules)
    if best is not None:
        text += f"\nThe best threshold of every sample (fewest rounds of the highest score): {best.accuracy:.1f} % at {best.tokens_per_step:.2f} tokens per round.\n"
    return text


def _oracle(found: Curves) -> Point | None:
    rows = []
    for (curve, setting), own in found.items():
        if curve == "threshold":
            for task, record in own.items():
                for at, (right, rounds) in enumerate(zip(record["sample_right"], record["sample_rounds"], strict=True)):
                    rows.append(Row(task, setting, at, record["key"]["columns"] / rounds, rounds, right))
    return oracle(SweepTable(tuple(rows))) if rows else None


def tasks(records: Sequence[Record]) -> str:
    """How well every task can be parallelised, and what blocks do to it."""
    found, names = _grouped(records, "words")
    blocks = [block for block in BLOCKS if ("blocks, k = 2", block) in found]
    if len(blocks) < 2:
        return ""
    rows = []
    for task in names:
        cells = [task]
        for curve in ("top-k, confidence", "top-k, random"):
            scores = {k: own[task]["accuracy"] for (name, k), own in found.items() if name == curve}
            cells.append(f"{centre_of_mass(scores):.1f}" if sum(scores.values()) > 0 else "")
        line = [100 * found["blocks, k = 2", block][task]["accuracy"] for block in blocks]
        slope = linear_regression([math.log2(block) for block in blocks], line).slope
        rows.append([*cells, *(f"{value:.0f}" for value in line), f"{slope:+.1f}"])
    return (
        "#### Tasks\n\nCentre of mass: (sum of k times accuracy) / (sum of accuracy) over k tokens per round, low is hard to "
        "parallelise. Blocks: accuracy in % at two tokens per round, most confident first, in blocks of so many columns; slope: "
        "points per doubling of the block.\n\n"
    ) + table(["task", "centre, confidence", "centre, random", *(f"blocks of {b}" for b in blocks), "slope"], rows)


def ends(records: Sequence[Record]) -> str:
    """Rules of where a text ends."""
    found, count = _grouped(records, "words")
    rows = []
    for curve, setting, name in KEPT:
        points = [("keep", found.get((curve, setting)))]
        points += [(end, own) for (other, end), own in found.items() if other == f"end of text, {name}"]
        for end, own in points:
            if own is not None and len(points) > 1:
                means = pooled(list(own.values()), ("rounds", "answer_tokens_per_round", "columns"))
                rows.append([name, end, f"{_accuracy(list(own.values())):.1f}", *map(_number, means.values())])
    if not rows:
        return ""
    return (
        f"#### Where a text ends\n\nMeans over {len(count)} tasks. keep: all columns are filled; committed: nothing behind a committed end "
        "of text (EoTP as its paper says it); predicted: nothing behind the likeliest proposed one (as its code does it); block: "
        "nothing behind a block that holds one.\n\n"
    ) + table(["rule", "end of text", "accuracy", "rounds", "answer tokens per round", "columns computed"], rows)


def exact(records: Sequence[Record]) -> str:
    """Rules on true conditionals, the closed forms, and every rule over its knob."""
    if not records:
        return ""
    by_task = {(r["key"]["task"], r["key"]["temperature"], r["key"]["curve"], r["key"]["setting"]): r for r in records}
    asked = list(dict.fromkeys((task, temperature) for task, temperature, _, _ in by_task))
    shown = [(task, t) for task, t in asked if task in PANELS or _is_special(task)]
    rows = []
    for curve, setting in DEFAULTS:
        cells = [_exact_cell(by_task.get((task, t, curve, setting))) for task, t in shown]
        if any(cells):
            rows.append([f"{curve} {setting}".strip(), *cells])
    titles = [task if not _is_special(task) else f"{task}, T = {t:g}" for task, t in shown]
    samples = records[0]["key"]["samples"]
    text = (
        "### The same rules on true distributions\n\n```\npython benchmarks/diffusion_parallelbench.py --model exact\n```\n\n"
        f"No training and no bias: every open column has its true conditional distribution; {samples} canvases each, lists of six words. "
        "names_shuffle: five names of three tokens in any order; key_bits: one of eight keys and its three bits; two_key_bits: two "
        "of these. Accuracy in %, rounds, (bits per round).\n\n"
    ) + table(["rule", *titles], rows)
    text += _closed_forms(by_task)
    found, names = _grouped([r for r in records if not _is_special(r["key"]["task"])], "words", "")
    if found:
        text += "\nEvery rule over its knob, lists and puzzles:\n\n" + _curve_table(found, names)
    return text


def _is_special(task: str) -> bool:
    """Whether a task is none of the benchmark's: a distribution with one prompt."""
    return task.endswith("_bits") or task == "names_shuffle"


def _closed_forms(by_task: dict[tuple[str, float, str, Any], Record]) -> str:
    rows = []
    for task, formula in (("shuffle", shuffle_accuracy), ("replace_random", replace_random_accuracy)):
        for k in (1, 2, 4, 8):
            measured = [
                by_task.get((task, 0, f"top-k, {score}", k)) for score in ("confidence", "random", "left-to-right")
            ]
            if all(measured):
                cells = [f"{100 * record['accuracy']:.0f}" for record in measured if record is not None]
                rows.append([task, str(k), f"{100 * formula(6, min(k, 6)):.1f}", *cells])
    if not rows:
        return ""
    head = ("task", "k", "closed form", "by confidence", "random", "left to right")
    return "\nTop-k against the closed forms, accuracy in %:\n\n" + table(head, rows)


def _exact_cell(record: Record | None) -> str:
    if record is None:
        return ""
    return f"{100 * record['accuracy']:.0f}, {record['rounds']:.1f} ({_number(record.get('bits_per_round'))})"


def picture(records: Sequence[Record]) -> str:
    """Accuracy against tokens per round, a panel for the average and for a few tasks."""
    found, tasks = _grouped(records, "words")
    rules = {at: own for at, own in _rules(found).items() if not at[0].startswith(ABLATIONS)}
    if not rules:
        return ""
    names = list(dict.fromkeys(curve for curve, _ in rules))
    average = {name: [_point(own) for (curve, _), own in rules.items() if curve == name] for name in names}
    best = _oracle(rules)
    if best is not None:
        average["best threshold per sample"] = [best]
    axis = "tokens per round"
    panels = [Panel(f"average of {len(tasks)} tasks", average, axis)]
    for task in PANELS:
        if task in tasks:
            lines = {
                name: [_point({task: own[task]}) for (curve, _), own in rules.items() if curve == name]
                for name in names
            }
            panels.append(Panel(task.replace("_", " "), lines, axis))
    return curve_picture.picture(panels, [(2.0**power, str(2**power)) for power in range(6)], columns=4)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2f}"
