"""Settings of `szilard train first`."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_bool, check_choice, check_number
from szilard.training.config import CorpusConfig, setting


@dataclass(frozen=True)
class FirstConfig(CorpusConfig):
    """Settings of the routers' training and of the tuning that follows it."""

    learning_rate: float = setting(1e-3, "Largest learning rate of AdamW, of the routers.")
    alpha: float = setting(0.02, "Pressure to skip: weight of the sum of the layers' keep-probabilities.")
    target_rate: float | None = setting(None, "Share of layers to skip: alpha is adapted to it, and LoRA tuned at it.")
    alpha_step: float = setting(0.02, "How fast alpha is adapted to target_rate.")
    regulariser: float = setting(0.01, "Weight of the squared norm of the routers' weights, lambda.")
    binarise: str = setting("sequence", "Gates of the last third: sequence or token (0 or 1 for each), or off (soft).")
    threshold: float = setting(0.5, "Layers of at most this keep-probability are skipped, where no target_rate is set.")
    protect: str = setting("0,-1", "Layers that are never skipped, negative ones from the end.")
    normalised: bool = setting(True, "Let routers read hidden states divided by their root mean square.")
    lora: bool = setting(False, "Then tune the model's layers, at rank, to bridge the gaps.")
    rank: int = setting(8, "Of the low-rank changes.")
    lora_learning_rate: float = setting(1e-4, "Largest learning rate of the low-rank changes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "alpha_step", "regulariser", "lora_learning_rate"):
            check_number(name, getattr(self, name), low=0)
        check_number("target_rate", self.target_rate, low=0, high=1, optional=True)
        check_number("threshold", self.threshold, low=0, high=1)
        check_choice("binarise", self.binarise, ("sequence", "token", "off"))
        check_bool("normalised", self.normalised)
        check_bool("lora", self.lora)
        check_number("rank", self.rank, low=1, integer=True)
        try:
            self.protected(2**31)
        except ValueError:
            raise ValueError(f"protect must be layer numbers, as in 0,-1, not {self.protect!r}.") from None

    def protected(self, layers: int) -> set[int]:
        """The protected ones of so many layers.

        Raises:
            ValueError: a layer beyond them.
        """
        found = {int(part) for part in self.protect.split(",") if part.strip()}
        if any(not -layers <= layer < layers for layer in found):
            raise ValueError(f"protect {self.protect!r} lies beyond the {layers} layers of the model.")
        return {layer % layers for layer in found}
