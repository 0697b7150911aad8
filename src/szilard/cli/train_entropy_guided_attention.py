"""`szilard train entropy-guided-attention`: a small language model for private inference, from scratch."""

from __future__ import annotations

from typing import Any

from szilard.cli import options as o
from szilard.cli.loading import needs, note, training_device
from szilard.cli.train_heads import ConfigOption, DataOption, LimitOption, OutputOption, RestartOption, add_flags
from szilard.training.entropy_guided_attention.config import EntropyGuidedConfig


def entropy_guided_attention(
    data: DataOption,
    output: OutputOption,
    config: ConfigOption = None,
    limit: LimitOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    **settings: Any,
) -> None:
    """Train a GPT-2 without layer norms and activations from scratch, its heads held apart by their entropy.

    A stopped run goes on from its last checkpoint when the command is given again. The folder is a model that every
    command reads.
    """
    needs("accelerate")
    from szilard.training.config import read_config
    from szilard.training.entropy_guided_attention.training import train_softmax_only

    chosen = read_config(EntropyGuidedConfig, config, settings)
    found = train_softmax_only(data, chosen, output, limit=limit, restart=restart, device=training_device(device))
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.items())
    note(f"held-out text: {shown}; written to {output}")


add_flags(entropy_guided_attention, EntropyGuidedConfig)
