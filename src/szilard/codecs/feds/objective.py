"""A phase's loss: rate and distortion, and what the student is to take from its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from szilard.codecs.feds.config import FEDSConfig
from szilard.codecs.feds.signals import Tapped, Teacher
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.training import AUX, RateDistortion
from szilard.training.recipe import own_chance


@dataclass(frozen=True)
class Term:
    """A term of a phase's loss.

    Attributes:
        name: in the log.
        loss: (student, teacher) -> scalar.
        first, last: its weight when the phase begins and when it ends; in between it moves evenly.
    """

    name: str
    loss: nn.Module
    first: float
    last: float


class DistillationObjective(RateDistortion):
    """loss = r L_RD + factor * sum of weight * term.

    Args:
        student: what learns.
        config: lambda, rates.
        teacher: it is no part of this module: no checkpoint holds it.
        terms: of this phase.
        share: r, of the rate-distortion loss.
    """

    def __init__(
        self, student: LearnedCodec, config: FEDSConfig, teacher: Teacher, terms: Sequence[Term], share: float = 1.0
    ) -> None:
        super().__init__(student, config)
        self.teacher, self.tapped = teacher, Tapped(student)
        self.terms = list(terms)
        self.losses_of_terms = nn.ModuleDict({term.name: term.loss for term in terms})
        self.share, self.factor, self.progress = share, 1.0, 0.0

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Of a batch: "loss", "rate_distortion", "bpp", "psnr", terms by name, "distillation": their share of L_RD."""
        student, teacher = self.tapped(pixels), self.teacher(pixels)
        losses = self.losses(student.found, pixels)
        rate_distortion = losses["loss"]
        added = torch.zeros_like(rate_distortion)
        for term in self.terms:
            value = term.loss(student, teacher)
            losses[term.name] = value.detach()
            added = added + self.factor * (term.first + (term.last - term.first) * self.progress) * value
        losses["distillation"] = added.detach() / rate_distortion.detach()
        aux: Tensor = self.codec.aux_loss()  # type: ignore[operator]
        losses["loss"] = self.share * rate_distortion + added + AUX * aux
        return losses

    def measured(self, pixels: Tensor, seed: int) -> dict[str, float]:
        """The losses of one batch in training mode; nothing is changed, and no random numbers are used up."""
        device = next(self.codec.parameters()).device
        self.to(device)
        with own_chance(seed), torch.no_grad():
            self.train()
            return {name: float(value) for name, value in self(pixels.to(device)).items()}


class Progress(TrainerCallback):
    """Tells an objective how far its phase is; a resumed one, too."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        getattr(model, "module", model).progress = state.global_step / max(state.max_steps, 1)
