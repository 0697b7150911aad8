"""Which columns of a canvas are computed in a round, and whose stored keys and values they read.

All policies stand on one position-addressed store: what is computed is written over what was there. A policy only says
what is computed and what is seen. Prefix and dual cache: Fast-dLLM, Wu et al. 2025, arXiv 2505.22618.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.decoding.under import ModelMethod

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState


@dataclass
class Plan:
    """What a round computes.

    Attributes:
        wanted: columns whose logits are asked for, int64 [rows, n], ascending.
        inside: which of them exist and are computed, bool [rows, n].
        computed: int64 [rows, m], ascending, N where a row has fewer; None: every column.
        visible: columns that are read, bool [rows, N]; None: every column of the row's canvas.
    """

    wanted: torch.Tensor
    inside: torch.Tensor
    computed: torch.Tensor | None = None
    visible: torch.Tensor | None = None


@dataclass(frozen=True)
class CanvasCache(ModelMethod):
    """A policy. It goes beside any rule: `engine.generate(prompt, method=..., attention=DualCache())`."""

    family: ClassVar[str] = "canvas cache"
    needs: ClassVar[frozenset[str]] = frozenset({"denoising"})
    whole_blocks: ClassVar[bool] = True  # whether every round gives logits for all columns of the block

    @classmethod
    @abstractmethod
    def neutral(cls) -> CanvasCache:
        """The setting in which every round computes what it computes without a cache."""

    @abstractmethod
    def open(self, state: DenoisingState) -> CacheRun:
        """What says so in one run."""

    def around(self, state: Any) -> AbstractContextManager[None]:
        """The state asks the policy from now on, to its end."""
        state.use_cache(self)
        return nullcontext()


class CacheRun(ABC):
    """A policy in one run.

    Args:
        state: of the run.
    """

    def __init__(self, state: DenoisingState) -> None:
        self.state = state
        self.stale = torch.ones(state.batch_size, dtype=torch.bool, device=state.tokens.device)  # rows without a store

    def plans(
        self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, Plan]]:
        """What the next round computes: groups of rows, a forward each.

        Args:
            rows: unfinished rows, int64 [rows].
            columns: of their blocks (and the blocks ahead that the rule looks at), int64 [rows, n].
            inside: which of them exist, bool [rows, n].
        """
        stale = self.stale[rows]
        for renewed in (True, False):
            group = stale if renewed else ~stale
            if bool(group.any()):
                whole = bool(group.all())
                own = (rows, columns, inside) if whole else (rows[group], columns[group], inside[group])
                yield own[0], self.renew(*own) if renewed else self.plan(*own)

    def renew(self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor) -> Plan:
        """Everything, for rows whose store is to be renewed."""
        self.stale[rows] = False
        return Plan(columns, inside)

    @abstractmethod
    def plan(self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor) -> Plan:
        """What is computed for rows beside their store."""

    def moved(self, rows: torch.Tensor) -> None:  # noqa: B027 - not every policy has blocks
        """These rows begin a block."""

    def committed(self, rows: torch.Tensor, columns: torch.Tensor) -> None:  # noqa: B027 - nor minds what was written
        """These columns were written, int64 [k] each."""


@dataclass(frozen=True)
class BlockCache(CanvasCache):
    """Everything is computed when a block begins, and then only a part of the canvas from its first column on.

    Attributes:
        per_block: off, every round computes everything, as without a cache.
    """

    paper: ClassVar[str] = "Wu et al. 2025 (Fast-dLLM), arXiv 2505.22618"
    to_the_end: ClassVar[bool]  # the rest of the canvas; otherwise the block alone

    per_block: bool = True

    @classmethod
    def neutral(cls) -> BlockCache:
        return cls(per_block=False)

    def open(self, state: DenoisingState) -> CacheRun:
        return _BlockRun(state, to_the_end=self.to_the_end, every_round=not self.per_block)


@dataclass(frozen=True)
class PrefixCache(BlockCache):
    """What stands before the block is stored; the block and all columns behind it are computed in every round.

    Attributes:
        per_block: off, every round computes everything, as without a cache.
    """

    slug: ClassVar[str] = "prefix-cache"
    to_the_end: ClassVar[bool] = True


@dataclass(frozen=True)
class DualCache(BlockCache):
    """What stands before the block and the masks behind it are stored; only the block is computed in every round.

    Attributes:
        per_block: off, every round computes everything, as without a cache.
    """

    slug: ClassVar[str] = "dual-cache"
    to_the_end: ClassVar[bool] = False


class _BlockRun(CacheRun):
    """A whole forward when a row begins a block, then the rest of its canvas or the block alone."""

    def __init__(self, state: DenoisingState, *, to_the_end: bool, every_round: bool) -> None:
        super().__init__(state)
        self.to_the_end, self.every_round = to_the_end, every_round

    def moved(self, rows: torch.Tensor) -> None:
        self.stale[rows] = True

    def renew(self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor) -> Plan:
        self.stale[rows] = self.every_round
        return Plan(columns, inside)

    def plan(self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor) -> Plan:
        state = self.state
        width = state.tokens.shape[1]
        start = state.start[rows]
        end = torch.full_like(start, width) if self.to_the_end else (start + state.block).clamp(max=width)
        end = torch.minimum(end, state.answer_end[rows])
        first = start - int(state.model.config.shift_logits)  # whose hidden state predicts the block's first column
        computed = first[:, None] + torch.arange(int((end - first).max()), device=start.device)
        computed = computed.masked_fill(computed >= end[:, None], width)
        return Plan(columns, inside & (columns < end[:, None]), computed)
