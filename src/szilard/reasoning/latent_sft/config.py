"""Latent-SFT's settings, of the paper's second version; `LatentSFTConfig.first_version()` has those of the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from szilard.options import check_bool, check_choice, check_number
from szilard.training.config import TrainingConfig, setting

SUB_STEPS = ("encoder", "decoder", "both")


@dataclass(frozen=True)
class LatentSFTConfig(TrainingConfig):
    """Both stages. `epochs`, `steps` and `learning_rate` are stage 2's; the sub-steps of stage 1 have their own."""

    epochs: float = setting(70.0, "Passes of stage 2 over the data.")
    steps: int | None = setting(None, "Optimiser steps of stage 2, instead of epochs.")
    learning_rate: float = setting(3e-4, "Largest learning rate of stage 2.")
    stage_1_epochs: float = setting(10.0, "Passes of each of stage 1's three sub-steps.")
    stage_1_steps: int | None = setting(None, "Optimiser steps of each sub-step, instead of epochs.")
    stage_1_learning_rate: float = setting(1e-4, "Largest learning rate of stage 1.")
    encoder_learning_rate: float | None = setting(None, "The encoder's in stage 1; none: stage 1's.")
    warm_start_steps: int = setting(
        0, "Steps before stage 1 in which the encoder learns the words of the next chunk; 0: none, as in the paper."
    )
    gradient_accumulation: int = setting(64, "Batches whose gradients are added before a step.")
    warmup: float = setting(0.05, "Share of the steps in which the learning rate rises.")
    weight_decay: float = setting(0.01, "Of AdamW.")
    compression_rate: int = setting(2, "r: tokens of the chain that a latent token stands for.")  # math: 16
    top_k: int = setting(10, "k: tokens in a superposition; 0: the whole vocabulary (first version).")
    readout: str = setting(
        "input_embedding", "What the encoder's states are compared with: input_embedding or lm_head."
    )
    average: str = setting(
        "token", "Stage 1's loss over tokens (the code) or chunks (the paper, inferred): token or chunk."
    )
    dual_track_positions: bool = setting(True, "Latent tokens are neighbours in stage 1, too (second version).")
    kl_weight: float = setting(1.0, "lambda: of the latent tokens' divergence in stage 2.")
    ce_weight: float = setting(1.0, "beta: of the answer's cross-entropy in stage 2.")
    gumbel_scale: float = setting(1.0, "Noise on the labels of stage 2; 0: none (first version).")
    gumbel_temperature: float = setting(1.0, "tau of the noisy labels.")
    gumbel_low: float = setting(-1.5, "Scaled noise is cut below.")
    gumbel_high: float = setting(3.0, "Scaled noise is cut above.")
    lora: bool = setting(True, "Low-rank adapters; off: every weight but the input embeddings.")
    rank: int = setting(64, "Of the adapters; their scale is 2.")
    lora_dropout: float = setting(0.1, "In the adapters.")
    induction_mask: bool = setting(True, "LTIM; off: the encoder sees earlier latent tokens.")
    supervision_mask: bool = setting(True, "LTSuM; off: the decoder sees the chain's text, at plain positions.")
    feedback: str = setting(
        "soft_embedding", "What a latent token is for the model: soft_embedding or hidden_state (an ablation)."
    )
    think_open: str = setting("<think>", "Begins a chain.")
    think_close: str = setting("</think>", "Ends a chain.")
    instruction: str = setting("", "Put before every problem.")
    held_out: float = setting(0.05, "Share of the problems kept for measuring and choosing checkpoints.")
    evaluations: int = setting(5, "Of answers, per sub-step and stage; the best one's weights are handed on.")
    evaluation_limit: int = setting(256, "Held-out problems that an evaluation answers, at most.")
    label_batch: int = setting(64, "Problems that the encoder labels at once.")
    max_latent_steps: int = setting(128, "Bound of the chain when held-out problems are answered.")
    max_answer_tokens: int = setting(128, "Bound of their answers.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("stage_1_epochs", self.stage_1_epochs, low=1e-6)
        check_number("stage_1_steps", self.stage_1_steps, low=1, integer=True, optional=True)
        for name in ("compression_rate", "rank", "evaluations", "evaluation_limit", "label_batch"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("max_latent_steps", "max_answer_tokens"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("top_k", "warm_start_steps"):
            check_number(name, getattr(self, name), low=0, integer=True)
        check_number("encoder_learning_rate", self.encoder_learning_rate, low=0, optional=True)
        for name in ("stage_1_learning_rate", "kl_weight", "ce_weight", "gumbel_scale"):
            check_number(name, getattr(self, name), low=0)
        check_number("gumbel_temperature", self.gumbel_temperature, low=1e-6)
        check_number("gumbel_low", self.gumbel_low, high=0)
        check_number("gumbel_high", self.gumbel_high, low=0)
        check_number("lora_dropout", self.lora_dropout, low=0, high=0.99)
        check_number("held_out", self.held_out, low=0, high=0.9)
        check_choice("readout", self.readout, ("input_embedding", "lm_head"))
        check_choice("average", self.average, ("token", "chunk"))
        check_choice("feedback", self.feedback, ("soft_embedding", "hidden_state"))
        for name in ("dual_track_positions", "lora", "induction_mask", "supervision_mask"):
            check_bool(name, getattr(self, name))
        for name in ("think_open", "think_close"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} must be a text that stands around a chain, not {getattr(self, name)!r}.")
        if not isinstance(self.instruction, str):
            raise TypeError(f"instruction must be a text, not {self.instruction!r}.")

    @classmethod
    def first_version(cls, **settings: Any) -> LatentSFTConfig:
        """The whole vocabulary, plain positions, no noise, a slower encoder, fewer epochs: arXiv 2510.15522v1."""
        first = {"top_k": 0, "dual_track_positions": False, "gumbel_scale": 0.0, "epochs": 50.0}
        first["encoder_learning_rate"] = 5e-5
        return cls(**(first | settings))
