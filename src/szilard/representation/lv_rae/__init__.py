"""LV-RAE: representation autoencoders whose latent is a frozen vision model's, plus a small residual."""

from szilard.representation.lv_rae.config import LVRAEConfig, LVRAETraining
from szilard.representation.lv_rae.model import LVRAE

__all__ = ["LVRAE", "LVRAEConfig", "LVRAETraining"]
