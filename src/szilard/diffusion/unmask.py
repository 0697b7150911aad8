"""The rules that published decoders of masked diffusion LMs begin with: how many columns a round may commit, and which.

LLaDA: Nie et al. 2025, arXiv 2502.09992. Dream: Ye et al. 2025, arXiv 2508.15487. Fast-dLLM: Wu et al. 2025, arXiv
2505.22618. EB-Sampler: Ben-Hamu et al. 2025, arXiv 2505.24857.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from szilard.diffusion.look import Look, order_of
from szilard.diffusion.method import DiffusionMethod
from szilard.options import check_choice, check_number

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState

SCORES = ("confidence", "margin", "entropy", "random", "left-to-right")


@dataclass(frozen=True)
class TopKUnmask(DiffusionMethod):
    """The k best candidates per round; k = 1 is the reference that parallel decoders are measured against.

    Attributes:
        k: columns per round and row.
        score: "confidence" of the proposed token, "margin" p1 - p2, "entropy" (low first), "random", "left-to-right".
    """

    slug: ClassVar[str] = "top-k-unmask"
    paper: ClassVar[str] = "Nie et al. 2025 (LLaDA), arXiv 2502.09992; scores also of Dream, arXiv 2508.15487"

    k: int = 1
    score: str = "confidence"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("k", self.k, low=1, integer=True)
        check_choice("score", self.score, SCORES)

    @classmethod
    def neutral(cls) -> TopKUnmask:
        """One column per round."""
        return cls()

    def select(self, look: Look) -> torch.Tensor:
        return look.best(look.score(self.score), self.k)


@dataclass(frozen=True)
class ThresholdUnmask(DiffusionMethod):
    """{i : c_i >= tau}, and always the most confident candidate (Fast-dLLM).

    Attributes:
        threshold: tau. Above 1 it is one column per round; at 1 some probabilities round to it.
    """

    slug: ClassVar[str] = "threshold-unmask"
    paper: ClassVar[str] = "Wu et al. 2025 (Fast-dLLM), arXiv 2505.22618"

    threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold", self.threshold, low=0)

    @classmethod
    def neutral(cls) -> ThresholdUnmask:
        """No confidence reaches it: one column per round."""
        return cls(threshold=2.0)

    def select(self, look: Look) -> torch.Tensor:
        return look.open & (look.sure >= self.threshold)


@dataclass(frozen=True)
class FactorUnmask(DiffusionMethod):
    """The n best with the largest n such that (n + 1)(1 - c_(n)) < f, at least one (Fast-dLLM, theorem 1).

    The strict inequality and the count are those of the paper; its code takes all candidates where the rule first fails
    at the last one.

    Attributes:
        factor: f.
    """

    slug: ClassVar[str] = "factor-unmask"
    paper: ClassVar[str] = "Wu et al. 2025 (Fast-dLLM), arXiv 2505.22618"

    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("factor", self.factor, low=0)

    @classmethod
    def neutral(cls) -> FactorUnmask:
        """No two columns at once."""
        return cls(factor=0.0)

    def select(self, look: Look) -> torch.Tensor:
        ranks = look.ranked(look.sure)
        holds = (ranks + 2) * (1 - look.sure) < self.factor  # of rank n - 1: n + 1 = rank + 2
        return holds & look.open  # the left side grows with n, so it holds up to the largest n


@dataclass(frozen=True)
class EntropyBound(DiffusionMethod):
    """The longest run U of the surest candidates with sum H - max H <= gamma, at least one (EB-Sampler).

    What committing U at once ignores is its total correlation, at most sum H - max H (nats).

    Attributes:
        gamma: bound in nats; 0: one column per round, and whatever has no entropy at all; inf: the whole block.
        order_by: which are surest: "entropy" (low), "confidence" or "margin" (high).
    """

    slug: ClassVar[str] = "entropy-bound"
    paper: ClassVar[str] = "Ben-Hamu et al. 2025 (EB-Sampler), arXiv 2505.24857"

    gamma: float = 0.1
    order_by: str = "entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gamma", self.gamma, low=0)
        check_choice("order_by", self.order_by, ("entropy", "confidence", "margin"))

    @classmethod
    def neutral(cls) -> EntropyBound:
        """One column per round where every entropy is above zero, by the confidence that the plain rule ranks by."""
        return cls(gamma=0.0, order_by="confidence")

    def select(self, look: Look) -> torch.Tensor:
        order = order_of(look.score(self.order_by), look.open)
        entropy = look.entropy.double().masked_fill(~look.open, torch.inf).gather(1, order)
        error = entropy.cumsum(1) - entropy.cummax(1).values
        within = error <= self.gamma
        within[:, 0] = True
        within = within.cumprod(1).bool()  # inf - inf behind the candidates is NaN, and false
        return torch.zeros_like(look.open).scatter_(1, order, within) & look.open


@dataclass(frozen=True)
class ScheduleUnmask(DiffusionMethod):
    """So many rounds, and the masks spread over them.

    rule "even" (LLaDA): the rounds are spread over the blocks; n of a block's b masks and s rounds is b // s, one more
    in the first b mod s. rule "linear" (Dream): n = floor(masks (1 - t_{i+1} / t_i)) with t from 1 to epsilon, the rest
    in the last round. rule "chance" (Dream's "origin"): every mask is committed with that probability by itself.
    A round for which that is no column commits one, where the released code runs the model for nothing.

    Attributes:
        steps: rounds in all; None: as many as columns.
        score: which of the candidates, as of `TopKUnmask`.
        rule: "even", "linear" or "chance".
        score_temperature: 0: the best; above: drawn without replacement from softmax(score / it) (Dream's alg_temp).
        epsilon: t at the end, of "linear" and "chance".
    """

    slug: ClassVar[str] = "schedule-unmask"
    paper: ClassVar[str] = "Nie et al. 2025 (LLaDA), arXiv 2502.09992; Ye et al. 2025 (Dream), arXiv 2508.15487"

    steps: int | None = None
    score: str = "confidence"
    rule: str = "even"
    score_temperature: float = 0.0
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("steps", self.steps, low=1, integer=True, optional=True)
        check_choice("score", self.score, SCORES)
        check_choice("rule", self.rule, ("even", "linear", "chance"))
        check_number("score_temperature", self.score_temperature, low=0)
        check_number("epsilon", self.epsilon, low=0, high=0.5)

    @classmethod
    def neutral(cls) -> ScheduleUnmask:
        """As many rounds as columns."""
        return cls()

    def check_canvas(self, state: DenoisingState) -> None:
        if self.steps is None:
            return
        longest, blocks = state.longest_answer, state.block_count(self.block_length)
        if self.steps > longest:
            raise ValueError(
                f"steps={self.steps} is more than the answer's {longest} columns, and a round commits at least one: "
                f"give at most {longest}."
            )
        if self.steps < blocks:
            raise ValueError(
                f"steps={self.steps} cannot fill {blocks} blocks, each of which takes a round: give at least {blocks} "
                "steps, or longer blocks."
            )

    def select(self, look: Look) -> torch.Tensor:
        steps = self._steps(look)
        masks = look.left
        left = steps - look.step
        if self.rule == "even":
            count = look.opened // steps + (look.step < look.opened % steps)
        else:
            now, then = (1 - (1 - self.epsilon) * at.double() / steps for at in (look.step, look.step + 1))
            share = 1 - then / now
            if self.rule == "chance":
                drawn = look.score("random")
                chosen = look.open & ((drawn < share[:, None]) | (left <= 1)[:, None])
                return chosen | (~chosen.any(1, keepdim=True) & look.best(drawn, 1))
            count = (masks * share + 1e-9).floor().long()  # a whole number may come out a little less
        count = torch.where(left <= 1, masks, count).clamp(min=1)
        score = look.score(self.score)
        if self.score_temperature:
            noise = torch.rand(score.shape, generator=look.generator, device=score.device, dtype=torch.float64)
            score = score.double() / self.score_temperature - noise.log().neg().log()
        return look.best(score, count)

    def _steps(self, look: Look) -> torch.Tensor:
        """Rounds of each row's current block, int64 [rows]."""
        if self.steps is None:
            return look.opened.clamp(min=1)
        extra = self.steps % look.blocks
        return torch.minimum(self.steps // look.blocks + (look.number < extra), look.opened).clamp(min=1)
