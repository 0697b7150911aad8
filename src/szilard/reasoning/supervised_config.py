"""Settings of a training on chains of thought, or on answers alone."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_number
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class SupervisedConfig(TrainingConfig):
    """Settings of a training on chains or answers."""

    chain: bool = setting(True, "Learn the chain of thought, too; no: the answer alone.")
    think_open: str = setting("<think>", "Opens the chain.")
    think_close: str = setting("</think>", "Closes the chain.")
    instruction: str = setting("", "Put in front of every problem.")
    evaluate_every: int | None = setting(None, "Steps between evaluations; none: at the beginning and the end.")
    max_new_tokens: int = setting(128, "Longest chain and answer of an evaluation.")
    held_out: float = setting(0.02, "Share of the problems kept for measuring; of `szilard train cot`.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("evaluate_every", self.evaluate_every, low=1, integer=True, optional=True)
        check_number("max_new_tokens", self.max_new_tokens, low=1, integer=True)
        check_number("held_out", self.held_out, low=0, high=0.9)
