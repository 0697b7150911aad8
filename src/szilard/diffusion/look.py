"""What a round sees of the canvas: proposals, how sure the model is of them, and which of them may be committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState


@dataclass
class Look:
    """One round's view of the unfinished rows. Columns count from the beginning of the prompt.

    Attributes:
        rows: which rows of the batch these are, int64 [rows].
        columns: int64 [rows, n], ascending.
        masked: open columns for which the model gave logits, bool [rows, n]; what is committed is among them.
        block: columns of the row's current block, bool [rows, n].
        logits: [rows, n, vocab] as the model gave them (guidance and bans included); those drawn from under `tempered`.
        tokens: proposed, int64 [rows, n].
        confidence: probability of the proposed token, [rows, n], nothing left out at visible columns.
        known: columns whose logits are of this round (a cache may leave visible ones out), bool [rows, n].
        state: that is looked at.
        last: proposals that come after all others, bool [rows, n]; None: none.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    masked: torch.Tensor
    block: torch.Tensor
    logits: torch.Tensor
    tokens: torch.Tensor
    confidence: torch.Tensor
    known: torch.Tensor
    state: DenoisingState = field(repr=False)
    last: torch.Tensor | None = None

    @property
    def step(self) -> torch.Tensor:
        """Rounds that the row's block has had, int64 [rows]."""
        return self.state.step[self.rows]

    @property
    def opened(self) -> torch.Tensor:
        """Masks that the block began with, int64 [rows]."""
        return self.state.opened[self.rows]

    @property
    def number(self) -> torch.Tensor:
        """Of the block, int64 [rows]."""
        return (self.state.start[self.rows] - self.state.prompt_width) // self.state.block

    @property
    def blocks(self) -> torch.Tensor:
        """Of the answer, int64 [rows]."""
        return self.state.blocks[self.rows]

    @property
    def left(self) -> torch.Tensor:
        """Masks of the block, those included that a cache leaves out, int64 [rows]."""
        return self.state.open_in_block(self.rows)

    @property
    def generator(self) -> torch.Generator | None:
        """Source of draws."""
        return self.state.generator

    @cached_property
    def sure(self) -> torch.Tensor:
        """The confidence that thresholds are held against, [rows, n]: 0 for what comes last."""
        return self.confidence if self.last is None else self.confidence.masked_fill(self.last, 0.0)

    @cached_property
    def open(self) -> torch.Tensor:
        """Candidates of most rules: masked columns of the current block, bool [rows, n]."""
        return self.masked & self.block

    @cached_property
    def log_probabilities(self) -> torch.Tensor:
        """[rows, n, vocab]."""
        return self.logits.log_softmax(-1)

    @cached_property
    def entropy(self) -> torch.Tensor:
        """Of the proposals' distributions in nats, [rows, n]."""
        return _entropy(self.log_probabilities)

    @cached_property
    def margin(self) -> torch.Tensor:
        """Probability of the likeliest token less that of the second, [rows, n]."""
        best = self.log_probabilities.topk(2, dim=-1).values.exp()
        return best[..., 0] - best[..., 1]

    def entropy_at(self, chosen: torch.Tensor) -> torch.Tensor:
        """Entropies at chosen columns only, [chosen], nats."""
        if "entropy" in self.__dict__:
            return self.entropy[chosen]
        return _entropy(self.logits[chosen].log_softmax(-1))

    def score(self, name: str) -> torch.Tensor:
        """What ranks candidates, [rows, n]: "confidence", "margin", "entropy" (negative), "random", "left-to-right"."""
        found = self._score(name)
        return found if self.last is None else found.masked_fill(self.last, torch.finfo(found.dtype).min)

    def _score(self, name: str) -> torch.Tensor:
        if name == "confidence":
            return self.confidence
        if name == "margin":
            return self.margin
        if name == "entropy":
            return -self.entropy
        if name == "random":
            return torch.rand(self.columns.shape, generator=self.generator, device=self.columns.device)
        return -self.columns.to(self.confidence.dtype)

    def ranked(self, score: torch.Tensor, among: torch.Tensor | None = None) -> torch.Tensor:
        """Rank of every candidate under a score, best 0, int64 [rows, n]; what is no candidate ranks behind all.

        Args:
            score: [rows, n].
            among: bool [rows, n]; None: the open columns.
        """
        order = order_of(score, self.open if among is None else among)
        ranks = torch.empty_like(order)
        return ranks.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))

    def best(self, score: torch.Tensor, count: torch.Tensor | int, among: torch.Tensor | None = None) -> torch.Tensor:
        """The `count` best candidates of every row, bool [rows, n].

        Args:
            score: [rows, n].
            count: how many, of all rows or [rows].
            among: bool [rows, n]; None: the open columns.
        """
        among = self.open if among is None else among
        if isinstance(count, int) and count == 1:
            best = score.masked_fill(~among, -torch.inf).argmax(1, keepdim=True)
            return torch.zeros_like(among).scatter_(1, best, True) & among
        if isinstance(count, torch.Tensor):
            count = count[:, None]
        return (self.ranked(score, among) < count) & among


def order_of(score: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Columns from the best candidate to the worst, and then the others; among equals the first one leads.

    Args:
        score: [rows, n].
        among: candidates, bool [rows, n].

    Returns:
        int64 [rows, n].
    """
    return score.masked_fill(~among, -torch.inf).sort(dim=1, descending=True, stable=True).indices


def _entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Nats; a token that cannot be (-inf) adds nothing."""
    p = log_probabilities.exp()
    return -(p * log_probabilities.masked_fill(p == 0, 0.0)).sum(-1)
