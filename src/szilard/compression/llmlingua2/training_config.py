"""Settings of the training of LLMLingua-2's classifier, with the paper's defaults."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.compression.llmlingua2.annotation import WINDOW
from szilard.compression.llmlingua2.filters import PAPER
from szilard.options import check_number
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class ClassifierConfig(TrainingConfig):
    """Settings of `szilard train llmlingua2`."""

    epochs: float = setting(10.0, "Passes over the data.")
    batch_size: int = setting(10, "Sequences per step and process.")
    learning_rate: float = setting(1e-5, "Learning rate of AdamW; 5e-5 suits small encoders and few pairs.")
    schedule: str = setting("constant", "cosine, linear or constant, after the warm-up.")
    warmup: float = setting(0.0, "Share of the steps in which the learning rate rises.")
    max_length: int = setting(512, "Longer originals are cut into stretches of so many tokens.")
    held_out: float = setting(0.2, "Share of the pairs kept for measuring; the epoch with the best accuracy stays.")
    window: int = setting(WINDOW, "W of the alignment: words that are looked at around the last one found.")
    variation_share: float = setting(PAPER[0], "Pairs left out for words that are not in the original, as a share.")
    gap_share: float = setting(PAPER[1], "Of the rest, pairs left out for words that found no place, as a share.")
    lemmas: str = setting("stem", "stem (rules for English, no download), or a spaCy pipeline (en_core_web_sm).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_length", self.max_length, low=8, integer=True)
        check_number("held_out", self.held_out, low=0, high=0.9)
        check_number("window", self.window, low=1, integer=True)
        check_number("variation_share", self.variation_share, low=0, high=1)
        check_number("gap_share", self.gap_share, low=0, high=1)
        if not isinstance(self.lemmas, str) or not self.lemmas:
            raise TypeError(f"lemmas must be 'stem' or the name of a spaCy pipeline, not {self.lemmas!r}.")
