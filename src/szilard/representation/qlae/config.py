"""Settings of QLAE, its baselines and the quantised InfoWGAN-GP, with the paper's values."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_choice, check_number
from szilard.representation.qlae.architecture import ARCHITECTURES
from szilard.representation.qlae.bottlenecks import BOTTLENECKS
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class QlaeConfig(TrainingConfig):
    """Settings of `train_qlae`: unusually strong decoupled decay, elementwise clipping, a constant rate."""

    steps: int | None = setting(200_000, "Optimiser steps; none: as many as the epochs have.")
    batch_size: int = setting(128, "Pictures per step and process.")
    schedule: str = setting("constant", "constant as in the paper, cosine or linear.")
    warmup: float = setting(0.0, "Share of the steps in which the learning rate rises.")
    weight_decay: float = setting(0.1, "Of all weights but biases and codebooks; the setting to sweep: 0 to 2.")
    max_grad_norm: float = setting(0.0, "Gradients are scaled down to this norm; 0: never.")
    max_grad_value: float = setting(1.0, "Gradients of decayed weights are cut to this size, each number; 0: never.")
    quantization_weight: float | None = setting(None, "Draws codebooks to latents (none: 0.01; VQ-VAE 1).")
    commitment_weight: float | None = setting(None, "Draws latents to codebooks (none: 0.01; VQ-VAE 0.25).")
    beta: float = setting(1.0, "Of beta-VAE: weight of the divergence. Of beta-TCVAE: of the total correlation.")
    evaluate_every: int = setting(5000, "Steps between two evaluations.")
    evaluation_pictures: int = setting(10_000, "Pictures that are evaluated on, at most.")
    held_out: float = setting(0.0, "Share of the pictures not trained on; 0: evaluated on what was trained on.")
    save_every: int = setting(1000, "Steps between checkpoints: what a kill costs at most.")
    log_every: int = setting(100, "Steps that a line of metrics averages; divides save_every.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("quantization_weight", "commitment_weight", "beta"):
            check_number(name, getattr(self, name), low=0, optional=name != "beta")
        for name in ("evaluate_every", "evaluation_pictures"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("held_out", self.held_out, low=0, high=0.9)


@dataclass(frozen=True)
class InfoGanConfig(TrainingConfig):
    """Settings of `train_infogan`; a step is one of the critic or, after `critic_steps` of them, of the generator."""

    steps: int | None = setting(200_000, "Optimiser steps of both; none: as many as the epochs have.")
    batch_size: int = setting(64, "Pictures per step.")
    learning_rate: float = setting(2e-4, "Of Adam without first momentum.")
    schedule: str = setting("constant", "constant as in the paper, cosine or linear.")
    warmup: float = setting(0.0, "Share of the steps in which the learning rate rises.")
    beta_2: float = setting(0.9, "Second momentum of Adam.")
    weight_decay: float = setting(1e-3, "Of all weights but biases and codebooks.")
    max_grad_norm: float = setting(0.0, "Gradients are scaled down to this norm; 0: never.")
    critic_steps: int = setting(5, "Steps of the critic to one of the generator.")
    gradient_penalty: float = setting(10.0, "Holds the critic's slope at 1.")
    latent_weight: float = setting(200.0, "Of the squared error of recovered latents.")
    quantization_weight: float = setting(0.01, "Draws codebooks to latents.")
    commitment_weight: float = setting(0.01, "Draws latents to codebooks.")
    save_every: int = setting(1000, "Steps between checkpoints: what a kill costs at most.")
    log_every: int = setting(100, "Steps that a line of metrics averages; divides save_every.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("critic_steps", self.critic_steps, low=1, integer=True)
        for name in ("gradient_penalty", "latent_weight", "quantization_weight", "commitment_weight"):
            check_number(name, getattr(self, name), low=0)
        if self.gradient_accumulation != 1:
            raise ValueError("critic and generator take turns, so gradient_accumulation must be 1: raise batch_size.")
