"""The reproduction page's part on FEDS, from results/feds.jsonl."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curve_picture import Panel, picture
from markdown_table import table
from results_store import Store

Record = dict[str, Any]
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "feds-channels.svg"
METHODS = ("scratch", "kd", "feature", "feds")
NAMES = {"mean-scale": "Mean-scale hyperprior", "mlicv2": "MLICv2 with attention"}
HEAD = """## FEDS

**Claim** (Fu, Liang, Fang, Han 2025, arXiv 2503.06399). A student with about 63 % fewer parameters that encodes and decodes in about
73 % less time loses 1.24 % BD-rate to its teacher on Kodak, 1.17 % on Tecnick, 0.55 % on CLIC. Only the abstract is known: the losses here are a
reconstruction, so what is measured here is this reconstruction, not the paper's method.

Here: small codecs, trained on the packaged photographs (8 crops of 64 pixels a step) and measured on the middle 256 x 256 pixels of
Kodak's 24 pictures: J = lambda 255² MSE + bpp, bits by the likelihoods, PSNR after rounding to 8 bits. Students of a lambda and
seed begin with the same weights and see the same crops in the same order for the same steps. Seconds are of one core.

```
python benchmarks/feds.py --kodak FOLDER --work FOLDER --family mean-scale --part teacher    # students, ablation, channels
```
"""
READING = """**Reading.** *The cost shows, the quality does not.* The student has 62 to 63 % fewer parameters and takes 54 to 62 % less time (the paper: 73). While training is short, distillation helps: after 2,000 steps J is 15 and 10 % lower than from scratch at the two
small lambdas and the same at the large ones; after 6,000 steps at lambda 0.013 it is 22 % lower. Where a student goes on from there with another lambda it is the other way round: under FEDS the rate stays where it
was (0.63 bpp at 25.7 dB, from scratch 0.34 at the same PSNR), since the teacher's latents, which it is to imitate for four fifths of the steps, pull it back, and J is 6 to 26 % higher. Against the teacher that student
loses 62 % of the bits at equal PSNR; the one from scratch needs 7.5 % fewer than the teacher, with 38 % of its parameters: at this size a teacher has nothing to teach. MLICv2's student is 4 % worse than from scratch
after 500 steps. Curves of so short trainings do not rise evenly, so the rates are rough. Tried: two families, two lengths; one seed. The paper's 1.24 % come from full trainings, and its losses are not published.
"""


def page() -> Iterator[str]:
    """Lines of the page; none where nothing was measured."""
    records = list(Store("feds"))
    if not records:
        return
    yield HEAD
    for family, title in NAMES.items():
        own = [record for record in records if record["key"]["family"] == family]
        if own:
            yield f"### {title}\n"
            yield from _family(own)
    channels = [record for record in records if record["key"]["part"] == "channels"]
    if channels:
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text(_picture(channels), encoding="utf-8")
        yield "Entropy of the teachers' channels on Kodak's pictures, in bits per element:\n"
        yield _channels(channels)
        yield f"![bits by channels](pictures/{PICTURE.name})\n"
    if READING:
        yield READING


def _part(records: Sequence[Record], part: str) -> list[Record]:
    return [record for record in records if record["key"]["part"] == part]


def _family(records: Sequence[Record]) -> Iterator[str]:
    teachers = {record["key"]["lambda"]: record for record in _part(records, "teacher")}
    students = _part(records, "students")
    if costs := _part(records, "cost"):
        yield "Cost, seconds for one picture of 768 x 512 pixels, teacher and student in turns:\n"
        yield _costs(costs)
    if teachers and students:
        yield "Students, mean over seeds; BD-rate against the teacher (pchip, points that no other of their curve beats), J relative to the student from scratch:\n"
        yield _students(teachers, students)
        yield "J of the students while they train, at the end of each phase, relative to the one from scratch:\n"
        yield _phases(students)
    if teachers and (long := _part(records, "long")):
        yield "Students that learn as long as their teachers (of lambda 0.013 from scratch, of the others from there):\n"
        yield _students(teachers, long)
    ablation = _part(records, "ablation")
    if ablation:
        yield "What the terms are worth, at lambda = 0.013: J relative to the student from scratch of the same seed:\n"
        yield _ablation(students, ablation)


def _costs(records: Sequence[Record]) -> str:
    names = ("parameters", "encode", "decode")
    rows = []
    for record in records:
        old, new = ([record[f"{name} {who}"] for name in names] for who in ("teacher", "student"))
        for who, (count, *seconds) in (("teacher", old), ("student", new)):
            rows.append([record["key"]["arithmetic"], who, f"{count:,}", *(f"{one:.3f}" for one in seconds)])
        changes = [f"{100 * (one / other - 1):+.0f} %" for one, other in zip(new, old, strict=True)]
        rows.append([record["key"]["arithmetic"], "change", *changes])
    return table(["arithmetic", "", *names], rows)


def _of(students: Sequence[Record], method: str, seed: int) -> dict[float, Record]:
    keys = {"method": method, "seed": seed}
    chosen = [record for record in students if keys.items() <= record["key"].items()]
    return {record["key"]["lambda"]: record for record in chosen}


def _seeds(records: Sequence[Record]) -> list[int]:
    return sorted({record["key"]["seed"] for record in records})


def bd_rate(anchor: dict[float, Record], test: dict[float, Record]) -> float | None:
    """Per cent of the bits, by the points that no other of the curve beats; None: under three, or no overlap."""
    import bjontegaard

    curves = []
    for points in (anchor, test):
        found = [(one["psnr"], one["bpp"]) for one in points.values()]
        best = [
            (q, r) for q, r in found if not any(other != (q, r) and other[0] >= q and other[1] <= r for other in found)
        ]
        curves.append(sorted(best))
    if any(len(curve) < 3 for curve in curves):
        return None
    (q0, r0), (q1, r1) = (tuple(zip(*curve, strict=True)) for curve in curves)
    if max(q0[0], q1[0]) >= min(q0[-1], q1[-1]):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the overlap is what it is; the page gives the points
        return float(bjontegaard.bd_rate(r0, q0, r1, q1, method="pchip", require_matching_points=False))


def _students(teachers: dict[float, Record], students: Sequence[Record]) -> str:
    lambdas = sorted(teachers)
    seeds = _seeds(students)
    points = [f"{teachers[lmbda]['bpp']:.3f} / {teachers[lmbda]['psnr']:.2f}" for lmbda in lambdas]
    rows = [["teacher", *points, "", "", ""]]
    for method in METHODS:
        by_seed = [found for seed in seeds if (found := _of(students, method, seed))]
        cells = []
        for lmbda in lambdas:
            own = [found[lmbda] for found in by_seed if lmbda in found]
            bpp, psnr = ([one[name] for one in own] for name in ("bpp", "psnr"))
            cells.append(f"{statistics.fmean(bpp):.3f} / {statistics.fmean(psnr):.2f}" if own else "")
        rates = [rate for found in by_seed if (rate := bd_rate(teachers, found)) is not None]
        against = [
            rate for seed in seeds if (rate := bd_rate(_of(students, "scratch", seed), _of(students, method, seed))) is not None
        ]  # fmt: skip
        rows.append([method, *cells, _spread(rates), _spread(against), _spread(_gains(students, method))])
    columns = [*(f"lambda {lmbda:g}: bpp / dB" for lmbda in lambdas), "BD-rate to the teacher", "to scratch", "J"]
    return table(["", *columns], rows)


def _gains(students: Sequence[Record], method: str, of: Sequence[Record] | None = None) -> list[float]:
    """J in per cent of the student's from scratch, mean over lambdas, one per seed."""
    records = students if of is None else of
    found = []
    for seed in _seeds(records):
        scratch, own = _of(students, "scratch", seed), _of(records, method, seed)
        shared = sorted(scratch.keys() & own.keys())
        if shared:
            found.append(statistics.fmean(100 * (own[one]["J"] / scratch[one]["J"] - 1) for one in shared))
    return found


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.2f}{spread} %"


def _phases(students: Sequence[Record]) -> str:
    """Rows: methods; columns: steps at which a phase ends."""
    ends = sorted({int(step) for record in students for step in record["phases"]})
    rows = []
    for method in METHODS:
        cells = []
        for end in map(str, ends):
            gains = []
            for seed in _seeds(students):
                scratch, own = _of(students, "scratch", seed), _of(students, method, seed)
                pairs = [(scratch[one]["phases"], own[one]["phases"]) for one in scratch.keys() & own.keys()]
                gains += [100 * (new[end] / old[end] - 1) for old, new in pairs if end in new and end in old]
            cells.append(f"{statistics.fmean(gains):+.2f} %" if gains else "")
        rows.append([method, *cells])
    return table(["", *(f"step {end}" for end in ends)], rows)


def _ablation(students: Sequence[Record], ablation: Sequence[Record]) -> str:
    base = {record["key"]["lambda"] for record in ablation}
    same = [record for record in students if record["key"]["lambda"] in base]
    names = list(dict.fromkeys(record["key"]["method"] for record in ablation))
    rows = [[name, _spread(_gains(same, name))] for name in METHODS if _gains(same, name)]
    rows += [[name, _spread(_gains(same, name, ablation))] for name in names]
    return table(["", "J"], rows)


def _channels(records: Sequence[Record]) -> str:
    rows = []
    for record in sorted(records, key=lambda one: (one["key"]["family"], one["key"]["lambda"])):
        own = record["entropies"]
        shares = [f"{100 * sum(own[: round(len(own) * part)]) / sum(own):.0f} %" for part in (0.25, 0.5, 0.75)]
        agree = [f"{100 * record[name]:.0f} %" for name in ("shared_with_learned", "shared_with_empirical")]
        key = record["key"]
        rows.append(
            [key["family"], f"{key['lambda']:g}", str(len(own)), str(record["empty"]), f"{own[0]:.2f}", *shares, *agree]
        )
    columns = ["teacher", "lambda", "channels", "below 0.001", "largest", "top 25 %", "top 50 %", "top 75 %"]
    columns += ["same half on the training pictures", "by histogram"]
    return table(columns, rows)


def _picture(records: Sequence[Record]) -> str:
    """Share of the bits in the first channels, by their entropy; a panel per family."""
    panels, most = [], 1
    for family, title in NAMES.items():
        own = sorted((one for one in records if one["key"]["family"] == family), key=lambda one: one["key"]["lambda"])
        curves = {}
        for record in own:
            entropies, total, points = record["entropies"], 0.0, []
            for place, value in enumerate(entropies):
                total += value
                points.append((place + 1, 100 * total / sum(entropies)))
            most = max(most, len(entropies))
            curves[f"lambda {record['key']['lambda']:g}"] = points
        if curves:
            panels.append(Panel(title, curves, "channels, the largest first"))
    across = [(1, "1"), *((value, str(value)) for value in (2, 4, 8, 16, 32) if value < most), (most, str(most))]
    return picture(panels, across, columns=len(panels) + 1)


if __name__ == "__main__":
    print("\n".join(page()))
