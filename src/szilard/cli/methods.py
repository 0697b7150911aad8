"""`szilard methods`: what there is."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from szilard.cli.facts import _plain
from szilard.cli.options import JsonOption
from szilard.registry import method_class, methods


def methods_command(
    name: Annotated[str | None, typer.Argument(help="One method: its options and their defaults.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods, or the options of one."""
    console = Console()
    if name is None:
        entries = list(methods().values())
        if as_json:
            rows = [
                {
                    "slug": e.slug,
                    "class": e.cls.__name__,
                    "family": e.family,
                    "paper": e.paper,
                    "needs": sorted(e.needs),
                }
                for e in entries
            ]
            print(json.dumps(rows, indent=2))
            return
        table = Table("method", "class", "family", "needs", "paper", box=None, header_style="bold")
        for entry in entries:
            table.add_row(
                entry.slug, f"szilard.{entry.cls.__name__}", entry.family, ", ".join(sorted(entry.needs)), entry.paper
            )
        console.print(table)
        console.print("\n[dim]szilard methods NAME shows a method's options.[/dim]")
        return
    known = methods()
    slug = name.strip().lower().replace("_", "-")
    cls: type[Any] = known[slug].cls if slug in known else method_class(name)
    fields = dataclasses.fields(cls)
    if as_json:
        options = [{"name": f.name, "type": str(f.type), "default": _plain(f.default)} for f in fields]
        print(json.dumps({"slug": cls.slug, "paper": cls.paper, "options": options}, indent=2))
        return
    console.print(f"[bold]{cls.slug}[/bold]  {cls.paper}\n")
    console.print((cls.__doc__ or "").split("Attributes:")[0].strip() + "\n", markup=False, highlight=False)
    table = Table("option", "default", "type", box=None, header_style="bold")
    for field in fields:
        table.add_row(field.name, repr(field.default), str(field.type))
    console.print(table)
