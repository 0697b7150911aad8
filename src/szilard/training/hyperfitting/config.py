"""Settings of hyperfitting, with the paper's values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from szilard.options import check_bool, check_number
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class HyperfitConfig(TrainingConfig):
    """Settings of `hyperfit`: few sequences, a small constant rate, no decay, no clipping, until nothing is left.

    `epochs=0` trains nothing. The rate belongs to the number of steps: 1e-6 is for the paper's 5000; with a few hundred
    take 1e-5 to 1e-4.
    """

    least_epochs: ClassVar[float] = 0.0

    num_sequences: int = setting(2000, "Sequences to train on.")
    seq_len: int = setting(256, "Tokens of a sequence; shorter texts are left out, longer ones cut.")
    epochs: float = setting(20.0, "Passes over the sequences; 0 trains nothing.")
    learning_rate: float = setting(1e-6, "Of AdamW, the same at every step.")
    schedule: str = setting("constant", "constant as in the paper, cosine or linear.")
    warmup: float = setting(0.0, "Share of the steps in which the learning rate rises.")
    max_grad_norm: float = setting(0.0, "Gradients are scaled down to this norm; 0: never.")
    target_loss: float | None = setting(None, "Stop after an epoch whose mean training loss is below this, in nats.")
    disable_dropout: bool = setting(True, "Train without the model's dropout.")
    layers: str | int | None = setting(None, "Train only the last layers: last5, or a number; none: every weight.")
    lora: bool = setting(False, "Train low-rank changes, which are then added to the weights.")
    rank: int = setting(32, "Of the low-rank changes; their scale is 2.")
    validation_freq: int = setting(250, "Updates between two looks at held-out sequences.")
    validation_sequences: int = setting(128, "Held-out sequences for loss and entropy.")
    validation_generations: int = setting(32, "Of these, how many are continued greedily; 0: none.")
    context_length: int = setting(32, "Tokens of a sequence that are given to be continued.")
    max_new_tokens: int | None = setting(None, "Of a continuation; none: up to seq_len with its context.")
    window: int = setting(96, "Last tokens of a continuation whose type-token ratio is taken.")
    save_every: int = setting(250, "Steps between checkpoints: what a kill costs at most.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("num_sequences", 1), ("seq_len", 2), ("rank", 1), ("validation_freq", 1), ("window", 1)):
            check_number(name, getattr(self, name), low=least, integer=True)
        for name in ("validation_sequences", "context_length"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("validation_generations", self.validation_generations, low=0, integer=True)
        check_number("max_new_tokens", self.max_new_tokens, low=1, integer=True, optional=True)
        check_number("target_loss", self.target_loss, low=0, optional=True)
        check_bool("lora", self.lora)
        check_bool("disable_dropout", self.disable_dropout)
        if self.validation_generations > self.validation_sequences:
            raise ValueError(
                f"validation_generations={self.validation_generations} continues more sequences than the "
                f"validation_sequences={self.validation_sequences} that are held out."
            )
        if self.validation_generations and self.context_length >= self.seq_len:
            raise ValueError(
                f"context_length={self.context_length} leaves nothing of seq_len={self.seq_len} tokens to continue."
            )
        last_layers(self.layers)

    @property
    def new_tokens(self) -> int:
        """Tokens of a continuation."""
        return self.seq_len - self.context_length if self.max_new_tokens is None else self.max_new_tokens


def last_layers(layers: str | int | None) -> int | None:
    """How many of the last layers learn; None: everything does.

    Raises:
        ValueError: neither "last5" (or another number), nor a whole number of at least 1.
    """
    if layers is None:
        return None
    found = re.fullmatch(r"(?:last)?(\d+)", str(layers)) if not isinstance(layers, bool) else None
    if found is None or int(found[1]) < 1:
        raise ValueError(f"layers must be None, 'last5' or a number of last layers, at least 1, not {layers!r}.")
    return int(found[1])
