"""The reproduction page's part on concepts and sparse autoencoders, from results/sae.jsonl."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curve_picture import Panel, picture, ticks_around
from markdown_table import table
from results_store import Store
from sae_readings import HEAD, MODELS, PLANTED, SIMULATION

Record = dict[str, Any]
Curves = dict[str, dict[int, list[Record]]]  # records by contestant and seed
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "sae-planted.svg"
BALANCED = {"topics": 1.4, "graph": 2.0}  # gamma / lambda at which neither part takes all
COMPARED = {"topics": (5.0, 8.0), "graph": (3.0, 6.0)}  # L0
COLUMNS = {
    "exp": "corr. of exp z and p",
    "log": "corr. of z and log p",
    "auroc": "AUROC",
    "readout exp": "D^T x: exp",
    "readout log": "D^T x: log",
    "readout auroc": "D^T x: AUROC",
    "sparse exp": "S alone: exp",
    "directions": "directions",
    "explained_variance": "explained variance",
}


def page() -> Iterator[str]:
    """Lines of the page; none where nothing was measured."""
    records = list(Store("sae"))
    if not records:
        return
    yield HEAD
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        parts[record["key"]["part"]].append(record)
    if parts["planted"]:
        yield from _planted(parts["planted"])
        yield PLANTED
    if parts["simulation"]:
        yield from _simulation(parts["simulation"], parts["identity"])
        yield SIMULATION
    if parts["smollm2"]:
        yield from _alignment(parts["smollm2"])
    if parts["harvest"]:
        yield from _harvest(parts["harvest"])
    if parts["saes"]:
        yield from _saes(parts["saes"])
    if parts["smollm2"]:
        yield MODELS


def _planted(records: list[Record]) -> Iterator[str]:
    panels = []
    for world, targets in COMPARED.items():
        own = [record for record in records if record["key"]["world"] == world]
        if not own:
            continue
        curves = _curves(own, world)
        for target in targets:
            yield (
                f"*{world}*, held-out contexts, each contestant's curve read at L0 = {target:g} (of S), mean ± standard "
                "deviation over seeds:\n"
            )
            yield table(["autoencoder", *COLUMNS.values()], _rows(curves, target))
        dense = own[0]
        yield (
            f"Posteriors themselves have an AUROC of {_mean(own, 'ceiling')}, random directions "
            f"{dense['random directions']:.2f}; a random dictionary with every feature active gets "
            f"{_mean([r for r in own if 'sparse exp floor' in r], 'exp floor')} (exp) and "
            f"{_mean([r for r in own if 'sparse floor' in r], 'floor')} (log).\n"
        )
        yield "What R takes, by gamma / lambda (mean over seeds and the weights with that quotient):\n"
        yield _quotients(own)
        for name in ("exp", "auroc", "directions"):
            points = {
                contestant: [
                    (max(1.0, statistics.mean(run["l0"] for run in group)), statistics.mean(run[name] for run in group))
                    for group in zip(
                        *(sorted(runs, key=lambda run: run["l0"]) for runs in seeds.values()), strict=False
                    )
                ]
                for contestant, seeds in curves.items()
            }
            heights = [y for curve in points.values() for _, y in curve]
            if heights:
                panels.append(Panel(f"{world}: {name}", points, "L0", ticks_around(heights), ""))
    if panels:
        across = [(1, "1"), (2, "2"), (4, "4"), (8, "8"), (16, "16"), (32, "32")]
        PICTURE.write_text(picture(panels, across), encoding="utf-8")
        yield f"![recovery of planted concepts over L0](pictures/{PICTURE.name})\n"


def _curves(records: list[Record], world: str) -> Curves:
    """The contestants that are compared: of the structured ones with a linear head those with the balanced quotient."""
    found: Curves = defaultdict(lambda: defaultdict(list))
    for record in records:
        key = record["key"]
        name, settings = key["name"], key["settings"]
        if name.startswith("structured, gamma"):
            if not math.isclose(settings["rank_weight"] / settings["sparsity_weight"], BALANCED[world]):
                continue
            name = f"structured, gamma = {BALANCED[world]:g} lambda"
        found[name][key["seed"]].append(record)
    return found


def _rows(curves: Curves, target: float) -> Iterator[list[str]]:
    for name, seeds in curves.items():
        cells = []
        for column in COLUMNS:
            values = [value for runs in seeds.values() if (value := _at(runs, column, target)) is not None]
            cells.append(_spread(values) if len(values) == len(seeds) else "")
        if any(cells):
            yield [name, *cells]


def _at(runs: Sequence[Record], column: str, target: float) -> float | None:
    """A contestant's value at an L0, between its runs of one seed, linear in log L0; None outside of them."""
    points = sorted((math.log(max(run["l0"], 1e-3)), run[column]) for run in runs if column in run)
    x = math.log(target)
    for (left, low), (right, high) in itertools.pairwise(points):
        if left - 0.03 <= x <= right + 0.03:
            return low + (high - low) * (x - left) / max(right - left, 1e-9)
    return None


def _quotients(records: list[Record]) -> str:
    groups: dict[float, list[Record]] = defaultdict(list)
    for record in records:
        if record["key"]["name"].startswith("structured, gamma"):
            settings = record["key"]["settings"]
            groups[round(settings["rank_weight"] / settings["sparsity_weight"], 3)].append(record)
    names = ("l0", "low_rank_share", "rank", "dead", "exp", "sparse exp", "directions")
    words = ("L0 of S", "share of R", "rank of R", "dead", "exp", "S alone: exp", "directions")
    rows = ([f"{ratio:g}", *(_mean(own, name) for name in names)] for ratio, own in sorted(groups.items()))
    return table(["gamma / lambda", *words], rows)


def _simulation(records: list[Record], exact: list[Record]) -> Iterator[str]:
    groups: dict[tuple[int, int, int], list[Record]] = defaultdict(list)
    for record in records:
        key = record["key"]
        groups[key["concepts"], key["edges"], key["observed"]].append(record)
    names = ("accuracy", "bayes", "majority", "log_odds_share", "epsilon")
    yield "The simulation study (means over concepts and three seeds):\n"
    yield table(
        ["concepts", "graph", "observed", "accuracy from f_x", "of the posterior", "of the majority", "R²", "epsilon"],
        ([str(m), f"ER{k}", str(n), *(_mean(own, name) for name in names)] for (m, k, n), own in groups.items()),
    )
    if exact:
        by_sharpness: dict[float, list[Record]] = defaultdict(list)
        for record in exact:
            by_sharpness[record["key"]["sharpness"]].append(record)
        yield "Exact models with random tables (4 values, 30 tokens, 200 contexts; means over five draws):\n"
        yield table(
            ["sharpness", *(f"{value:g}" for value in by_sharpness)],
            [
                ["mean epsilon", *(_mean(own, "epsilon") for own in by_sharpness.values())],
                ["R² of log p(y|x) on log p(c|x)", *(_mean(own, "R2") for own in by_sharpness.values())],
            ],
        )


def _alignment(records: list[Record]) -> Iterator[str]:
    yield "SmolLM2-135M-Instruct, 17 concepts of 28 to 52 pairs, directions and probes of different pairs:\n"
    rows = []
    for record in records:
        key, count = record["key"], len(record["names"])
        above = sum(d > b for d, b in zip(record["diagonal"], record["null bound"], strict=True))
        numbers = [
            statistics.mean(record["diagonal"]),
            min(record["diagonal"]),
            record["off-diagonal"],
            statistics.mean(record["null"]),
            statistics.mean(record["null bound"]),
        ]
        cells = [f"{value:.3f}" for value in numbers]
        accuracy = f"{statistics.mean(record['accuracy']):.3f}"
        rows.append([key["words"], str(key["layer"]), *cells, f"{above} of {count}", accuracy])
    head = ["words", "layer", "diagonal", "smallest", "mean abs. off-diagonal", "permuted", "largest permuted"]
    yield table([*head, "above it", "held-out accuracy"], rows)


def _harvest(records: list[Record]) -> Iterator[str]:
    rows = sorted(records, key=lambda record: record["key"]["rows"])
    chosen = rows[:: max(1, len(rows) // 8)]
    if chosen[-1] is not rows[-1]:
        chosen.append(rows[-1])
    yield f"Harvest of layer {rows[0]['key']['layer']} (float16 on disk), the process's resident memory:\n"
    yield table(
        ["activations so far", *(f"{record['key']['rows']:,}" for record in chosen)],
        [["resident, MB", *(f"{record['resident_mb']:.0f}" for record in chosen)]],
    )


def _saes(records: list[Record]) -> Iterator[str]:
    first = records[0]
    probes = first["all, exp_pearson"]
    yield (
        f"Autoencoders of layer {first['key']['layer']} ({first['key']['rows']:,} activations, one seed; d = 576, m = 2,304, 400 steps "
        f"of 1,024). Loss of the model on WikiText-2: {first['loss']:.3f} nats, {first['loss without']:.3f} with the "
        f"layer's mean. AUROC of supervised probes, the ceiling: {probes['ceiling']:.3f}:\n"
    )
    rows = []
    for record in records:
        settings = {k: v for k, v in record["key"].items() if k not in ("part", "model", "layer", "rows", "kind")}
        told = ", ".join(f"{name.replace('_weight', '')} {value:g}" for name, value in settings.items())
        log, exp = record["all, log_pearson"], record["all, exp_pearson"]
        alone = record.get("sparse, log_pearson")
        rows.append(
            [
                record["key"]["kind"],
                told,
                f"{record['l0']:.1f}",
                f"{record['explained_variance']:.3f}",
                f"{100 * record['dead']:.0f} %",
                f"{record['low_rank_share']:.2f} ({record['rank']:.0f})" if "rank" in record else "",
                f"{100 * record['recovered']:.1f} %",
                f"{exp['mean']:.3f} ({exp['floor']:.3f})",
                f"{log['mean']:.3f} ({log['floor']:.3f})",
                f"{log['auroc']:.3f}" + (f" (S {alone['auroc']:.3f})" if alone else ""),
            ]
        )
    head = ["kind", "settings", "L0", "explained variance", "dead", "share of R (rank)", "loss recovered"]
    yield table([*head, "exp (random)", "log (random)", "AUROC"], rows)


def _mean(records: Sequence[Record], name: str) -> str:
    values = [record[name] for record in records if name in record]
    return f"{statistics.mean(values):.3f}" if values else ""


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    more = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{more}"
