"""`szilard info`: what a model is, and which methods it can run."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from szilard.cli import options as o
from szilard.cli.loading import load_engine
from szilard.registry import methods


def info_command(
    name: Annotated[
        str | None, typer.Argument(help="Hub id, folder, *.gguf or zoo/<name>; default: the embedded.")
    ] = None,
    model: o.ModelOption = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    json_: o.JsonOption = False,
) -> None:
    """Describe a model and the methods that it can run."""
    loaded = load_engine(name or model, engine, device, dtype)
    runs = {slug: sorted(entry.needs - loaded.provides) for slug, entry in methods().items()}
    facts = {
        "model": loaded.name,
        "engine": loaded.kind,
        "parameters": loaded.parameter_count,
        "vocabulary": loaded.vocab_size,
        "context window": loaded.context_window,
        "chat template": loaded.has_chat_template,
        "gives": sorted(loaded.provides),
        "runs": [slug for slug, missing in runs.items() if not missing],
        "cannot run": {slug: missing for slug, missing in runs.items() if missing},
    }
    if hasattr(loaded, "model"):
        facts |= {"architecture": type(loaded.model).__name__, "dtype": str(loaded.model.dtype).removeprefix("torch.")}
        facts |= {"device": str(loaded.model.device)}
    if json_:
        print(json.dumps(facts))
        return
    console = Console()
    for key, value in facts.items():
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, int):
            value = f"{value:,}"
        elif isinstance(value, list):
            value = ", ".join(value)
        elif isinstance(value, dict):
            value = "; ".join(f"{slug} (needs {', '.join(missing)})" for slug, missing in value.items()) or "-"
        console.print(f"[bold]{key:>15}[/bold]  {escape(str(value))}", highlight=False)
