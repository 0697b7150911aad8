"""`szilard analyze agentic-mi`: how many bits of a context compressors keep, and what predictors make of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.compression.method import check_budget
from szilard.options import check_number

if TYPE_CHECKING:
    from szilard.analysis.agentic_mi import InformationReport, Point
    from szilard.information import RateDistortion


def agentic_mi(
    compressors: Annotated[
        list[str],
        typer.Option(
            "--compressor",
            help="A model, a text compressor (llmlingua2,checkpoint=DIR), or .jsonl of texts. Repeatable.",
        ),
    ],
    contexts: Annotated[
        Path,
        typer.Option(
            "--contexts",
            help='.jsonl: "context"; "query" with "answer", "questions" ({"question", "answer"}), "negatives" (texts).',
        ),
    ],
    scorer: Annotated[
        str | None, typer.Option("--scorer", help="A model that scores the texts; default: the embedded one.")
    ] = None,
    predictors: Annotated[
        list[str] | None, typer.Option("--predictor", help="A model that answers from the texts. Repeatable.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="Of text compressors: a share up to 1, or tokens.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Texts per context and seed.")] = 2,
    seeds: Annotated[int, typer.Option("--seeds", help="Repetitions; published: 5.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", help="Of a model that writes; 0: greedy.")] = 0.7,
    sentences: Annotated[int, typer.Option("--sentences", help="Asked for: 3, 6 or 9.")] = 3,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", help="Limit of a text.")] = 256,
    hard_negatives: Annotated[
        str, typer.Option("--hard-negatives", help="none: all contexts compete; bm25: each with its nearest; given.")
    ] = "none",
    negatives: Annotated[int | None, typer.Option("--negatives", help="How many, for bm25; default: 15.")] = None,
    most_tokens: Annotated[
        float | None, typer.Option("--most-tokens", help="Recommend within so many predictor tokens a question.")
    ] = None,
    most_flops: Annotated[float | None, typer.Option("--most-flops", help="Recommend within so many FLOPs.")] = None,
    prices: Annotated[
        str | None, typer.Option("--prices", help="Of the predictor, per million tokens: in,out as in 2.5,10.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Keep texts and scores; a stopped run goes on there.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a self-contained page.")] = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    json_: o.JsonOption = False,
) -> None:
    """Measure which part of an agent system to improve: what compressors keep, what predictors then answer.

    What is kept is the mutual information between contexts and what compressors make of them.
    """
    from szilard.analysis.agentic_mi import agentic_mi as measure
    from szilard.analysis.agentic_mi import answer_questions, point, recommend
    from szilard.analysis.agentic_mi.page import to_html

    o.check_writable(output)
    texts, queries, questions, own_negatives = read_contexts(contexts)
    if predictors and not any(questions):
        raise ValueError(
            f'--predictor needs questions: give "query" and "answer", or "questions", in {str(contexts)!r}.'
        )
    money = _prices(prices)
    amount: float | int | None = int(budget) if budget is not None and budget > 1 and budget.is_integer() else budget
    check_budget(amount)
    for what, limit in (("--most-tokens", most_tokens), ("--most-flops", most_flops)):
        check_number(what, limit, low=0, optional=True)
    check_number("--seeds", seeds, low=1, integer=True)
    loaded = Engines(engine, device, dtype, scorer)
    reading = loaded.get(scorer)
    # All of them before the first is measured, which may take hours: a name that is none is told now.
    sources = [source_of(name, loaded) for name in compressors]
    for name in predictors or []:
        loaded.get(name)
    reports: list[InformationReport] = []
    points: list[Point] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        line = progress.add_task("", total=None)

        def told(name: str) -> Any:
            return lambda what, done, total: progress.update(
                line, description=f"{name}: {what}", completed=done, total=total
            )

        for place, (name, (source, is_method)) in enumerate(zip(compressors, sources, strict=True)):
            report = measure(
                source,
                reading,
                texts,
                queries,
                samples=samples,
                seeds=tuple(range(seeds)),
                temperature=temperature,
                sentences=sentences,
                max_new_tokens=max_new_tokens,
                hard_negatives=hard_negatives,
                negatives=own_negatives if hard_negatives == "given" else negatives,
                budget=amount if is_method else None,
                counter=reading if is_method else None,
                folder=None if folder is None else folder / f"compressor-{place}",
                name=Path(name).stem if name.endswith((".jsonl", ".gguf")) else name if "=" in name else None,
                progress=told(Path(name).name),
            )
            reports.append(report)
        for number, name in enumerate(predictors or []):
            predictor = loaded.get(name)
            for place, report in enumerate(reports):
                answers = answer_questions(
                    predictor,
                    report.texts,
                    questions,
                    folder=None if folder is None else folder / f"answers-{place}-{number}",
                    progress=told(f"{Path(name).name} on {report.compressor}"),
                )
                points.append(point(report, answers, prices=money))
    fits, fits_of_bits = fitted(points, "rate"), fitted(points, "bits")
    advice = recommend(points or [point(report) for report in reports], tokens=most_tokens, flops=most_flops)
    if output is not None:
        known = [one.to_dict() for one in reports]
        page = to_html(known, points, fits, fits_of_bits=fits_of_bits, advice=[advice.reason])
        o.write_text(output, page)
        note(f"page written to {output}")
    if json_:
        found: dict[str, Any] = {"compressors": [report.to_dict() for report in reports]}
        found |= {"pairs": [_plain(asdict(one)) for one in points]}
        found |= {"fits": {name: asdict(fit) for name, fit in fits.items()}}
        found |= {
            "fits_of_bits": {name: asdict(fit) for name, fit in fits_of_bits.items()},
            "recommendation": advice.reason,
        }
        print(json.dumps(found))
        return
    _print(reports, points, fits, advice.reason)


class Engines:
    """Loaded models by name, each once."""

    def __init__(self, engine: str, device: str | None, dtype: str, scorer: str | None = None) -> None:
        self.scorer = scorer
        self.options = (engine, device, dtype)
        self.known: dict[str | None, Any] = {}

    def get(self, name: str | None) -> Any:
        """The engine of a model; a GGUF file runs on llama.cpp unless --engine says otherwise."""
        if name not in self.known:
            engine, device, dtype = self.options
            if engine == "auto" and name is not None and name.endswith(".gguf"):
                engine = "llama.cpp"
            self.known[name] = load_engine(name, engine, device, dtype)
        return self.known[name]


def source_of(name: str, engines: Engines) -> tuple[Any, bool]:
    """What --compressor names, as `agentic_mi` takes it, and whether it is a text compressor of the library.

    Raises:
        ValueError: a file whose lines hold no texts; a name that is neither a compressor nor a model.
    """
    from szilard.options import parse_option
    from szilard.registry import make_compressor, methods

    if name.endswith(".jsonl"):
        rows = []
        for number, record in enumerate(_records(Path(name)), start=1):
            found = record.get("texts", record.get("text"))
            rows.append([found] if isinstance(found, str) else found)
            if not isinstance(rows[-1], list) or not all(isinstance(text, str) for text in rows[-1]):
                raise ValueError(f'{name!r}, line {number}: a line is {{"text": ...}} or {{"texts": [...]}}.')
        return rows, False
    first, *settings = re.split(r",(?=\w+=)", name)  # a value may hold commas, as lists do
    slug = first.strip().lower().replace("_", "-")
    known = methods()
    if slug in known and known[slug].kind == "compressor":
        chosen: Any = make_compressor(slug, dict(parse_option(known[slug].cls, one) for one in settings))
        if chosen.gives == "text":
            chosen.check(engines.get(engines.scorer))
        return chosen, True
    return engines.get(name), False


def read_contexts(file: Path) -> tuple[list[str], list[str] | None, list[list[tuple[str, str]]], list[Any]]:
    """Contexts, their queries (None: there are none), their questions, and their hard negatives.

    Raises:
        ValueError: no such file, a line without a context, or queries for some of the contexts only.
    """
    from szilard.analysis.agentic_mi.predict import questions_of

    records = _records(file)
    for number, record in enumerate(records, start=1):
        if not isinstance(record.get("context"), str):
            raise ValueError(f'{str(file)!r}, line {number}, has no "context".')
    queries = [record.get("query") for record in records]
    if any(query is not None for query in queries) and not all(isinstance(query, str) for query in queries):
        raise ValueError(
            f'in {str(file)!r} some contexts have a "query" and some have none: give one to all, or to none.'
        )
    asked = [str(query) for query in queries] if records and queries[0] is not None else None
    negatives = [record.get("negatives") or [] for record in records]
    return [record["context"] for record in records], asked, list(questions_of(records)), negatives


def _records(file: Path) -> list[dict[str, Any]]:
    from szilard.records import read_records

    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    records = list(read_records(file))
    if not records or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{str(file)!r} holds no records: a .jsonl has an object in every line.")
    return records


def fitted(points: Sequence[Point], by: str) -> dict[str, RateDistortion]:
    """The curve over "rate" or "bits" of every predictor with points enough for one."""
    from szilard.information import rate_distortion

    found = {}
    for name in dict.fromkeys(one.predictor for one in points):
        own = [
            (getattr(one, by), one.distortion) for one in points if one.predictor == name and one.distortion is not None
        ]
        if len({rate for rate, _ in own}) >= 3:
            try:
                found[str(name)] = rate_distortion(own)
            except ValueError as error:  # scipy is missing: the points are worth showing without a curve
                note(str(error))
    return found


def _prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        price_in, price_out = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--prices are two numbers per million tokens, as in 2.5,10, not {text!r}.") from None
    for price in (price_in, price_out):
        check_number("--prices", price, low=0)
    return price_in, price_out


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def _print(
    reports: Sequence[InformationReport], points: Sequence[Point], fits: dict[str, RateDistortion], advice: str
) -> None:
    console = Console()
    table = Table("compressor", "bits", "ceiling", "at it", "tokens", "bits/token", "empty", "cut off", box=None)
    for one in reports:
        table.add_row(
            one.compressor,
            f"{one.bits:.2f} ± {one.standard_error_bits:.2f}" + (f" ({one.raw_bits:.2f})" if one.raw_bits < 0 else ""),
            f"{one.ceiling_bits:.2f}",
            f"{one.saturation:.0%}",
            f"{one.length:.1f}",
            f"{one.bits_per_token:.3f}",
            str(one.empty),
            str(one.truncated),
        )
    console.print(table)
    if points:
        pairs = Table("compressor", "predictor", "distortion", "predictor's tokens", "FLOPs", "cost", box=None)
        for pair in points:
            spent = "" if pair.cost is None else f"{pair.cost:.3g}"
            tokens = "" if pair.tokens is None else f"{pair.tokens:.0f}"
            pairs.add_row(pair.compressor, pair.predictor, f"{pair.distortion:.3f}", tokens, f"{pair.flops:.3g}", spent)
        console.print(pairs)
    for name, fit in fits.items():
        line = f"{name}: D(R) = {fit.scale:.3g} exp(-{fit.decay:.3g} R) + {fit.floor:.3g}, R² = {fit.r2:.2f}"
        console.print(line, highlight=False)
    console.print(advice, highlight=False)
