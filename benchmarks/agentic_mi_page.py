"""The reproduction page's section on agentic MI, and its picture, from results/agentic-mi.jsonl.

python benchmarks/agentic_mi_page.py    # writes docs/pictures/agentic-mi.html alone
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markdown_table import table
from results_store import Store

from szilard.analysis.agentic_mi import Point, choice_importance, partial_correlation, recommend
from szilard.analysis.agentic_mi.page import to_html
from szilard.information import RateDistortion, rate_distortion

Record = dict[str, Any]
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "agentic-mi.html"
SIZES = {"Qwen 0.5B": 0.5, "Qwen 1.5B": 1.5, "SmolLM2-135M": 0.135}  # billions of parameters
CLAIM = """## Agentic MI

**Claim** (He et al., arXiv 2512.21720). The information that a compressor's texts carry foretells what predictors answer from
them, without a task: Qwen2.5 as the compressor from 1.5 to 7 B gives 5.5 times the bits per token and 1.6 times the accuracy on LongHealth, and
scaling the compressor helps more than scaling the predictor (+60 % against +12 %). Their compressors start at 1 B, their scorers have 7 to 8 B,
their predictors up to 405 B; here the models have 0.1 to 1.5 B, so what can be tried is the estimator and the direction.
"""
KNOWN_READING = """**Reading.** The estimate rises with what is kept, from 0 to the ceiling. A sentence of boilerplate and two facts that all
notes share leave the bits within their error and lower the bits per token; texts given to the wrong notes are clipped at 0. In between
it reads too little (by up to 1.7 standard errors). The scorer does rule out notes that contradict a text: one wrong fact costs it 9 to
10 nats. But notes that agree with it are not equally likely either; their log-likelihoods spread by 0.5 nats for reasons that have
nothing to do with its source, and with one or two facts kept that noise is large against the one or two bits there are.
"""
COMMANDS = ("known", "records --small GGUF --large GGUF", "wikitext --small GGUF --large GGUF --data FOLDER")


def sections() -> Iterator[str]:
    """Claim, tables and commands; nothing where nothing was measured."""
    records = list(Store("agentic-mi"))
    if not records:
        return
    yield CLAIM
    parts = {
        part: [r for r in records if r["key"]["part"] == part] for part in ("known", "records", "answers", "wikitext")
    }
    if parts["known"]:
        yield "Texts that keep each of four yes/no facts with a given probability; 16 notes that differ in nothing else:\n"
        yield known(parts["known"])
        yield KNOWN_READING
    if parts["records"]:
        yield "Eight ward notes that differ in three of eight facts, all three asked for (24 answers a pair):\n"
        yield compressors(parts["records"])
    if parts["answers"]:
        yield pairs(parts["answers"])
    if parts["wikitext"]:
        yield "Twelve paragraphs of one article:\n"
        yield compressors(parts["wikitext"])
    yield "```bash\n" + "\n".join(f"python benchmarks/agentic_mi.py {command}" for command in COMMANDS) + "\n```\n"


def known(records: list[Record]) -> str:
    """What was kept against what was measured."""
    rows = [
        (
            record["key"]["compressor"],
            f"{record['kept_bits']:.2f}" if "kept_bits" in record else "0",
            f"{record['bits']:.2f}"
            + (f" ± {record['standard_error'] / 0.6931:.2f}" if "standard_error" in record else "")
            + (f" (unclipped {record['raw_nats'] / 0.6931:.1f})" if record["raw_nats"] < 0 else ""),
            f"{record['saturation']:.0%}",
            f"{record['length']:.0f}" if "length" in record else "",
            f"{record['bits_per_token']:.3f}" if "bits_per_token" in record else "",
        )
        for record in records
    ]
    return table(("texts", "bits kept", "bits measured", "at the ceiling", "tokens", "bits per token"), rows)


def compressors(records: list[Record]) -> str:
    """Bits, length and rate."""
    rows = [
        (
            record["key"]["compressor"],
            record["key"]["scorer"],
            f"{record['bits']:.2f} ± {record['standard_error'] / 0.6931:.2f} of {record['ceiling_bits']:.2f}",
            f"{record['saturation']:.0%}",
            f"{record['scorer_length']:.0f}",
            f"{record['bits_per_scorer_token']:.3f}",
            str(record["truncated"]),
        )
        for record in records
    ]
    head = ("compressor", "scorer", "bits", "at the ceiling", "tokens (scorer's)", "bits per token", "cut off")
    return table(head, rows)


def points_of(records: list[Record]) -> list[Point]:
    """The measured pairs."""
    names = ("bits", "ceiling_bits", "length", "rate", "distortion", "error", "tokens", "flops")
    return [
        Point(r["key"]["compressor"], r["key"]["predictor"], cost=None, **{name: r[name] for name in names})
        for r in records
    ]


def fits_of(points: list[Point], by: str) -> dict[str, RateDistortion]:
    """The curve of every predictor over its "rate" or "bits"."""
    found = {}
    for name in dict.fromkeys(str(one.predictor) for one in points):
        own = [(getattr(one, by), one.distortion or 0.0) for one in points if one.predictor == name]
        if len({rate for rate, _ in own}) >= 3:
            found[name] = rate_distortion(own)
    return found


def pairs(records: list[Record]) -> str:
    """Accuracy of every pair, and what it depends on."""
    points = points_of(records)
    predictors = list(dict.fromkeys(str(one.predictor) for one in points))
    rows = []
    for compressor in dict.fromkeys(one.compressor for one in points):
        own = {str(one.predictor): one for one in points if one.compressor == compressor}
        first = next(iter(own.values()))
        cells = [f"{1 - (own[name].distortion or 0.0):.0%}" if name in own else "" for name in predictors]
        rows.append((compressor, f"{first.bits:.2f}", f"{first.length:.0f}", f"{first.rate:.3f}", *cells))
    lines = [
        table(("compressor", "bits", "tokens", "bits per token", *(f"{name} answers" for name in predictors)), rows)
    ]
    for by, unit in (("rate", "bits per token"), ("bits", "bits")):
        for name, fit in fits_of(points, by).items():
            curve = f"{fit.scale:.3g} exp(−{fit.decay:.3g} R) + {fit.floor:.2f}"
            lines.append(f"- {name}, R in {unit}: D(R) = {curve}, R² = {fit.r2:.2f} over {fit.points} compressors")
    for name in predictors:
        own = [one for one in points if one.predictor == name]
        if len(own) >= 4:
            accuracy = [1 - (one.distortion or 0.0) for one in own]
            found = partial_correlation([one.bits for one in own], accuracy, [one.length for one in own])
            lines.append(
                f"- {name}: correlation of accuracy with bits at equal length {found:+.2f} ({len(own)} compressors)"
            )
    written = [r for r in records if r["key"]["compressor"] in SIZES]
    choices = [
        {"compressor": r["key"]["compressor"], "predictor": r["key"]["predictor"]} for r in written for _ in r["right"]
    ]
    right = [score for r in written for score in r["right"]]
    if len({choice["predictor"] for choice in choices}) > 1 and 0 < sum(right) < len(right):
        told = ", ".join(f"{name} {loss:.3f}" for name, loss in choice_importance(choices, right).items())
        lines.append(f"- importance for a right answer, nats of log loss (models as compressors): {told}")
    lines.append(f"- recommended: {recommend(points).reason}")
    return "\n".join(lines) + "\n"


def picture() -> str:
    """The page of the ward notes."""
    records = list(Store("agentic-mi"))
    reports = [
        record | {"compressor": record["key"]["compressor"], "scorer": record["key"]["scorer"]}
        for record in records
        if record["key"]["part"] == "records"
    ]
    points = points_of([record for record in records if record["key"]["part"] == "answers"])
    advice = [f"Recommended: {recommend(points).reason}"] if points else []
    curves = fits_of(points, "rate"), fits_of(points, "bits")
    title = "Ward notes: what compressors keep"
    return to_html(reports, points, curves[0], fits_of_bits=curves[1], advice=advice, title=title)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE}")
    print("\n".join(sections()))
