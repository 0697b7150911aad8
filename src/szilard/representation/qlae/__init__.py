"""QLAE: disentangled latents by quantisation and strong weight decay (Hsu et al. 2023), and its baselines."""

from szilard.representation.qlae.config import InfoGanConfig, QlaeConfig
from szilard.representation.qlae.model import QLAE, LatentAutoencoder
from szilard.representation.qlae.quantizer import LatentQuantizer, Quantized
from szilard.representation.qlae.training import QlaeResult, train_qlae

__all__ = [
    "QLAE",
    "InfoGanConfig",
    "LatentAutoencoder",
    "LatentQuantizer",
    "QlaeConfig",
    "QlaeResult",
    "Quantized",
    "train_qlae",
]
