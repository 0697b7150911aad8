"""Settings of the training of Koopman models."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_choice, check_number
from szilard.representation.koopman.model import RIDGE
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class KoopmanConfig(TrainingConfig):
    """Settings; the paper's weights are alpha, beta, gamma (its configuration file calls them alpha, -, beta).

    # Paper: the learning rate falls by a fifth every 20 epochs, and a run ends when validation has not improved for 50
    # of at most 300; here: a cosine over a length that is given, and the weights of the best evaluation are kept.
    """

    epochs: float = setting(100.0, "Passes over the windows.")
    batch_size: int = setting(16, "Windows per step.")
    window: int = setting(16, "T: steps of a window; it has T + 1 states.")
    mutual_information_weight: float = setting(2.0, "alpha: of InfoNCE over time; 0 with gamma 0: a plain KAE.")
    consistency_weight: float = setting(0.0, "beta: of the latent step's error; for a learned operator.")
    entropy_weight: float = setting(0.1, "gamma: of the von Neumann entropy, which is raised; below 0 it is lowered.")
    identity_weight: float = setting(0.1, "lambda: of the reconstruction of the states themselves.")
    neighbors: int = setting(3, "k: neighbours in time on each side.")
    temperature: float = setting(0.1, "tau: of InfoNCE.")
    negatives: str = setting("sequence", "sequence (the published code) or batch (the paper's text).")
    positives: str = setting("sum_inside", "sum_inside (the published code) or mean_outside (the paper's text).")
    ridge: float = setting(RIDGE, "Of the regression for the operator.")
    held_out: float = setting(0.1, "Share of the trajectories kept for measuring rollouts.")
    horizon: int = setting(20, "Steps of the rollouts whose error is reported.")
    evaluations: int = setting(10, "On the way; the weights of the best rollouts over a window are kept.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window", "neighbors", "horizon", "evaluations"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("mutual_information_weight", "consistency_weight", "identity_weight", "ridge"):
            check_number(name, getattr(self, name), low=0)
        check_number("entropy_weight", self.entropy_weight)
        check_number("temperature", self.temperature, low=1e-8)
        check_number("held_out", self.held_out, low=0, high=0.9)
        check_choice("negatives", self.negatives, ("sequence", "batch"))
        check_choice("positives", self.positives, ("sum_inside", "mean_outside"))
        if self.mutual_information_weight and self.window < 2 * self.neighbors + 1:
            raise ValueError(
                f"windows of {self.window} steps have no state with {self.neighbors} neighbours on both sides and one "
                "further away, which InfoNCE compares: take longer windows, fewer neighbors, or "
                "mutual_information_weight=0."
            )
