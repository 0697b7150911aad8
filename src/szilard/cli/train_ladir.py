"""`szilard train ladir`: a model that thinks in latent blocks before it answers."""

from __future__ import annotations

from typing import Any

from szilard.cli import options as o
from szilard.cli.loading import load_engine, needs, note, training_device
from szilard.cli.train_heads import ConfigOption, DataOption, LimitOption, OutputOption, RestartOption, add_flags
from szilard.reasoning.ladir.config import LadirConfig


def ladir(
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
    """Train LaDiR: a VAE over sentences, a model that denoises them, and the same model on its own thoughts.

    Data are problems with a chain of thought and an answer (columns problem, cot, answer; GSM8K as it is). What is
    written is a model for `--model`, which --method ladir lets think. A stopped run goes on from its last checkpoint
    when the command is given again.
    """
    from szilard.reasoning.examples import read_reasoning
    from szilard.reasoning.ladir.training import train_ladir
    from szilard.training.config import read_config
    from szilard.whole_folder import check_folder

    chosen = read_config(LadirConfig, config, settings)
    needs("accelerate", *(["peft"] if chosen.lora else []))
    read_reasoning(data, limit)  # bad data is told before the model is loaded
    check_folder(output)
    engine = load_engine(model, "transformers", training_device(device), dtype)
    metrics = train_ladir(engine, data, chosen, output, limit=limit, restart=restart)
    if metrics:
        found = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        note(f"held-out problems: {found}; written to {output}")


add_flags(ladir, LadirConfig)
