"""`szilard trace`: every step of one run, as a heat map, a table, a file or a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from szilard.cli import options as o
from szilard.cli.facts import facts
from szilard.cli.loading import load_engine
from szilard.decoding.heatmap import heat_text
from szilard.decoding.trace import Trace
from szilard.registry import make_method


def trace_command(
    prompt: Annotated[str, typer.Argument(help="A prompt to run, or a trace file (.json, .parquet) to show.")],
    method: Annotated[
        str | None,
        typer.Option("--method", help="A name from `szilard methods`; default: lead, or what the model can run."),
    ] = None,
    set_: o.SetOption = None,
    model: o.ModelOption = None,
    image: o.ImageOption = None,
    max_new_tokens: o.TokensOption = 128,
    sample: o.SampleOption = False,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_k: o.TopKOption = None,
    seed: o.SeedOption = None,
    raw: o.RawOption = False,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    table: Annotated[bool, typer.Option("--table", help="Print one line per step.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Save the trace: .json or .parquet.")] = None,
    json_: o.JsonOption = False,
    html: o.HtmlOption = None,
) -> None:
    """Show what happened at every step: token, entropy, mode, decision."""
    o.check_writable(html)
    o.check_writable(output)
    if output is not None and output.suffix.lower() not in {".json", ".parquet"}:
        raise ValueError(f"--output must end in .json or .parquet, not {output.name!r}.")
    console = Console()
    known: dict[str, Any] = {}
    if prompt.endswith((".json", ".parquet")) and Path(prompt).is_file():
        trace, title, text = Trace.load(prompt), Path(prompt).name, ""
        known = {name: value for name, value in trace.summary().items() if value is not None}
    else:
        if method is None and set_:
            method = "lead"
        chosen = o.method_from(method, set_)
        sampling = o.sampling_from(sample, temperature, top_p, top_k)
        loaded = load_engine(model, engine, device, dtype)
        if chosen is None and "denoising" not in loaded.provides:
            chosen = make_method("lead")
        settings: dict[str, Any] = {"images": image or None, "max_new_tokens": max_new_tokens, "seed": seed, "raw": raw}
        result = loaded.generate(o.prompt_from(prompt, None), chosen, **settings, **sampling)
        assert result.trace is not None
        trace, title, text, known = result.trace, str(result.method), result.prompt, facts(result)
    if output is not None:
        trace.save(output)
    if html is not None:
        from szilard.cli.pages import Run, page_of

        run = Run(title=title, prompt=text, trace=trace, facts=known)
        o.write_text(html, page_of([run], title=f"szilard: {title}"))
    if json_:
        print(trace.to_json())
    elif table:
        console.print(_table(trace))
    else:
        console.print(heat_text(trace))
        console.print(Text("\n" + ", ".join(f"{k} {v}" for k, v in known.items()), style="dim"))


def _table(trace: Trace) -> Table:
    names = [name for name in trace.columns if name not in {"row", "candidates"}]
    table = Table(*names, box=None, header_style="bold")
    for step in trace:
        values = [getattr(step, name) for name in names]
        table.add_row(*(_cell(name, value) for name, value in zip(names, values, strict=True)))
    return table


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return "yes" if value else ""
    return escape(repr(value)) if name == "text" else str(value)
