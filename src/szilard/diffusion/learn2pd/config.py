"""Settings of Learn2PD's filter training."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_number
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class FilterConfig(TrainingConfig):
    """Settings of a filter's training; the defaults are the paper's."""

    steps: int | None = setting(40_000, "Optimiser steps.")
    rows_per_step: int | None = setting(None, "Rows that a step looks at; left out: all of them.")
    learning_rate: float = setting(3e-3, "Learning rate of AdamW.")
    schedule: str = setting("constant", "cosine, linear or constant, after the warm-up.")
    warmup: float = setting(0.0, "Share of the steps in which the learning rate rises.")
    weight_decay: float = setting(0.01, "Of AdamW.")
    max_grad_norm: float = setting(0.0, "Gradients are scaled down to this norm; 0: never.")
    layers: int = setting(2, "Linear layers of the filter.")
    hidden: int | None = setting(None, "Width of its inner layers; left out: the block's length.")
    threshold: float = setting(0.96, "At which precision and recall are measured.")
    batch_size: int = setting(1, "Stays 1: a step's rows are one batch, see rows_per_step.")
    save_every: int = setting(5000, "Steps between checkpoints: what a kill costs at most.")
    log_every: int = setting(100, "Steps that a line of metrics averages; divides save_every.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rows_per_step", self.rows_per_step, low=1, integer=True, optional=True)
        check_number("layers", self.layers, low=1, integer=True)
        check_number("hidden", self.hidden, low=1, integer=True, optional=True)
        check_number("threshold", self.threshold, low=0, high=1)
        if self.steps is None:
            raise ValueError("steps must be a number: a filter is trained for steps, not for epochs.")
        if self.batch_size != 1:
            raise ValueError(f"batch_size must stay 1, not {self.batch_size}: set rows_per_step.")
