"""`szilard analyze private-inference`: what a model would cost on data that nobody sees."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import load_engine
from szilard.options import check_number

if TYPE_CHECKING:
    from szilard.training.entropy_guided_attention.cost import PrivateInferenceCost


def private_inference(
    model: o.ModelOption = None,
    length: Annotated[int, typer.Option("--length", help="Tokens of the text.")] = 128,
    as_json: o.JsonOption = False,
) -> None:
    """Count a GPT-2's or Llama's nonlinear operations, and estimate what two parties would send each other."""
    from szilard.training.entropy_guided_attention.cost import private_inference_cost

    check_number("length", length, low=1, integer=True)
    loaded = load_engine(model, "transformers", "cpu", "auto")
    found = private_inference_cost(loaded.model, length, loaded.name)  # type: ignore[attr-defined]
    if as_json:
        print(json.dumps(found.as_dict()))
        return
    console = Console()
    console.print(_table(found))
    print(f"feed-forward {found.ffn_flops / 1e9:.2f} GFLOP, attention {found.attention_flops / 1e9:.2f} GFLOP")
    if found.gigabytes is None:
        print("no estimate of what is sent: the published values are of GPT-2 with GELU, ReLU or no activation")
    else:
        low, high = found.gigabytes
        shown = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
        print(f"sent, by the published values for GPT-2: about {shown} GB")


def _table(found: PrivateInferenceCost) -> Table:
    """A line per kind of operation."""
    table = Table(title=f"nonlinear operations of {found.model}, {found.tokens} tokens", title_justify="left")
    for name in ("operation", "count", "of", "numbers"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    for kind, shapes in found.operations.items():
        shape = " x ".join(map(str, shapes[0]))
        table.add_row(kind.replace("_", " "), str(len(shapes)), shape, f"{found.elements[kind]:,}")
    return table
