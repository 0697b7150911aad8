"""Window-Diffusion: compute the first few masks, read a window of stored keys and values, leave the far field out.

Zuo et al. 2026, "Accelerating Diffusion Language Model Inference with Windowed Token Pruning and Caching", arXiv
2601.20332. Masks have ranks 0, 1, 2, ... from left to right. A phase is `refresh` rounds of a row:

1. its first round renews the store: over the whole canvas, or without the far field (masks of rank >= w_ex). The window
   W = {visible} and {masks of rank < w_ex} is fixed for the phase;
2. every other round computes A = {masks of rank < w_in} and what the phase has committed so far, writes its keys and
   values over the stored ones, and reads W.

What the first round commits is computed once more, in the second round. One algorithm stands for the two released code
paths (LLaDA's and Dream's), whose choices are the options (inferred); that Dream's counts ranks from 1, and renews in
every round once an end was found, is left out. A row whose active masks have all left W, because a rule commits many at
once, begins a new phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from szilard.diffusion.cache import CacheRun, CanvasCache, Plan
from szilard.options import check_choice, check_number

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState


@dataclass(frozen=True)
class WindowDiffusion(CanvasCache):
    """A window of the canvas is computed and read; any rule chooses among the active masks.

    The paper has no blocks: give the rule block_length=None. Its adaptive length is the rule's end_of_text="committed".

    Attributes:
        external: w_ex, masks that are read.
        internal: w_in, masks that are computed and may be committed.
        refresh: R, rounds of a phase; 1: every round is a whole forward.
        refresh_scope: what a phase's first round computes: "full" (LLaDA's path), or "pruned": no far field (Dream's).
        refresh_commit: what it may commit: "active" masks, "all" masks (LLaDA's path), or the "first" mask (Dream's).
        keep_recent: rounds for which a committed column is computed again; None: until the phase ends.
    """

    slug: ClassVar[str] = "window-diffusion"
    whole_blocks: ClassVar[bool] = False
    paper: ClassVar[str] = "Zuo et al. 2026, arXiv 2601.20332"

    external: int = 64
    internal: int = 16
    refresh: int = 32
    refresh_scope: str = "full"
    refresh_commit: str = "active"
    keep_recent: int | None = None

    def __post_init__(self) -> None:
        check_number("external", self.external, low=1, integer=True)
        check_number("internal", self.internal, low=1, integer=True)
        check_number("refresh", self.refresh, low=1, integer=True)
        check_choice("refresh_scope", self.refresh_scope, ("full", "pruned"))
        check_choice("refresh_commit", self.refresh_commit, ("active", "all", "first"))
        check_number("keep_recent", self.keep_recent, low=0, integer=True, optional=True)
        if self.internal > self.external:
            raise ValueError(
                f"internal={self.internal} masks are computed, but only external={self.external} are read: give "
                "external at least as much."
            )

    @classmethod
    def neutral(cls) -> WindowDiffusion:
        """Every round is a whole forward, and any mask may be committed."""
        return cls(refresh=1, refresh_commit="all")

    def open(self, state: DenoisingState) -> CacheRun:
        return _WindowRun(self, state)


class _WindowRun(CacheRun):
    """The phases of every row."""

    def __init__(self, policy: WindowDiffusion, state: DenoisingState) -> None:
        super().__init__(state)
        self.policy = policy
        shape, device = state.tokens.shape, state.tokens.device
        self.age = torch.zeros(shape[0], dtype=torch.long, device=device)  # rounds of the phase so far
        self.window = torch.zeros(shape, dtype=torch.bool, device=device)
        self.since = torch.full(shape, -1, dtype=torch.long, device=device)  # age at which a column was committed

    def plans(self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor):  # type: ignore[no-untyped-def]
        width = self.state.tokens.shape[1]
        self.window, self.since = self.window[:, :width], self.since[:, :width]
        active = self._active(rows) & self._block(rows)
        self.stale[rows] |= (self.age[rows] >= self.policy.refresh) | ~active.any(1)
        yield from super().plans(rows, columns, inside)

    def renew(self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor) -> Plan:
        state, policy = self.state, self.policy
        masked, near = state.masked[rows], self._near(rows)
        rank = masked.long().cumsum(1) - 1
        self.window[rows], self.since[rows] = near, -1
        self.age[rows], self.stale[rows] = 1, False
        state.cost.count("phases", len(rows))
        choices = {"active": masked & (rank < policy.internal), "all": masked, "first": masked & (rank < 1)}
        wanted = choices[policy.refresh_commit] & self._block(rows)
        # A block whose masks all lie outside: the rule must have something to commit.
        wanted = torch.where(wanted.any(1, keepdim=True), wanted, masked & self._block(rows))
        if policy.refresh_scope == "full":
            return _plan(wanted)
        seen = near | wanted
        return _plan(wanted, seen, seen)

    def plan(self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor) -> Plan:
        since, age = self.since[rows], self.age[rows, None]
        recent = (since > 0) & self.state.real[rows]  # not what was cut off meanwhile
        first = since == 1
        recent &= ~first | (age == 1)  # what the first round committed: once
        if self.policy.keep_recent is not None:
            recent &= age - since < self.policy.keep_recent
        active = self._active(rows)
        computed = active | recent
        if self.state.model.config.shift_logits:
            computed |= torch.cat([active[:, 1:], torch.zeros_like(active[:, :1])], 1)  # what predicts an active column
        self.age[rows] += 1
        return _plan(active & self._block(rows), computed, self.window[rows])

    def committed(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        self.since[rows, columns] = self.age[rows]
        if self.policy.refresh_scope == "full":  # the window is what the first round's commits leave
            fresh = rows[self.age[rows] == 1].unique()
            if len(fresh):
                self.window[fresh] = self._near(fresh)

    def _near(self, rows: torch.Tensor) -> torch.Tensor:
        """What is visible, and the masks of rank < w_ex, bool [rows, N]."""
        masked = self.state.masked[rows]
        return self.state.real[rows] & (~masked | (masked.long().cumsum(1) <= self.policy.external))

    def _active(self, rows: torch.Tensor) -> torch.Tensor:
        """Masks that a round computes, bool [rows, N]."""
        masked = self.state.masked[rows]
        return masked & (masked.long().cumsum(1) <= self.policy.internal) & self.window[rows]

    def _block(self, rows: torch.Tensor) -> torch.Tensor:
        """Columns of the current blocks, bool [rows, N]."""
        columns = torch.arange(self.state.tokens.shape[1], device=rows.device)
        begin = self.state.start[rows, None]
        return (columns >= begin) & (columns < begin + self.state.block)


def _plan(wanted: torch.Tensor, computed: torch.Tensor | None = None, visible: torch.Tensor | None = None) -> Plan:
    """From columns as bool [rows, N]."""
    columns = columns_of(wanted)
    inside = columns < wanted.shape[1]
    return Plan(
        columns.clamp(max=wanted.shape[1] - 1), inside, None if computed is None else columns_of(computed), visible
    )


def columns_of(chosen: torch.Tensor) -> torch.Tensor:
    """The chosen columns of every row, ascending, and N where a row has fewer than another: int64 [rows, most].

    Args:
        chosen: bool [rows, N].
    """
    if len(chosen) == 1:
        return chosen[0].nonzero().T
    counts = chosen.sum(1, keepdim=True)
    most = int(counts.max())
    order = torch.argsort(~chosen, dim=1, stable=True)[:, :most]
    return order.masked_fill(torch.arange(most, device=chosen.device) >= counts, chosen.shape[1])
