"""Settings of mean pooling's training."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.compression.passage_config import PassageConfig
from szilard.options import check_number
from szilard.training.config import setting


@dataclass(frozen=True)
class MeanPoolConfig(PassageConfig):
    """What `szilard train mean-pool` takes."""

    ratio: int = setting(4, "Tokens of a mean.")
    layer: int | None = setting(None, "Layer whose hidden states are averaged; default: the middle one.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ratio", self.ratio, low=1, integer=True)
        check_number("layer", self.layer, low=0, integer=True, optional=True)
