"""`szilard train arc-encoder`: an encoder of contexts for frozen decoders. Every setting of the training is a flag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from szilard.cli import options as o
from szilard.cli.loading import load_engine, needs, note, training_device
from szilard.cli.train_heads import ConfigOption, LimitOption, OutputOption, RestartOption, add_flags
from szilard.compression.arc_encoder.config import CONFIGS, STAGES, ArcConfig


def arc_encoder(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Texts (.jsonl, .json, .csv, .parquet, .txt); to fine-tune, records of context, prompt and answer.",
        ),
    ],
    output: OutputOption,
    model: o.ModelOption = None,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="One more decoder, trained in turn with --model. Repeatable.")
    ] = None,
    config: ConfigOption = None,
    limit: LimitOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    **settings: Any,
) -> None:
    """Train ARC-Encoder, which turns contexts into a few vectors for decoders that stay as they are.

    --stage pretrain makes an encoder of a language model; finetune goes on with questions about contexts; add-decoder
    gives a trained encoder one more decoder. A stopped run goes on from its last checkpoint when the command is given
    again.
    """
    needs("accelerate")
    from szilard.compression.arc_encoder.training import train_arc_encoder
    from szilard.training.config import read_config
    from szilard.training.corpus import read_texts
    from szilard.whole_folder import check_folder

    stage = settings.get("stage") or _stage_in(config)
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}.")
    chosen = read_config(CONFIGS[stage], config, settings | {"stage": stage})
    read_texts(data)  # bad data is told before the models are loaded
    check_folder(output)
    if stage != "pretrain" and not chosen.checkpoint:
        raise ValueError(f"the stage {stage} begins with a trained encoder: --checkpoint folder")
    device = training_device(device)
    engine = load_engine(model, "transformers", device, dtype)
    others = [load_engine(name, "transformers", device, dtype) for name in also or ()]
    source = load_engine(chosen.encoder, "transformers", "cpu", "auto") if chosen.encoder else None
    metrics = train_arc_encoder(
        engine, data, chosen, output, others=others, source=source, limit=limit, restart=restart
    )
    if metrics:
        found = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        note(f"held-out data: {found}; written to {output}")


def _stage_in(config: Path | None) -> str:
    """The stage that a file of settings names; the first one where it names none, or cannot be read."""
    try:
        read = yaml.safe_load(config.read_text(encoding="utf-8")) if config is not None else None
    except (OSError, ValueError, yaml.YAMLError):
        read = None  # what is wrong with it is said when it is read as settings
    return str(read.get("stage", STAGES[0])) if isinstance(read, dict) else STAGES[0]


add_flags(arc_encoder, ArcConfig)
