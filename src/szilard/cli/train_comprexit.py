"""`szilard train comprexit`: gates over a frozen model's layers and the transport of its tokens into slots."""

from __future__ import annotations

from typing import Any

from szilard.cli import options as o
from szilard.cli.loading import load_engine, needs, note, training_device
from szilard.cli.train_heads import ConfigOption, DataOption, LimitOption, OutputOption, RestartOption, add_flags
from szilard.compression.comprexit.config import ComprExITConfig


def comprexit(
    data: DataOption,
    output: OutputOption,
    model: o.ModelOption = None,
    config: ConfigOption = None,
    limit: LimitOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    **settings: Any,
) -> None:
    """Train ComprExIT, which compresses contexts for a model that stays as it is.

    --stage ntp learns from texts: a context is compressed, and the text behind it is to be predicted. --stage sft goes
    on with --start from questions about contexts: records with "context", "prompt" and "answer". A stopped run goes on
    from its last checkpoint when the command is given again.
    """
    needs("accelerate")
    from szilard.compression.comprexit.training import train_comprexit
    from szilard.compression.passages import read_questions
    from szilard.training.config import read_config
    from szilard.training.corpus import read_texts
    from szilard.whole_folder import check_folder

    chosen = read_config(ComprExITConfig, config, settings)
    if chosen.stage == "sft":  # bad data is told before the model is loaded
        read_questions(data, limit=limit)
    else:
        read_texts(data)
    check_folder(output)
    engine = load_engine(model, "transformers", training_device(device), dtype)
    metrics = train_comprexit(engine, data, chosen, output, limit=limit, restart=restart)
    if metrics:
        found = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        note(f"held-out contexts: {found}; written to {output}")


add_flags(comprexit, ComprExITConfig)
