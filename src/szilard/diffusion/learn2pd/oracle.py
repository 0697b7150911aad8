"""Extremely greedy parallel decoding: with the answer at hand, commit exactly what is already right. A ceiling.

Bao et al. 2025, "Learning to Parallel", ICLR 2026, arXiv 2509.25188: the reference is the model's own answer, one token
per step. In every round the columns of the block whose prediction equals the reference are committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from szilard.diffusion.look import Look
from szilard.diffusion.method import DiffusionMethod

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState


@dataclass(frozen=True)
class EgpOracle(DiffusionMethod):
    """Commits what equals a reference; it cannot be used without one, so it is no method of the registry.

    Attributes:
        reference: answers, a row each, all columns of them.
        seen: called with every look, before it is acted on.
    """

    slug: ClassVar[str] = "egp-oracle"
    paper: ClassVar[str] = "Bao et al. 2025 (Learn2PD), arXiv 2509.25188"

    reference: Sequence[Sequence[int]] = ()
    seen: Callable[[DenoisingState, Look, torch.Tensor], None] | None = field(default=None, repr=False)

    @classmethod
    def neutral(cls) -> EgpOracle:
        """There is none: without a reference nothing is right."""
        raise ValueError("the oracle needs a reference; its counterpart is TopKUnmask().")

    def check_canvas(self, state: DenoisingState) -> None:
        lengths = [len(row) for row in self.reference]
        if lengths != [state.longest_answer] * state.batch_size:
            raise ValueError(
                f"the reference has rows of {lengths} tokens; the canvas has {state.batch_size} answers of "
                f"{state.longest_answer} columns: give all columns of each."
            )

    def select(self, look: Look) -> torch.Tensor:
        return look.open & (look.tokens == self._wanted(look))

    def chosen(self, state: DenoisingState, look: Look) -> torch.Tensor:
        # Paper: when a round's predictions are those of the round before, the reference is copied into the block. That
        # is so when nothing was right (the canvas did not change), so the copy needs no further forward here.
        wanted = self._wanted(look)
        if self.seen is not None:
            self.seen(state, look, wanted)
        right = self.select(look)
        stuck = ~right.any(1, keepdim=True) & look.open
        if bool(stuck.any()):
            look.tokens[stuck] = wanted[stuck]
            written = look.log_probabilities[stuck].gather(1, wanted[stuck][:, None])[:, 0].exp()
            look.confidence[stuck] = written.to(look.confidence.dtype)
            state.cost.count("copied", int(stuck.sum()))
        return right | stuck

    def _wanted(self, look: Look) -> torch.Tensor:
        """What the reference has at the look's columns, int64 [rows, n]."""
        known = torch.tensor(self.reference, device=look.tokens.device)
        return known[look.rows[:, None], look.columns - look.state.prompt_width]
