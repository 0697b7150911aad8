"""Settings of FEDS. Its constants are not public: those here are a reconstruction's (inferred)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from szilard.codecs.feds.channels import ENTROPIES, ORDERS
from szilard.codecs.feds.distillation import DISTANCES, MATCHES
from szilard.codecs.training import CodecConfig
from szilard.options import check_choice, check_number
from szilard.training.config import setting

METHODS = ("feds", "feature", "kd", "scratch")
LATE = 0.1  # what is left of the features' weight at the end of phase 1, and stays in phase 2


class Phase(NamedTuple):
    """One of the three.

    Attributes:
        name: of its folder.
        steps, learning_rate: of it.
        number: 0, 1 or 2.
    """

    name: str
    steps: int
    learning_rate: float
    number: int


@dataclass(frozen=True)
class FEDSConfig(CodecConfig):
    """Settings of a student's training."""

    least_lmbda: ClassVar[float] = 0.0

    lmbda: float = setting(0.0, "lambda of the rate-distortion loss; 0: the teacher's.")
    method: str = setting(
        "feds", "feds; to compare: feature (no channels), kd (plain distillation), scratch (no teacher)."
    )
    feature_share: float = setting(0.4, "Share of the steps of phase 1, feature alignment.")
    channel_share: float = setting(0.4, "Share of the steps of phase 2, channel distillation; the rest is fine-tuning.")
    final_learning_rate: float = setting(1e-5, "Of Adam in phase 3, fine-tuning.")
    feature_weight: float = setting(1.0, "a: of the features in phase 1; falls to a tenth, which phase 2 keeps.")
    entropy_weight: float = setting(1.0, "b: of the informative channels in phase 2.")
    output_weight: float = setting(
        0.0, "Of the distance to the teacher's picture in phases 1 and 2, times lambda 255^2."
    )
    start_share: float | None = setting(
        None, "Scale the weights so that their terms are this share of the loss at a phase's first step (0.2, say)."
    )
    fraction: float = setting(0.5, "rho: share of the teacher's channels that count as informative.")
    channels: str = setting("top", "Which channels: top (by entropy), or to compare random or lowest.")
    entropy: str = setting("likelihood", "likelihood (what the teacher pays) or empirical (of a histogram).")
    distance: str = setting("mse", "Between channels: mse, or kl of the predicted Gaussians.")
    match: str = setting("auto", "project (1x1 convolution), identity (one by one), auto: identity for equal widths.")
    calibration: int = setting(24, "Pictures whose entropy is measured.")
    kd_weight: float = setting(0.2, "method=kd: of latent and picture each; the rest is rate-distortion.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("feature_share", "channel_share", "fraction"):
            check_number(name, getattr(self, name), low=0, high=1)
        for name in ("final_learning_rate", "feature_weight", "entropy_weight", "output_weight"):
            check_number(name, getattr(self, name), low=0)
        check_number("start_share", self.start_share, low=0, optional=True)
        check_number("kd_weight", self.kd_weight, low=0, high=0.5)
        check_number("calibration", self.calibration, low=1, integer=True)
        for name, allowed in (
            ("method", METHODS),
            ("channels", ORDERS),
            ("entropy", ENTROPIES),
            ("distance", DISTANCES),
            ("match", MATCHES),
        ):
            check_choice(name, getattr(self, name), allowed)
        if self.steps is None:
            raise ValueError("steps must be given: of all three phases together.")
        if self.feature_share + self.channel_share > 1 + 1e-9:
            raise ValueError(
                f"feature_share={self.feature_share} and channel_share={self.channel_share} are more than all steps."
            )

    @property
    def plan(self) -> list[Phase]:
        """The phases that have steps. Without the channels' phase (method feature) phase 1 has its steps, too."""
        assert self.steps is not None
        first, second = round(self.feature_share * self.steps), round(self.channel_share * self.steps)
        second = min(second, self.steps - first)
        if self.method == "feature":
            first, second = first + second, 0
        lengths = (first, second, self.steps - first - second)
        rates = (self.learning_rate, self.learning_rate, self.final_learning_rate)
        names = ("phase-1", "phase-2", "phase-3")
        parts = zip(names, lengths, rates, range(3), strict=True)
        return [Phase(*part) for part in parts if part[1]]

    def of(self, phase: Phase) -> FEDSConfig:
        """The settings of one phase; its random numbers are its own."""
        return replace(
            self, steps=phase.steps, learning_rate=phase.learning_rate, seed=(self.seed + phase.number) % 2**31
        )
