"""Charts of recorded results for the methods' pages.

python benchmarks/method_charts.py [--only caad,ead]       # writes docs/pictures/methods/*.svg; seconds, no model runs
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import bar_picture
import curve_picture
import grid_picture
from bar_picture import Group
from curve_picture import Panel
from grid_picture import Cell, Grid
from method_words import write
from results_store import FOLDER as RESULTS
from results_store import Store
from word_picture import heat

from szilard.evaluation.store import ResultStore

Record = dict[str, Any]
LAYERS = 8  # of the tiny model of benchmarks/first_layers.py


def ead() -> str:
    """Scores over the share of the tokens that the large model wrote, and chance at the same rates."""
    scores: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in _rows("ead"):
        share = 1.0 if row["method"] == "large-alone" else _counters(row).get("large_share", 0.0)
        scores[row["task"], row["method"]].append((share, row["score"]))
    panels = []
    for task, title in (("gsm8k", "GSM8K, 200 items"), ("humaneval", "HumanEval, 164 items")):
        means = {method: _mean_point(found) for (own, method), found in scores.items() if own == task}
        curves = {
            name: [point for method, point in means.items() if method.startswith(slug)]
            for name, slug in (("switched by entropy", "ead-"), ("switched at random", "random-"))
        }
        levels = [means[alone][1] for alone in ("greedy", "large-alone")]
        heights = curve_picture.ticks_around([*levels, *(score for _, score in means.values())])
        panels.append(Panel(title, curves, "% written by the large model", heights, levels=levels))
    ticks = [(0.04, "4"), (0.1, "10"), (0.2, "20"), (0.4, "40"), (0.8, "80")]
    return curve_picture.picture(panels, ticks, level="one model alone: small, large")


def _mean_point(found: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(share for share, _ in found) / len(found), 100 * sum(score for _, score in found) / len(found)


def caad() -> str:
    """TruthfulQA with and without retrieved logits, and with those of other entries."""
    names = {
        "greedy": "the model alone",
        "caad": "CAAD, τ = 0.7",
        "caad-0.5": "CAAD, τ = 0.5",
        "caad-0.3": "CAAD, τ = 0.3",
        "caad-0.3-shuffled": "τ = 0.3, other entries' logits",
    }
    titles = {
        "truthfulqa-gen": "TruthfulQA, 70 questions: answers nearer to a true reference, %",
        "truthfulqa-mc": "TruthfulQA, 70 questions: multiple choice, score in %",
    }
    groups = []
    for task, title in titles.items():
        scores: dict[str, list[float]] = defaultdict(list)
        for row in _rows("caad"):
            if row["task"] == task:
                scores[row["method"]].append(row["score"])
        bars = {said: 100 * sum(scores[name]) / len(scores[name]) for name, said in names.items()}
        groups.append(Group(title, bars, marked=[names["greedy"]], form="{:.1f}"))
    return bar_picture.picture(groups)


def agentic_mi() -> str:
    """Bits that are found against bits that are there."""
    own = [r for r in Store("agentic-mi") if r["key"]["part"] == "known" and "kept_bits" in r]
    truth = {f"{r['compressor']}: truly kept": r["kept_bits"] for r in own}
    bars: dict[str, float] = {}
    for record, (name, bits) in zip(own, truth.items(), strict=True):
        bars[name] = bits
        bars[f"{record['compressor']}: found"] = record["bits"]
    title = "Bits per text about which of 16 contexts it is from"
    ceiling = {"ceiling, log2 16": own[0]["ceiling_bits"]}
    return bar_picture.picture([Group(title, bars, ceiling, marked=list(truth))])


def arc_encoder() -> str:
    """What follows, behind the vectors of several settings."""
    own = [r for r in Store("arc_encoder_training") if r["key"]["experiment"] == "tiny"]
    levels = {"behind the tokens": own[0]["nll_full"], "without a context": own[0]["nll_without"]}
    bars = {record["key"]["arm"]: record["nll"] for record in own}
    return bar_picture.picture([Group("Nats per token of the look-ups behind the vectors", bars, levels)])


def refrag() -> str:
    """Which chunk is expanded, and what it is worth."""
    (own,) = [r for r in Store("refrag") if r["key"]["part"] == "policy"]
    names = {"learned": "learned", "perplexity_asc": "the likeliest", "random": "random"}
    names["perplexity"] = "the least likely"
    levels = {"all chunks as tokens": own["full_context"], "without a context": own["no_context"]}
    nats = {said: own[f"nll_{name}"] for name, said in names.items()} | {"none expanded": own["nll_none"]}
    picked = {said: 100 * own[f"picked_{name}"] for name, said in names.items()}
    return bar_picture.picture(
        [
            Group("Nats per token of what follows, one of eight chunks expanded", nats, levels, marked=["learned"]),
            Group("How often the marked chunk is expanded, %", picked, marked=["learned"], most=100, form="{:.0f}"),
        ]
    )


def comprexit() -> str:
    """Look-ups that are right, by soft compressor and ratio."""
    own = [r for r in Store("soft_recall") if r["key"]["task"] == "dictionaries"]
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in own:
        if record["key"]["ratio"]:
            curves[record["key"]["method"]].append((record["key"]["ratio"], 100 * record["values_right"]))
    levels = [100 * r["values_right"] for r in own if not r["key"]["ratio"]]
    panel = Panel("Look-ups that are right, eight pairs", curves, "tokens per vector", levels=levels)
    return curve_picture.picture(
        [panel], [(2, "2"), (4, "4"), (8, "8")], columns=2, level="whole context, last token alone"
    )


def markov() -> str:
    """Loss and entropy by place in the text."""
    (own,) = [r for r in Store("markov-lm") if r["key"]["part"] == "smollm2"]
    entropy = [(place + 1.0, h) for place, h, _ in own["by_place"]]
    loss = [(place + 1.0, nats) for place, _, nats in own["by_place"]]
    curves = {"loss": _smooth(loss), "entropy of its predictions": _smooth(entropy)}
    last = max(place for place, _ in loss)
    marks = [(2.0**power, str(2**power)) for power in range(0, 20, 2) if 1.5 * 2**power < last]
    marks.append((last, f"{last:.0f}"))
    panel = Panel("SmolLM2-135M-Instruct, nats per token", curves, "place in the text", (0, 3, 6, 9, 12), unit="")
    return curve_picture.picture([panel], marks, columns=2)


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over places of the same half octave."""
    groups: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for place, value in points:
        groups[math.floor(2 * math.log2(place))].append((place, value))
    return [
        (sum(place for place, _ in group) / len(group), sum(value for _, value in group) / len(group))
        for group in groups.values()
    ]


def first() -> str:
    """Which layers the routers skip, by task and rate."""
    rows, cells = [], []
    for record in Store("first"):
        key = record["key"]
        if key["part"] != "tasks":
            continue
        prompts = sum(record["sets"].values())
        skipped = [0.0] * LAYERS
        for layers, count in record["sets"].items():
            for layer in layers.split(","):
                skipped[int(layer)] += count / prompts
        rows.append(f"{key['task']}, {key['skipped']} of {LAYERS}")
        cells.append([_share(value) for value in skipped])
    order = sorted(range(len(rows)), key=rows.__getitem__)
    title = "Share of 256 prompts for which a layer is skipped, %"
    grid = Grid(title, [cells[at] for at in order], [rows[at] for at in order], [str(layer) for layer in range(LAYERS)])
    return grid_picture.picture([grid], side=(44, 24))


def _share(value: float) -> Cell:
    if not value:
        return Cell()
    fill, ink = heat(value)
    return Cell(fill, f"{100 * value:.0f}", ink)


def _rows(name: str) -> list[Record]:
    return ResultStore(RESULTS / name).table().to_pylist()


def _counters(row: Record) -> dict[str, float]:
    found = row["counters"]
    return json.loads(found) if isinstance(found, str) else dict(found or {})


PICTURES: dict[str, Callable[[], str | None]] = {
    "ead": ead,
    "caad": caad,
    "agentic-mi": agentic_mi,
    "arc-encoder": arc_encoder,
    "refrag": refrag,
    "comprexit": comprexit,
    "markov": markov,
    "first": first,
}


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="methods, separated by commas")
    write(PICTURES, [name for name in parser.parse_args().only.split(",") if name])


if __name__ == "__main__":
    main()
