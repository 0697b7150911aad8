"""Settings of QLAE, its baselines and the quantised InfoWGAN-GP, with the paper's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    nonnegativity_weight: float | None = setting(None, "Of BioAE: draws latents above zero (none: 1).")
    activity_weight: float | None = setting(None, "Of BioAE: draws latents to zero (none: 0.01).")
    beta: float = setting(1.0, "Of beta-VAE: weight of the divergence. Of beta-TCVAE: of the total correlation.")
    evaluate_every: int = setting(5000, "Steps between two evaluations.")
    evaluation_pictures: int = setting(10_000, "Pictures that are evaluated on, at most.")
    held_out: float = setting(0.0, "Share of the pictures not trained on; 0: evaluated on what was trained on.")
    save_every: int = setting(1000, "Steps between checkpoints: what a kill costs at most.")
    log_every: int = setting(100, "Steps that a line of metrics averages; divides save_every.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("quantization_weight", "commitment_weight", "nonnegativity_weight", "activity_weight", "beta"):
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


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model that a command makes; see `LatentAutoencoder`. Widths are written with commas."""

    image_size: int = setting(64, "Side of the pictures, in pixels.")
    latents: int = setting(12, "Number of latents: twice the number of factors in the paper.")
    values: int = setting(10, "Values of each latent.")
    learn_values: bool = setting(True, "Let codebooks learn.")
    shared_codebook: bool = setting(False, "One codebook for all latents.")
    architecture: str = setting("large", "large (the paper's) or small.")
    widths: str | None = setting(None, "Channels of each stage, as in 16,32,64; none: the architecture's.")
    dense: str | None = setting(None, "Widths of the dense layers, as in 256,256; none: the architecture's.")

    def __post_init__(self) -> None:
        check_choice("architecture", self.architecture, ARCHITECTURES)
        numbers("widths", self.widths)
        numbers("dense", self.dense)

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `QLAE`, without the channels."""
        return {
            "image_size": self.image_size,
            "num_latents": self.latents,
            "num_values": self.values,
            "learn_values": self.learn_values,
            "shared_codebook": self.shared_codebook,
            "architecture": self.architecture,
            "widths": numbers("widths", self.widths),
            "dense": numbers("dense", self.dense),
        }


@dataclass(frozen=True)
class QlaeRunConfig(ModelConfig, QlaeConfig):
    """Settings of `szilard train qlae`."""

    bottleneck: str = setting("qlae", f"{', '.join(BOTTLENECKS[:-1])} or {BOTTLENECKS[-1]}.")

    def __post_init__(self) -> None:
        QlaeConfig.__post_init__(self)
        ModelConfig.__post_init__(self)
        check_choice("bottleneck", self.bottleneck, BOTTLENECKS)


@dataclass(frozen=True)
class InfoGanRunConfig(ModelConfig, InfoGanConfig):
    """Settings of `szilard train infogan`."""

    def __post_init__(self) -> None:
        InfoGanConfig.__post_init__(self)
        ModelConfig.__post_init__(self)


def numbers(name: str, text: str | None) -> list[int] | None:
    """Whole numbers written with commas.

    Raises:
        ValueError: something else.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be whole numbers with commas, as in 16,32,64, not {text!r}.") from None
