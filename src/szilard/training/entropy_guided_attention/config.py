"""Settings of `szilard train entropy-guided-attention`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from szilard.options import check_bool, check_choice, check_number
from szilard.training.config import TrainingConfig, setting
from szilard.training.entropy_guided_attention.regularizer import EntropyRegularizer
from szilard.training.entropy_guided_attention.simplified import ARCHITECTURES, Simplification

CHARACTERS = "characters"


@dataclass(frozen=True)
class EntropyGuidedConfig(TrainingConfig):
    """Settings of training a simplified GPT-2 from scratch."""

    architecture: str = setting("SM(t)+ScFuFFN", f"{', '.join(ARCHITECTURES)}.")
    layers: int = setting(12, "Blocks, L.")
    heads: int = setting(12, "Heads of a block, H.")
    width: int = setting(768, "Of the hidden states, d; heads divides it.")
    context: int = setting(128, "Tokens of a text, T.")
    initializer_range: float = setting(0.02, "Spread of the first weights; a width below 768 wants more: 0.057 for 96.")
    tokenizer: str = setting(CHARACTERS, "A folder or hub id whose tokenizer is taken, or characters: of the texts.")
    ffn_norm: str = setting("", "weight, spectral or scale, instead of the architecture's; none: no norm.")
    norm_of: str = setting("ffn", "Which weights weight and spectral norms are of: ffn, qk, qk+ffn, qkv+ffn, qkvo+ffn.")
    attn_temperature: str = setting("", "head, head_pos or none, instead of the architecture's.")
    temperature_init: float = setting(1e-2, "First softmax temperature.")
    lam: float = setting(1e-5, "Weight of the entropy penalty, lambda; 0: no penalty.")
    gamma: float = setting(0.2, "Entropies this share of log T around a threshold are free.")
    theta_init: float = setting(0.5, "First thresholds, a share of log T.")
    reduction: str = setting(
        "sum_rows", "sum_rows (the authors' code), mean_rows or head_mean (algorithm 1 as printed)."
    )
    one_sided: bool = setting(False, "Only entropies above the band are penalised.")
    per_row_reference: str = setting("", "normalise or skip: early rows, which see few tokens, are measured by those.")
    learn_theta: bool = setting(True, "Learn the thresholds.")
    threshold_rate: float | None = setting(
        None, "Largest learning rate of the thresholds; none: the model's, as in the authors' code."
    )
    held_out: float = setting(0.05, "Share of the texts kept for measuring.")
    evaluate_every: int | None = setting(None, "Steps between evaluations; none: at the beginning and the end.")
    batch_size: int = setting(64, "Texts of `context` tokens per step and process.")
    learning_rate: float = setting(1e-3, "Largest learning rate of AdamW.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("architecture", self.architecture, tuple(ARCHITECTURES))
        for name, low in (("layers", 1), ("heads", 1), ("width", 1), ("context", 2)):
            check_number(name, getattr(self, name), low=low, integer=True)
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}.")
        check_choice("ffn_norm", self.ffn_norm, ("", "none", "weight", "spectral", "scale"))
        check_choice("attn_temperature", self.attn_temperature, ("", "none", "head", "head_pos"))
        check_choice("per_row_reference", self.per_row_reference, ("", "normalise", "skip"))
        check_number("initializer_range", self.initializer_range, low=1e-6, high=1e3)
        check_number("threshold_rate", self.threshold_rate, low=0, optional=True)
        check_number("held_out", self.held_out, low=1e-6, high=0.9)
        check_number("evaluate_every", self.evaluate_every, low=1, integer=True, optional=True)
        check_bool("learn_theta", self.learn_theta)
        if not self.tokenizer:
            raise ValueError(f"tokenizer must be {CHARACTERS!r}, or the name of a model whose tokenizer is taken.")
        _ = self.simplification, self.regularizer  # refused now what would be later

    @property
    def simplification(self) -> Simplification:
        """Of the stock GPT-2."""
        changes = {
            name: None if value == "none" else value
            for name in ("ffn_norm", "attn_temperature")
            if (value := getattr(self, name))
        }
        return replace(
            ARCHITECTURES[self.architecture],
            norm_of=self.norm_of,
            temperature_init=self.temperature_init,
            **changes,  # type: ignore[arg-type]
        )

    @property
    def regularizer(self) -> EntropyRegularizer | None:
        """A fresh one; None where lambda is 0."""
        made = EntropyRegularizer(
            self.layers,
            self.heads,
            lam=self.lam,
            gamma=self.gamma,
            theta_init=self.theta_init,
            reduction=self.reduction,
            one_sided=self.one_sided,
            per_row_reference=self.per_row_reference or None,
            learn_theta=self.learn_theta,
        )
        return made if self.lam else None
