"""Settings of `szilard train ladir`: three trainings in one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from szilard.options import check_bool, check_choice, check_number
from szilard.reasoning.ladir.flow import OBJECTIVES
from szilard.reasoning.ladir.mask import SPANS
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class LadirConfig(TrainingConfig):
    """Settings without a prefix are stage 1's; those of the VAE and of stage 2 that differ have one.

    Defaults are the paper's where it tells them. Betas, clipping and the share of the warm-up hold for all three.
    """

    epochs: float = setting(20.0, "Passes over the data in stage 1.")
    batch_size: int = setting(64, "Problems per step and process in stage 1.")
    learning_rate: float = setting(1e-5, "Largest learning rate in stage 1.")
    warmup: float = setting(0.03, "Share of the steps in which the learning rate rises.")
    vae_epochs: float = setting(2.0, "Passes over the sentences for the VAE.")
    vae_steps: int | None = setting(None, "Optimiser steps of the VAE, instead of epochs.")
    vae_batch_size: int = setting(128, "Sentences per step and process.")
    vae_learning_rate: float = setting(2e-5, "Largest learning rate of the VAE.")
    stage2: bool = setting(True, "Train on the model's own blocks afterwards.")
    stage2_epochs: float = setting(20.0, "Passes over the data in stage 2.")
    stage2_steps: int | None = setting(None, "Optimiser steps of stage 2, instead of epochs.")
    stage2_batch_size: int = setting(12, "Problems per step and process in stage 2.")
    stage2_learning_rate: float = setting(1e-5, "Largest learning rate in stage 2.")
    parts_learning_rate: float | None = setting(
        None, "Of what is added to the model (projections, heads, queries); none: that of the stage."
    )
    latent_tokens: int = setting(4, "Thought tokens per sentence.")
    latent_dim: int = setting(512, "Numbers per thought token.")
    beta: float = setting(1e-5, "Weight of the KL.")
    latent_noise: float = setting(3.0, "Std of the noise on latents while the VAE learns.")
    token_sub_prob: float = setting(0.3, "Share of the encoder's input tokens that are replaced while the VAE learns.")
    ae_token: bool = setting(True, "A learned vector between the decoder's prefix and the text.")
    normalise: str = setting("all", "Latents are scaled by one number (all) or one per dimension (dimension).")
    objective: str = setting("flow", "What is predicted: flow, x0, eps or v.")
    span: str = setting("block", "Where attention is full: block (<BOT> to <EOT>) or latents.")
    read_as_decoder: bool = setting(
        True, "W_in begins as the VAE's W_dec, whose vectors the pretrained model reads already; no: at random."
    )
    lambda_flow: float = setting(5.0, "Weight of the flow matching loss.")
    lambda_answer: float = setting(1.0, "Weight of the answer's cross-entropy.")
    lambda_special: float = setting(1.0, "Weight of the choice between another block and the answer.")
    cond_dropout: float = setting(0.1, "Share of the questions that are replaced by the null vector.")
    noise_draws: int = setting(8, "Noise levels per block and step.")
    sample_latents: bool = setting(False, "Draw latents from the VAE's posterior; no: its mean.")
    rollout_steps: int = setting(10, "Denoising steps per block in stage 2.")
    rollout_noise: float = setting(1.0, "Std of the noise that stage 2's blocks begin as.")
    checkpointing: bool = setting(False, "Compute denoising steps again for their gradients: less memory.")
    lora: bool = setting(False, "Low-rank changes; no: all weights learn.")
    rank: int = setting(512, "Of the low-rank changes.")
    instruction: str = setting("", "Put in front of every problem.")
    held_out: float = setting(0.05, "Share of the problems kept for measuring.")
    evaluate_every: int | None = setting(None, "Steps between evaluations; none: before and at the end.")
    eval_problems: int = setting(64, "Held-out problems that an evaluation answers.")
    eval_steps: int = setting(10, "Denoising steps per block in evaluations.")
    eval_noise: float = setting(1.0, "Std of the noise that blocks begin as in evaluations.")
    max_new_tokens: int = setting(64, "Longest answer of an evaluation.")
    store_base: bool = setting(True, "Keep the pretrained model beside the reasoner; no: it is loaded by its name.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vae_epochs", "stage2_epochs"):
            check_number(name, getattr(self, name), low=1e-6)
        for name in ("vae_steps", "stage2_steps", "evaluate_every"):
            check_number(name, getattr(self, name), low=1, integer=True, optional=True)
        for name in (
            *("vae_batch_size", "stage2_batch_size", "latent_tokens", "latent_dim", "noise_draws", "rollout_steps"),
            *("rank", "eval_problems", "eval_steps", "max_new_tokens"),
        ):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in (
            *("vae_learning_rate", "stage2_learning_rate", "beta", "latent_noise", "lambda_flow", "lambda_answer"),
            *("lambda_special", "rollout_noise", "eval_noise"),
        ):
            check_number(name, getattr(self, name), low=0, high=1e6)
        check_number("parts_learning_rate", self.parts_learning_rate, low=0, optional=True)
        for name in ("token_sub_prob", "cond_dropout"):
            check_number(name, getattr(self, name), low=0, high=1)
        check_number("held_out", self.held_out, low=0, high=0.9)
        for name in ("stage2", "read_as_decoder", "ae_token", "sample_latents", "checkpointing", "lora", "store_base"):
            check_bool(name, getattr(self, name))
        check_choice("normalise", self.normalise, ("all", "dimension"))
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("span", self.span, SPANS)
        if self.evaluate_every is not None and self.evaluate_every % self.save_every:
            raise ValueError(
                f"evaluate_every={self.evaluate_every} must be a multiple of save_every={self.save_every}, so that a "
                "resumed run evaluates the same weights."
            )

    def of_vae(self) -> LadirConfig:
        """The settings as the VAE's training takes them."""
        return replace(
            self,
            epochs=self.vae_epochs,
            steps=self.vae_steps,
            batch_size=self.vae_batch_size,
            learning_rate=self.vae_learning_rate,
        )

    def of_stage2(self) -> LadirConfig:
        """The settings as stage 2 takes them."""
        return replace(
            self,
            epochs=self.stage2_epochs,
            steps=self.stage2_steps,
            batch_size=self.stage2_batch_size,
            learning_rate=self.stage2_learning_rate,
        )
