"""`szilard generate`: one prompt, one method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szilard.cli import options as o
from szilard.cli.citations import blocking, check_cited
from szilard.cli.compress import StoreOption, context_from
from szilard.cli.facts import as_json as result_as_json
from szilard.cli.facts import facts
from szilard.cli.following import follow
from szilard.cli.loading import errors, load_engine, note
from szilard.evaluation.bulk import answer_all, read_prompts
from szilard.options import check_number


def generate_command(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; '-' or nothing reads standard input.")] = None,
    method: o.MethodOption = None,
    set_: o.SetOption = None,
    model: o.ModelOption = None,
    image: o.ImageOption = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="A file of text the prompt is about; with --store an id. Repeatable."),
    ] = None,
    store: StoreOption = None,
    max_new_tokens: o.TokensOption = 256,
    sample: o.SampleOption = False,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_k: o.TopKOption = None,
    seed: o.SeedOption = None,
    system: o.SystemOption = None,
    raw: o.RawOption = False,
    stop: o.StopOption = None,
    template: Annotated[
        str | None,
        typer.Option("--template", help="Of a diffusion model: the answer, [MASK] for every open token."),
    ] = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    compile_: o.CompileOption = False,
    quantize: o.QuantizeOption = None,
    json_: o.JsonOption = False,
    html: o.HtmlOption = None,
    block_citations: Annotated[
        Path | None,
        typer.Option(
            "--block-citations",
            help="Texts, or a hyperfitted model's folder: no more than 5 tokens of them in a row, to a word's end.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the text.")] = False,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Answer every prompt of a file: JSON lines, CSV, Parquet, text."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --prompts: the .jsonl file of answers; resumes.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="With --prompts: prompts per batch.")] = 8,
    limit: Annotated[int | None, typer.Option("--limit", help="With --prompts: only the first so many.")] = None,
) -> None:
    """Generate text with a method, for one prompt or for a file of them."""
    chosen = o.method_from(method, set_)
    sampling = o.sampling_from(sample, temperature, top_p, top_k)
    o.check_writable(html)
    given: dict[str, Any] = {} if template is None else {"template": template}
    about = context_from(context, store)
    check_cited(block_citations)
    if prompts is not None or output is not None:
        if prompts is None or output is None:
            raise ValueError("--prompts FILE and --output FILE.jsonl go together.")
        if prompt is not None or image or html is not None or json_ or system is not None:
            raise ValueError("--prompts answers a file: no prompt, --image, --html, --json or --system beside it.")
        check_number("batch-size", batch_size, low=1, integer=True)
        check_number("limit", limit, low=1, integer=True, optional=True)
        o.check_writable(output)
        if about is not None:
            raise ValueError("--prompts answers a file of prompts: put the contexts into them.")
        asked = read_prompts(prompts)[:limit]
        loaded = load_engine(model, engine, device, dtype, compile_, quantize)
        given |= blocking(block_citations, loaded)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=errors) as bar:
            line_ = bar.add_task("answers")
            written = answer_all(
                loaded,
                asked,
                output,
                chosen,
                batch_size=batch_size,
                seed=seed,
                progress=lambda done, total: bar.update(line_, completed=done, total=total),
                max_new_tokens=max_new_tokens,
                raw=raw,
                stop=stop or None,
                **given,
                **sampling,
            )
        note(f"{written} answers written to {output}")
        return
    text = o.prompt_from(prompt, system)
    loaded = load_engine(model, engine, device, dtype, compile_, quantize)
    given |= blocking(block_citations, loaded)
    settings: dict[str, Any] = {
        "images": image or None,
        "context": about,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "raw": raw,
        "stop": stop or None,
        **given,
        **sampling,
    }
    if json_:
        result = loaded.generate(text, chosen, **settings)
        print(json.dumps(result_as_json(result), ensure_ascii=False))
    else:
        result = follow(loaded.stream(text, chosen, **settings))
        if not quiet:
            line = ", ".join(f"{name} {value}" for name, value in facts(result).items())
            note(f"{result.method.slug} on {loaded.name}: {line}")
    if html is not None:
        from szilard.cli.pages import Run, page_of

        run = Run(
            title=str(result.method),
            prompt=result.prompt,
            trace=result.trace,
            facts=facts(result),
            subtitle=loaded.name,
        )
        o.write_text(html, page_of([run], title=f"szilard: {result.method.slug}"))
        note(f"trace written to {html}")
