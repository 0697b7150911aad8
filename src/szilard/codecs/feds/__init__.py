"""FEDS: training a small codec with what a large one knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from szilard.codecs.feds.channels import channel_entropy, select_channels
from szilard.codecs.feds.config import FEDSConfig

if TYPE_CHECKING:
    from szilard.codecs.feds.training import FEDSTrainer, train_feds

__all__ = ["FEDSConfig", "FEDSTrainer", "channel_entropy", "select_channels", "train_feds"]


def __getattr__(name: str) -> Any:
    if name in ("FEDSTrainer", "train_feds"):  # the training loop is slow to import, and every command reads settings
        from szilard.codecs.feds import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
