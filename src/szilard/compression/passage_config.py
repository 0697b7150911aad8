"""Settings of trainings on contexts and what follows them."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_number
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class PassageConfig(TrainingConfig):
    """Texts are cut into contexts, which are compressed, and what follows them, which is to be likely then."""

    context: int = setting(256, "Tokens of a context.")
    target: int = setting(128, "Tokens that follow it.")
    max_length: int = setting(1 << 20, "Longer texts are cut, in tokens.")
    held_out: float = setting(0.05, "Share of the texts kept for measuring.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "target"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("max_length", self.max_length, low=8, integer=True)
        check_number("held_out", self.held_out, low=0, high=0.9)

    @property
    def window(self) -> int:
        """Tokens of a context and what follows."""
        return self.context + self.target
