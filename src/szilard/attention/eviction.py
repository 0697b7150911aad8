"""What every method that evicts keys and values shares: budgets, protected slots, when to evict, and how it is counted.

A method says how much each slot is worth; the best `budget` of every key-value head stay. Evicted is after use: the
call that scores a slot still attends to it. Positions stay those of the whole text.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from szilard.attention.layers import EvictingLayer
from szilard.attention.method import AttentionMethod
from szilard.options import check_choice, check_number
from szilard.sessions.call import Call, attend_to_all, causal_prompt
from szilard.sessions.session import Session

_ROWS = 256  # query rows whose probabilities are held at a time


class Slots:
    """What a score may look at: the slots of one layer after a call.

    Attributes:
        call: the attention call.
        session: of the open method.
        layer: the cache layer; `marks` holds what a method remembers per slot.
    """

    def __init__(self, call: Call, session: Session) -> None:
        self.call, self.session = call, session
        self.layer: EvictingLayer = call.cache

    @property
    def index(self) -> int:
        """The layer, from 0."""
        return self.call.index

    @property
    def keys(self) -> torch.Tensor:
        """[batch, kv heads, slots, head size], rotated."""
        return self.call.keys

    @property
    def values(self) -> torch.Tensor:
        """[batch, kv heads, slots, head size]."""
        return self.call.values

    @property
    def is_prompt(self) -> bool:
        """Whether the prompt, or a chunk of it, was just read."""
        return not self.layer.generating

    @cached_property
    def columns(self) -> torch.Tensor:
        """Of every slot, its place in the padded text, [batch, kv heads, slots]."""
        return self.layer.all_columns()

    @cached_property
    def real(self) -> torch.Tensor:
        """Slots that hold a token and no padding, bool [batch, kv heads, slots]."""
        there = self.columns >= 0
        mask = self.call.mask
        if mask is None:
            return there
        if mask.dim() == 4:
            mask = mask[:, 0, -1]  # what the last token sees
        index = self.columns.clamp(min=0).flatten(1)
        return there & mask.gather(1, index).view_as(self.columns)

    @cached_property
    def came(self) -> torch.Tensor:
        """Real tokens of every row so far, evicted ones included, int64 [batch]."""
        mask = self.call.mask
        if mask is None:
            return torch.full((self.keys.shape[0],), self.layer.seen, device=self.keys.device)
        if mask.dim() == 4:
            mask = mask[:, 0, -1]
        return mask[:, : self.layer.seen].sum(1)

    @cached_property
    def order(self) -> torch.Tensor:
        """The number of real tokens before every slot, as far as they are stored, [batch, kv heads, slots]."""
        return self.real.cumsum(-1) - self.real.long()

    def probabilities(self, rows: slice) -> torch.Tensor:
        """Attention of some of the new tokens to every slot, float32 [batch, kv heads, group, rows, slots]."""
        call = self.call
        query = call.query[:, :, rows]
        batch, heads, new, size = query.shape
        packed = query.reshape(batch, call.keys.shape[1], heads // call.keys.shape[1], new, size)
        products = (packed @ call.keys[:, :, None].transpose(-1, -2)).float() * call.scaling
        visible = call.visible(self.layer.columns, rows)
        if visible is not None:
            products.masked_fill_(~visible[:, :, None], torch.finfo(torch.float32).min)
        return products.softmax(-1)

    def attention_mass(self) -> torch.Tensor:
        """Probability that fell on every slot in this call: summed over real new tokens, mean over the query heads of
        its group, float32 [batch, kv heads, slots]."""
        total = torch.zeros(self.keys.shape[:3], device=self.keys.device)
        real = self.real[..., -self.call.new :]  # [batch, kv heads, new]
        for start in range(0, self.call.new, _ROWS):
            rows = slice(start, min(start + _ROWS, self.call.new))
            mass = self.probabilities(rows) * real[:, :, None, rows, None]
            total += mass.sum(3).mean(2)
        return total


@dataclass(frozen=True)
class Eviction(AttentionMethod):
    """A method that keeps some keys and values and forgets the others.

    Attributes:
        budget: what every key-value head of every layer keeps: a whole number of slots, or a share of the prompt
            between 0 and 1. 1.0 keeps everything. Sinks and the recent window are part of it.
        sinks: first tokens of a row that always stay.
        recent: last tokens that always stay.
        phase: "prefill": evict once, when the prompt (or a chunk of it) was read; "both": also while generating, so
            that the cache stays at its budget.
    """

    phases: ClassVar[tuple[str, ...]] = ("prefill", "both")

    budget: int | float = 512
    sinks: int = 4
    recent: int = 32
    phase: str = "prefill"

    def __post_init__(self) -> None:
        if isinstance(self.budget, int):
            check_number("budget", self.budget, low=1, integer=True)
        else:
            check_number("budget", self.budget, low=0, high=1)
        check_number("sinks", self.sinks, low=0, integer=True)
        check_number("recent", self.recent, low=0, integer=True)
        check_choice("phase", self.phase, self.phases)
        if isinstance(self.budget, int) and self.budget <= self.protected:
            raise ValueError(
                f"a budget of {self.budget} has no room beside the {self.protected} slots that always stay (sinks "
                f"{self.sinks}, recent {self.protected - self.sinks}): raise the budget or lower these."
            )

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever evicted: the budget is the share 1.0, and not the number of one slot."""
        return isinstance(self.budget, float) and self.budget == 1.0

    @property
    def rewinds(self) -> bool:
        return self.phase == "prefill" or self.keeps_all

    @property
    def protected(self) -> int:
        """Slots that always stay, whatever the budget."""
        return self.sinks + self.recent

    def newest(self, budget: Any) -> Any:
        """Last tokens that always stay under a budget of so many slots (a number, or int64 [batch, 1, 1])."""
        return self.recent

    @classmethod
    def neutral(cls) -> Eviction:
        return cls(budget=1.0)

    @abstractmethod
    def score(self, slots: Slots) -> torch.Tensor:
        """What every slot is worth, float32 [batch, kv heads or 1, slots]; more is kept."""

    def watch(self, slots: Slots) -> None:
        """Called before anything may be evicted, after every such call: to update `slots.layer.marks`."""

    def budgets(self, prompt: int, layers: int) -> list[int]:
        """Slots per head of every layer for a prompt of so many tokens."""
        kept = self.budget if isinstance(self.budget, int) else math.ceil(round(self.budget * prompt, 6))
        return [max(kept, min(self.protected + 1, prompt))] * layers

    def session(self, model: Any) -> EvictionSession:
        return EvictionSession(self, model)


class EvictionSession(Session):
    """An open eviction method."""

    method: Eviction

    def cache_layer(self, index: int) -> EvictingLayer:
        return EvictingLayer(rewindable=self.method.rewinds)

    def attend(self, call: Call) -> torch.Tensor:
        layer: EvictingLayer = call.cache
        method = self.method
        if call.before and (call.new == 1 or call.tree):
            layer.generating = True
        if call.mask is None and call.new > 1 and layer.stored == call.new:
            out = causal_prompt(call)
        else:
            out = attend_to_all(call, call.visible(layer.columns))
        rows = call.query.shape[0] * layer.keys.shape[1]
        if layer.generating:
            self.reads.read += rows * layer.stored
            self.reads.full += rows * layer.seen
        may_evict = not layer.generating or method.phase == "both"
        if may_evict and not call.tree and not method.keeps_all:
            slots = Slots(call, self)
            method.watch(slots)
            self._evict(slots)
        self.reads.held[call.index], self.reads.seen[call.index] = rows * layer.stored, rows * layer.seen
        return out

    def _evict(self, slots: Slots) -> None:
        """Keep the best slots of every row and head; a row whose own budget is smaller gets empty slots."""
        method, layer = self.method, slots.layer
        order, real = slots.order, slots.real
        count = real.sum(-1, keepdim=True)  # [batch, kv heads, 1]
        if not layer.generating or not layer.budget[0]:  # none yet: the cache was filled before the method was open
            layer.budget = self._budget(slots.index, slots.came)
        budget, own = layer.budget
        if own is None and layer.stored <= budget:
            return
        # while generating the shares of all rows are full: asking would wait for the device at every step
        if own is not None and not layer.generating and bool((count[:, 0, 0] <= own).all()):
            return
        scores = method.score(slots).float().expand(layer.keys.shape[:3])
        newest = budget if own is None else own[:, None, None]
        stays = (slots.columns - self._first(slots) < method.sinks) | (order >= count - method.newest(newest))
        scores = scores.masked_fill(stays, torch.inf).masked_fill(~real, -torch.inf)
        if own is None and layer.stored == budget + 1:
            at = torch.arange(layer.stored, device=scores.device)
            least = scores == scores.amin(-1, keepdim=True)
            leaves = torch.where(least, at, -1).amax(-1, keepdim=True)  # of equals the later one
            layer.retain(at[:-1] + (at[:-1] >= leaves))
            return
        best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :budget]
        kept, rank = best.sort(-1)
        layer.retain(kept)
        if own is not None:
            assert layer.columns is not None
            layer.columns = torch.where(rank < own[:, None, None], layer.columns, -1)
            layer.holes = True

    def _budget(self, index: int, lengths: torch.Tensor) -> tuple[int, torch.Tensor | None]:
        """Slots of a layer, and where rows have different ones those of each, [batch]."""
        full = [at for at, is_full in enumerate(self.full) if is_full]
        budgets = [self.method.budgets(length, len(full))[full.index(index)] for length in lengths.tolist()]
        if len(set(budgets)) == 1:
            return budgets[0], None
        return max(budgets), torch.tensor(budgets, device=lengths.device)

    def _first(self, slots: Slots) -> torch.Tensor:
        """The column of every row's first token, [batch, 1, 1]."""
        mask = slots.call.mask
        if mask is None:
            return torch.zeros(slots.keys.shape[0], 1, 1, dtype=torch.long, device=slots.keys.device)
        if mask.dim() == 4:
            mask = mask[:, 0, -1]
        return mask.long().argmax(1)[:, None, None]
