"""Settings of `szilard train masked-diffusion`."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_number
from szilard.training.config import CorpusConfig, setting


@dataclass(frozen=True)
class MaskedDiffusionTraining(CorpusConfig):
    """Settings of turning an autoregressive model into a masked diffusion model."""

    learning_rate: float = setting(1e-4, "Largest learning rate of AdamW.")
    beta_2: float = setting(0.95, "Second momentum of AdamW.")
    mask_token_id: int | None = setting(
        None, "The mask token; none given: the tokenizer's, or a special token that nothing uses."
    )
    shift_logits: bool = setting(True, "The state before a token predicts it, as in the model before (Dream's way).")
    eps: float = setting(1e-3, "Least probability with which a token is masked.")
    anneal: float = setting(0.0, "Share of the steps in which attention grows from causal to full.")
    lora: bool = setting(False, "Tune low-rank changes, which are then added to the weights; false: every weight.")
    rank: int = setting(32, "Of the low-rank changes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("mask_token_id", self.mask_token_id, low=0, integer=True, optional=True)
        check_number("eps", self.eps, low=1e-6, high=1)
        check_number("anneal", self.anneal, low=0, high=1)
        check_number("rank", self.rank, low=1, integer=True)
