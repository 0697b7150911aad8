"""`szilard train uncomp`: which heads and layers of a model use many directions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from szilard.cli import options as o
from szilard.cli.loading import note
from szilard.cli.texts import TextsOption, counted_texts, model_and_pieces
from szilard.options import check_choice, check_number


def uncomp(
    data: TextsOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write the plan to (JSON).")],
    model: o.ModelOption = None,
    what: Annotated[str, typer.Option("--what", help="Entropy of which states: query, key or value.")] = "query",
    top: Annotated[
        int | None, typer.Option("--top", help="Largest eigenvalues that count; default: a quarter of the head size.")
    ] = None,
    length: Annotated[int, typer.Option("--length", help="Tokens of a piece of text.")] = 512,
    limit: Annotated[int, typer.Option("--limit", help="At most so many pieces.")] = 512,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
) -> None:
    """Measure the matrix entropy of heads and layers on texts, for `--method greedy+uncomp --set uncomp.plan=FILE`.

    Once per model, with no training: head groups and stages of any number follow from the one plan.
    """
    from szilard.attention.uncomp.plan import WHAT, calibrate_uncomp

    check_choice("what", what, WHAT)
    check_number("top", top, low=1, integer=True, optional=True)
    o.check_writable(output)
    loaded, texts = model_and_pieces(data, model, length, limit, device, dtype)
    with counted_texts(texts) as progress:
        plan = calibrate_uncomp(
            loaded.model,
            texts,
            what=what,
            top=top,
            name=Path(loaded.name).name,
            progress=progress,
        )
    plan.save(output)
    stages = plan.layer_stage()
    note(
        f"{plan.layers} layers of {plan.kv_heads} key-value heads on {plan.texts} texts: scores "
        f"{min(plan.layer_scores):.2f} to {max(plan.layer_scores):.2f}, {stages[-1] + 1} stage(s). Written to {output}"
    )
