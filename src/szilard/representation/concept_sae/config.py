"""Settings of `szilard train sae`."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_bool, check_number
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class SaeConfig(TrainingConfig):
    """Settings of the training; those of a kind are its class's."""

    epochs: float = setting(1.0, "Passes over the activations.")
    batch_size: int = setting(2048, "Activations per step and process.")
    learning_rate: float = setting(1e-3, "Largest learning rate of AdamW.")
    warmup: float = setting(0.03, "Share of the steps in which the learning rate rises.")
    sparsity_warmup: float = setting(0.05, "Share of the steps in which the sparsity penalty rises.")
    anneal_start: float = setting(0.5, "Share of the steps in which p stays 1, where p is annealed.")
    scale_inputs: bool = setting(True, "Activations are scaled to a mean norm of sqrt(d).")
    held_out: float = setting(0.02, "Share of the activations, the last ones, kept for measuring.")
    held_out_rows: int = setting(16384, "At most so many.")
    evaluations: int = setting(5, "On the way.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sparsity_warmup", self.sparsity_warmup, low=0, high=1)
        check_number("anneal_start", self.anneal_start, low=0, high=0.99)
        check_bool("scale_inputs", self.scale_inputs)
        check_number("held_out", self.held_out, low=0, high=0.9)
        check_number("held_out_rows", self.held_out_rows, low=1, integer=True)
        check_number("evaluations", self.evaluations, low=1, integer=True)
