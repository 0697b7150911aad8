"""`szilard generate`: one prompt, one method."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.facts import as_json as result_as_json
from szilard.cli.facts import facts
from szilard.cli.loading import load_engine, note


def generate_command(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; '-' or nothing reads standard input.")] = None,
    method: o.MethodOption = None,
    set_: o.SetOption = None,
    model: o.ModelOption = None,
    image: o.ImageOption = None,
    max_new_tokens: o.TokensOption = 256,
    sample: o.SampleOption = False,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_k: o.TopKOption = None,
    seed: o.SeedOption = None,
    system: o.SystemOption = None,
    raw: o.RawOption = False,
    stop: o.StopOption = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    json_: o.JsonOption = False,
    html: o.HtmlOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the text.")] = False,
) -> None:
    """Generate text with a method."""
    chosen = o.method_from(method, set_)
    sampling = o.sampling_from(sample, temperature, top_p, top_k)
    o.check_writable(html)
    text = o.prompt_from(prompt, system)
    loaded = load_engine(model, engine, device, dtype)
    settings: dict[str, Any] = {
        "images": image or None,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "raw": raw,
        "stop": stop or None,
        **sampling,
    }
    if json_:
        result = loaded.generate(text, chosen, **settings)
        print(json.dumps(result_as_json(result), ensure_ascii=False))
    else:
        pieces = loaded.stream(text, chosen, **settings)
        while True:
            try:
                sys.stdout.write(next(pieces))
                sys.stdout.flush()
            except StopIteration as end:
                result = end.value
                break
        sys.stdout.write("\n")
        if not quiet:
            line = ", ".join(f"{name} {value}" for name, value in facts(result).items())
            note(f"{result.method.slug} on {loaded.name}: {line}")
    if html is not None:
        from szilard.decoding.page import Run, render_page

        run = Run(
            title=str(result.method),
            prompt=result.prompt,
            trace=result.trace,
            facts=facts(result),
            subtitle=loaded.name,
        )
        o.write_text(html, render_page([run], title=f"szilard: {result.method.slug}"))
        note(f"trace written to {html}")
