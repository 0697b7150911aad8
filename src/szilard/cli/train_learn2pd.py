"""`szilard train learn2pd`: rows of a masked diffusion model's own decoding, and a filter on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.cli.train_heads import ConfigOption, OutputOption, RestartOption, add_flags
from szilard.diffusion.learn2pd.config import FilterConfig


def learn2pd(
    data: Annotated[Path, typer.Option("--data", help="Prompts: JSON lines, CSV, Parquet, or text, one a line.")],
    output: OutputOption,
    model: o.ModelOption = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Folder for the collected rows (default: OUTPUT/rows).")
    ] = None,
    config: ConfigOption = None,
    gen_length: Annotated[int, typer.Option("--gen-length", help="Columns of an answer.")] = 256,
    block_length: Annotated[int, typer.Option("--block-length", help="Of a block; it divides gen-length.")] = 32,
    prompts_per_batch: Annotated[int, typer.Option("--prompts-per-batch", help="Decoded together.")] = 8,
    raw: o.RawOption = False,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many prompts.")] = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    **settings: Any,
) -> None:
    """Train Learn2PD's filter, which says what predictions of a block are final.

    The model answers every prompt twice (one token per step, then as an oracle decodes); the filter learns from that.
    Both parts go on where they were when the command is given again.
    """
    from szilard.diffusion.engine import DiffusionEngine
    from szilard.diffusion.learn2pd.collect import collect_egp_rows
    from szilard.diffusion.learn2pd.training import train_filter
    from szilard.evaluation.bulk import read_prompts
    from szilard.training.config import read_config
    from szilard.whole_folder import check_folder

    chosen = read_config(FilterConfig, config, settings)
    asked = read_prompts(data)[:limit]
    check_folder(output)
    engine = load_engine(model, "transformers", device, dtype)
    if not isinstance(engine, DiffusionEngine):
        raise ValueError(f"{engine.name} writes from left to right; Learn2PD's filter is of a masked diffusion model.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as bar:
        line = bar.add_task("prompts", total=len(asked))
        found = collect_egp_rows(
            engine,
            asked,
            rows if rows is not None else output / "rows",
            gen_length=gen_length,
            block_length=block_length,
            batch_size=prompts_per_batch,
            raw=raw,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    metrics = train_filter(found, chosen, output, restart=restart, device=device)
    note(
        f"{len(found)} rows of {len(asked)} prompts; on prompts held out: precision {metrics['test_precision']:.3f} "
        f"and recall {metrics['test_recall']:.3f} at {chosen.threshold}; written to {output}"
    )


add_flags(learn2pd, FilterConfig)
