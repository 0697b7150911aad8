"""`szilard train vl-jepa`: a vision-language model that predicts the embedding of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.loading import needs, note, training_device
from szilard.cli.train_heads import ConfigOption, OutputOption, RestartOption, add_flags
from szilard.representation.vl_jepa.config import VLJEPAConfig


def vl_jepa(
    output: OutputOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Records with image (a file beside it), answer, and prompt where it answers a question. Without it, "
            "scenes of shapes are drawn, with captions and questions in several wordings.",
        ),
    ] = None,
    config: ConfigOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    **settings: Any,
) -> None:
    """Train VL-JEPA (Chen et al. 2025) and its text decoder: captions first, then questions, then the decoder.

    Parts that are not named are small and begin anew. The folder gets the model, its card and y_decoder/. A stopped
    run goes on from its last checkpoint when the command is given again.
    """
    from szilard.representation.vl_jepa.pairs import read_pairs
    from szilard.representation.vl_jepa.training import train_vl_jepa
    from szilard.training.config import read_config
    from szilard.whole_folder import check_folder

    chosen = read_config(VLJEPAConfig, config, settings)
    needs("accelerate")
    if data is not None:
        needs("PIL", extra="vision")
    check_folder(output)
    if data is not None:
        read_pairs(data)  # bad data is told before a model is loaded
    found = train_vl_jepa(chosen, output, data=data, restart=restart, device=training_device(device))
    shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    note(f"{shown}; written to {output}")


add_flags(vl_jepa, VLJEPAConfig)
