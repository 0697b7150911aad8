"""EDT: draw coldly where the model is sure, and at the full temperature where it is not.

Zhang, Bao, Huang. EDT: Improving Large Language Models' Generation by Entropy-based Dynamic Temperature Sampling.
arXiv 2403.14541.

    T_t = T_0 N^(theta / H(p_t)),   p_t = softmax(z_t)                                                   [batch]    (1)
    x_t ~ softmax(z_t / T_t)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from szilard.decoding.method import Method, Shaping
from szilard.decoding.plain import plain_decode
from szilard.decoding.state import DecodingState
from szilard.decoding.warpers import WARPERS, without_warpers
from szilard.information import entropy
from szilard.options import check_number

_COLDEST = 1e-6  # below it only the likeliest token is left in float32


@dataclass(frozen=True)
class Edt(Method):
    """A temperature per step, from the entropy of the step's distribution. T_0 is the run's own `temperature`.

    Without sampling it is greedy decoding: a temperature changes no argmax.

    Attributes:
        theta: theta in (1), nats: the entropy below which steps become cold. 0: the run's temperature everywhere. The
            paper tunes it per task; 1.0 is a choice made here.
        base: N in (1), between 0 and 1; the paper's is 0.8.
    """

    slug: ClassVar[str] = "edt"
    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2403.14541"

    theta: float = 1.0
    base: float = 0.8

    def __post_init__(self) -> None:
        check_number("theta", self.theta, low=0)
        check_number("base", self.base, low=1e-6, high=1)

    @classmethod
    def neutral(cls) -> Edt:
        """The run's temperature at every step."""
        return cls(theta=0.0)

    def decode(self, state: DecodingState) -> None:
        """The plain loop, with (1) in front of the run's own filters."""
        if self.theta == 0 or not state.do_sample:
            plain_decode(state)
            return
        before = without_warpers(state.logits_processor)
        filters = [one for one in state.logits_processor if isinstance(one, WARPERS)]
        logits = state.prefill()  # [batch, vocab]
        while True:
            uncertainty = entropy(logits)  # [batch], nats
            factor = self.factor(uncertainty)
            tokens = state.choose(logits, processors=[*before, _Divide(factor), *filters])
            state.record(tokens, uncertainty, temperature_factor=factor)
            state.commit(tokens)
            if state.done:
                return
            logits = state.feed(tokens)[:, -1]

    def factor(self, uncertainty: torch.Tensor) -> torch.Tensor:
        """T_t / T_0 in (1): entropies in nats -> factors in (0, 1], of the same shape."""
        return (self.base ** (self.theta / uncertainty.clamp(min=1e-9))).clamp(min=_COLDEST)

    def shaping(self, state: DecodingState) -> Shaping | None:
        """The logits of given text at their temperatures."""
        if self.theta == 0:
            return None
        return lambda _, logits: _Divide(self.factor(entropy(logits)))(None, logits)


@dataclass(frozen=True)
class _Divide:
    """A logits processor: every row by its own temperature, its largest logit at 0 so that nothing overflows."""

    factor: torch.Tensor  # [batch]

    def __call__(self, _: torch.Tensor | Sequence[Sequence[int]] | None, scores: torch.Tensor) -> torch.Tensor:
        return (scores - scores.amax(-1, keepdim=True)) / self.factor[:, None]
