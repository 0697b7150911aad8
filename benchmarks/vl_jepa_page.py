"""The reproduction page's part on VL-JEPA, from results/vl-jepa.jsonl and results/vl-jepa-simulation.jsonl."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from curve_picture import Panel, picture
from markdown_table import table
from results_store import Store

Record = dict[str, Any]
FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
CURVES, CLIP = FOLDER / "vl-jepa.svg", FOLDER / "vl-jepa-segments.svg"
HEAD = """## VL-JEPA

**Claim** (Chen et al. 2025, arXiv 2512.10942). Against a token-generative model with the same vision encoder, data and steps, the
predictor of answer embeddings learns from fewer samples, with half the weights that learn: after 15M samples CIDEr 14.8 and 7.1, top-5
classification 41.0 and 27.2 %. InfoNCE and a Y-Encoder at 0.05 of the learning rate are best; cosine, L1 and L2 are worse
(classification, frozen Y-Encoder: 23.3, 16.5, 14.8, 13.5 %). Streams decoded at 0.35 Hz where meaning changes are captioned as well as at 1 Hz.

Here everything is drawn on the spot and small: 8,000 pictures of one to three shapes, captions in five wordings (600 steps), then
questions with answers in five wordings and a tenth captions (600 steps), 64 samples a step. The vision encoder learned from the
pictures alone and is frozen; the twin is a causal language model behind the same tokens with about as many weights that learn.
Classification: top-1 of 128 captions; retrieval: R@1 of a caption among 64 scenes; VQA: the right answer among those of its kind;
all on scenes that no training saw. CIDEr: of captions written for held-out scenes against five references each.

```
python benchmarks/vl_jepa.py --part main        # and twin, paraphrases, losses, stream; --seed 1, 2
python benchmarks/vl_jepa.py --part simulation
```
"""
READING = """**Reading** (one seed). *Fewer samples: for choosing, yes; for writing, no.* In the captions stage VL-JEPA is ahead of the twin at every count of samples
(classification 48 and 16 % after 12,800, 88 and 66 % after 25,600; retrieval 93 and 62 % after 12,800), until both near their ceiling. On the questions it ends at 97 % where
the twin has 73 % (with half captions 88 and 65 %). Two things go the other way. With a tenth captions among the questions the space of captions is half forgotten
(classification 88 -> 10 -> 45 %), which the twin does not suffer; with half captions it stays (88 %), and the twin, which keeps improving, is ahead by the end (97 %). And its captions are worse
(CIDEr 1.4 and 1.9, twin 2.9): a decoder of 300 steps that reads one vector names a shape or a place wrongly, the twin looks at the picture as it writes. The
weights that learn are about equal here, so the claim of half as many is not tried; VL-JEPA's steps cost 40 % of the twin's.

*Paraphrases.* With one wording of every caption and answer the twin is the better on captions (classification 90 against 35 %, CIDEr 7.6 against 3.3) and VL-JEPA by 5 points on
questions (99 and 94 %); with five wordings it is by 24 (97 and 73 %). So the paper's reason shows: a target in a space of meanings does not pay for the choice among wordings, tokens do.

*Losses.* The order of the paper: InfoNCE learns, cosine, L1 and L2 do not (frozen Y-Encoder: retrieval 53 % against 4 to 7 %), and with a Y-Encoder that learns they collapse (all pairs
of captions at cosine 1.00). A Y-Encoder at 0.05 to 0.1 of the rate retrieves best (87 to 90 %; frozen 80, full rate 73), as claimed; classification of unseen captions is better the less it learns, which
400 steps may not settle. A causal predictor loses 8 points of VQA. Batches of 16 are too few negatives, and a first temperature of 0.2 is too soft. Equal answers in a batch: positives, negatives or ignored differ by
3 points of VQA.

*Selective decoding* holds on clips: Ward with the mean of each segment has CIDEr 4.18 from 144 decodings and 4.04 from 72, decoding all 720 windows 4.16: five times fewer for the same captions, where uniform
decoding needs 360. What limits all of them is the decoder, which names 65 % of the stretches wholly right even when it sees every window. The simulation agrees with the claim where noise is low and says where it ends: what
decides under heavy noise is the mean over a segment, not where the segments are.
"""
RUNS = ("main", "twin", "captions", "paraphrases")
SHARES = ("classification", "retrieval", "vqa", "colour", "count", "place", "size")


def page() -> Iterator[str]:
    """Lines of the page; none where nothing was measured."""
    records, simulated = list(Store("vl-jepa")), list(Store("vl-jepa-simulation"))
    if not records and not simulated:
        return
    yield HEAD
    if runs := [record for record in records if record["key"]["part"] in RUNS]:
        yield "At the end of both stages, mean ± standard deviation over seeds:\n"
        yield _runs(runs)
        CURVES.write_text(_curves(runs), encoding="utf-8")
        yield f"![over the samples seen](pictures/{CURVES.name})\n"
    if losses := [record for record in records if record["key"]["part"] == "losses"]:
        yield (
            "### Losses, multipliers, masks\n\n400 steps of questions with three tenths captions, constant rate. The first row is "
            "VL-JEPA as it is; mean cosine: of all pairs of held-out captions, 1 where everything fell into a point.\n"
        )
        yield _losses(losses)
    if streams := [record for record in records if record["key"]["part"] == "stream"]:
        yield from _streams(streams)
    for record in simulated:
        yield from _simulated(record)
    yield READING


def _runs(records: list[Record]) -> str:
    names = {name: f"{name} %" for name in SHARES} | {"cider": "CIDEr"}
    rows = []
    for (model, wordings, captions), own in _grouped(records, "model", "wordings", "captions").items():
        cells = [_spread([record[name] * (1 if name == "cider" else 100) for record in own]) for name in names]
        weights = f"{own[0]['learning_weights'] / 1e3:.0f}k"
        seconds = f"{statistics.mean(record['cpu_seconds'] for record in own):.0f}"
        share = f"{captions or 0.1:.0%}"
        rows.append([_NAMES[model], str(wordings), share, str(len(own)), *cells, weights, seconds])
    return table(
        ["model", "wordings", "captions in stage 2", "seeds", *names.values(), "weights that learn", "CPU seconds"],
        rows,
    )


_NAMES = {"vl-jepa": "VL-JEPA", "twin": "token twin"}


def _curves(records: list[Record]) -> str:
    """Classification, retrieval and VQA over the samples seen, mean over seeds."""
    panels = []
    groups = _grouped(records, "model", "wordings", "captions")
    for place, name in enumerate(("classification", "retrieval", "vqa"), start=1):
        curves = {}
        for (model, wordings, captions), own in groups.items():
            points: dict[int, list[float]] = defaultdict(list)
            for record in own:
                for row in record["curve"]:
                    points[row[0]].append(100 * row[place])
            words = f"{wordings} wording{'s' * (wordings > 1)}"
            words += f", {captions:.0%} captions" if captions else ""
            curves[f"{_NAMES[model]}, {words}"] = [(at, statistics.mean(some)) for at, some in points.items() if at]
        panels.append(Panel(name.upper() if name == "vqa" else name, curves, "samples seen"))
    last = max(row[0] for record in records for row in record["curve"])
    ticks = [last // part for part in (12, 6, 3, 2, 1)]
    return picture(panels, [(tick, f"{tick / 1000:.0f}k") for tick in ticks], columns=2)


def _losses(records: list[Record]) -> str:
    fixed = ("part", "model", "wordings", "seed")
    groups: dict[tuple[tuple[str, Any], ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[tuple((name, value) for name, value in record["key"].items() if name not in fixed)].append(record)
    rows = []
    for changes, own in groups.items():
        cells = [_spread([record[name] * 100 for record in own]) for name in ("classification", "retrieval", "vqa")]
        cells += [
            f"{statistics.mean(record[name] for record in own):.2f}" for name in ("mean_cosine_of_texts", "temperature")
        ]
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changes)
        rows.append([said, str(len(own)), *cells])
    return table(["changed", "seeds", "classification %", "retrieval %", "VQA %", "mean cosine", "temperature"], rows)


def _streams(records: list[Record]) -> Iterator[str]:
    first = records[0]
    windows, every = first["windows"], statistics.mean(record["every_window_right"] for record in records)
    yield (
        f"### Selective decoding of clips\n\n{windows} windows of clips whose shape changes colour or movement "
        f"{first['segments']} times, one window a second, mean over {len(records)} seed{'s' * (len(records) > 1)}. CIDEr of what is decoded nearest to each stretch's "
        f"middle, and in brackets the share that says what is seen; decoding every window says it in {100 * every:.0f} %.\n"
    )
    rows = [
        row | {"hertz": row["decodings"] / windows, "shown": f"{row['cider']:.2f} ({100 * row['right']:.0f} %)"}
        for row in _averaged(records, ("decodings", "cider", "right"))
    ]
    yield from _by_rate(rows)
    if CLIP.exists():
        yield (
            f"![a segmented clip](pictures/{CLIP.name})\n\nA clip: how alike its windows are, the segments that Ward's cost "
            "finds, what was decoded of each, and, as ticks above, where the clip truly changes.\n"
        )


def _simulated(record: Record) -> Iterator[str]:
    yield (
        f"### Selective decoding, simulated, noise {record['key']['sigma']:g}\n\n720 windows (2 Hz) of 60 segments, 30 directions in R^64, "
        f"noise {record['key']['sigma']:g} N(0, 1) / 8; decoding finds the nearest direction. Share of segments whose nearest "
        f"decoding is right, %, mean over {record['key']['repetitions']} streams (standard deviation of a stream "
        f"{100 * max(row['spread'] for row in record['rows']):.0f} at most).\n"
    )
    yield from _by_rate([row | {"shown": f"{100 * row['right']:.0f}"} for row in record["rows"]])


def _by_rate(rows: list[Record]) -> Iterator[str]:
    """Rules with a rate as rows, rates as columns; then rules with a threshold, which find a rate themselves."""
    rates = sorted({row["rate"] for row in rows if "rate" in row})
    groups: dict[str, dict[float, str]] = defaultdict(dict)
    for row in rows:
        if "rate" in row:
            groups[_rule(row)][row["rate"]] = row["shown"]
    cells = ([name, *(own.get(rate, "") for rate in rates)] for name, own in groups.items())
    yield table(["rule", *(f"{rate:g} Hz" for rate in rates)], cells)
    own = (
        [_rule(row), f"{row['threshold']:g}", f"{row['hertz']:.2f}", row["shown"]] for row in rows if "threshold" in row
    )
    yield table(["rule that sees no future but a window", "threshold", "Hz", "found"], own)


def _rule(row: Record) -> str:
    smooth = f", smoothed over {row['smooth']}" if "smooth" in row else ""
    return f"{row['method']}{smooth}, {'mean' if row['pool'] else 'middle'}"


def _averaged(records: list[Record], names: Iterable[str]) -> list[Record]:
    """Rows of several records, number by number."""
    named = tuple(names)
    return [
        rows[0] | {name: statistics.mean(row[name] for row in rows) for name in named}
        for rows in zip(*(record["rows"] for record in records), strict=True)
    ]


def _grouped(records: list[Record], *names: str) -> dict[tuple[Any, ...], list[Record]]:
    found: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        found[tuple(record["key"].get(name) for name in names)].append(record)
    return found


def _spread(values: list[float]) -> str:
    digits = 1 if max(values) > 10 else 2
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
