"""`szilard compare`: the same prompts through several methods, side by side, in one run."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from szilard.cli import options as o
from szilard.cli.facts import as_json as result_as_json
from szilard.cli.facts import facts
from szilard.cli.loading import errors, load_engine, note
from szilard.decoding.method import Method
from szilard.engines.result import Result
from szilard.engines.transformers_generate import check_needs
from szilard.registry import attention_class, method_class

# What fits a terminal of 80 columns; the page and the JSON carry the rest.
_SHOWN = ("tokens", "latent steps", "switches", "mean entropy", "forward passes", "tokens/s", "finish")
_SHOWN_OF_CANVASES = (
    "tokens", "rounds", "tokens per round", "bits per round", "rounds at least", "computed columns", "tokens/s",
    "finish",
)  # fmt: skip
_DEFAULT, _DEFAULT_OF_CANVASES = "greedy,lead", "top-k-unmask,threshold-unmask"


def compare_command(
    prompts: Annotated[list[str], typer.Argument(help="One or several prompts.")],
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help=f"Names from `szilard methods`, by commas; default: {_DEFAULT}, or {_DEFAULT_OF_CANVASES} for a "
            "diffusion model.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="A hyperparameter of one method. Repeatable.", metavar="METHOD.NAME=VALUE"),
    ] = None,
    model: o.ModelOption = None,
    image: o.ImageOption = None,
    max_new_tokens: o.TokensOption = 256,
    sample: o.SampleOption = False,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_k: o.TopKOption = None,
    seed: o.SeedOption = None,
    raw: o.RawOption = False,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    compile_: o.CompileOption = False,
    quantize: o.QuantizeOption = None,
    json_: o.JsonOption = False,
    html: o.HtmlOption = None,
) -> None:
    """Run the same prompts through several methods and show text, entropy and cost side by side."""
    chosen = methods_from(methods, set_) if methods is not None else None
    sampling = o.sampling_from(sample, temperature, top_p, top_k)
    o.check_writable(html)
    for prompt in prompts:
        if not prompt.strip():
            raise ValueError("the prompt is empty; give some text.")
    loaded = load_engine(model, engine, device, dtype, compile_, quantize)
    canvases = "denoising" in loaded.provides
    if chosen is None:
        chosen = methods_from(_DEFAULT_OF_CANVASES if canvases else _DEFAULT, set_)
    for method in chosen:
        check_needs(method, loaded.provides, f"engine '{loaded.kind}' with {loaded.name}")
        method.check(loaded)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed, "raw": raw, "images": image or None}
    first = None if canvases else chosen[0]  # a schedule of rounds may not fit two columns
    loaded.generate(prompts[0], first, **(settings | {"max_new_tokens": 2}))  # warm up, so that speeds compare
    results: list[list[Result]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("", total=len(prompts) * len(chosen))
        for prompt in prompts:
            results.append([])
            for method in chosen:
                progress.update(task, description=method.slug)
                draws = sampling if method.slug.partition("+")[0] != "greedy" else {}
                results[-1].append(loaded.generate(prompt, method, **settings, **draws))
                progress.advance(task)
    if json_:
        print(json.dumps([[result_as_json(r) for r in row] for row in results], ensure_ascii=False))
    else:
        _print_tables(prompts, results)
    if html is not None:
        from szilard.cli.pages import Run, page_of

        runs = [
            Run(title=str(result.method), prompt=prompt, trace=result.trace, facts=facts(result), subtitle=loaded.name)
            for prompt, row in zip(prompts, results, strict=True)
            for result in row
            if result.trace is not None
        ]
        o.write_text(html, page_of(runs, title="szilard: methods side by side"))
        note(f"page written to {html}")


def methods_from(names: str, assignments: list[str] | None) -> list[Method]:
    """The methods of `--methods a,b --set a.x=1`.

    Raises:
        ValueError: an unknown method or option, or a setting for a method that is not compared.
    """
    slugs = [_slug(name) for name in names.split(",") if name.strip()]
    if not slugs:
        raise ValueError("--methods is empty; name some, as in --methods greedy,lead.")
    settings: dict[str, list[str]] = {slug: [] for slug in slugs}
    for assignment in assignments or ():
        owner, dot, rest = assignment.partition(".")
        pairs = [slug for slug in settings if dot and slug.endswith(f"+{owner.strip()}")]
        if pairs:
            for slug in pairs:
                settings[slug].append(assignment)
            continue
        slug = _slug(owner) if dot and "=" in rest else ""
        if slug not in settings:
            raise ValueError(
                f"--set {assignment!r}: write METHOD.NAME=VALUE with one of the compared methods ({', '.join(slugs)})."
            )
        settings[slug].append(rest)
    return [method for slug in slugs if (method := o.method_from(slug, settings[slug])) is not None]


def _slug(name: str) -> str:
    """As methods call themselves; of a pair, the pair's."""
    decoding, plus, under = name.partition("+")
    return method_class(decoding).slug + (f"+{attention_class(under).slug}" if plus else "")


def _print_tables(prompts: list[str], results: list[list[Result]]) -> None:
    console = Console()
    shown = _SHOWN_OF_CANVASES if all("rounds" in facts(r) for row in results for r in row) else _SHOWN
    for prompt, row in zip(prompts, results, strict=True):
        console.print(Text(f"\n{prompt}", style="bold"))
        table = Table(Column("method", no_wrap=True), *shown, box=None, header_style="bold", pad_edge=False)
        for result in row:
            values = facts(result)
            table.add_row(result.method.slug, *("-" if values[name] is None else str(values[name]) for name in shown))
        console.print(table)
        texts = Table.grid(padding=(0, 1))
        for result in row:
            texts.add_row(f"[bold]{result.method.slug}[/bold]", Text(_short(result.text)))
        console.print(texts)


def _short(text: str, limit: int = 420) -> str:
    """The beginning and the end of a text, white space folded."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else f"{folded[: limit * 2 // 3]} [...] {folded[-limit // 3 :]}"
