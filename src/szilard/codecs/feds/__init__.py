"""FEDS: training a small codec with what a large one knows."""

from szilard.codecs.feds.channels import channel_entropy, select_channels
from szilard.codecs.feds.config import FEDSConfig
from szilard.codecs.feds.training import FEDSTrainer, train_feds

__all__ = ["FEDSConfig", "FEDSTrainer", "channel_entropy", "select_channels", "train_feds"]
