"""ETE: explore, then exploit. Commit an uncertain token on purpose, so that others become certain.

Fu et al. 2025, "From Bits to Rounds: Parallel Decoding with Exploration for Diffusion Language Models", arXiv
2511.21103, ICML 2026. Only the abstracts and their claims could be had when this was written: a rule that commits what
is certain commits hardly any information per round, so confident tokens are looked for beyond the block, and uncertain
ones are committed on purpose. **The steps, their order and all constants below are a reconstruction (inferred)**, and
an "ETE-style" rule is all that this is.

1. Exploit, the block:     E0 = {i masked in the block : c_i >= tau}
2. Exploit, blocks ahead:  E1 = {i masked in the next h blocks : c_i >= tau_x}, no end of text before one is committed
3. Explore:                X  = up to m open columns of the block with the greatest uncertainty, outside E0
4. Commit E0, E1 and X; if they are empty, the most confident column.

With branches K > 1 the explored column takes each of its K likeliest tokens in a copy of the canvas. One forward over
all copies is the next round; the copy with the greatest log p(token) + lambda gain goes on, gain = columns that then
reach tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from szilard.diffusion.look import Look
from szilard.diffusion.method import DiffusionMethod
from szilard.options import check_choice, check_number

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState


@dataclass(frozen=True)
class Ete(DiffusionMethod):
    """Cross-block exploitation and exploration of uncertain tokens (inferred, see the module).

    Attributes:
        threshold: tau.
        cross_block_threshold: tau_x, of blocks ahead; None: tau.
        horizon: h, blocks ahead; None: all of them; 0: none. A prefix cache computes them; a dual cache only when a
            block begins, a window never.
        explore_per_round: m; 0: none. More than one inside a group of tokens that depend on each other costs accuracy.
        trigger: "always", or "stalled": only when fewer than `stall_count` columns or `stall_bits` are exploited.
        score: what is most uncertain: "entropy" (high), "confidence" (1 - c) or "margin" (-(p1 - p2)).
        separation: columns between two explored ones, at least.
        min_probability: columns whose proposed token has less are not explored while others are left.
        among_first: explore only among the first so many open columns of the block; None: all.
        branches: K; 1: the explored token is written at once.
        gain_weight: lambda, nats per column that reaches tau.
        stall_count: of "stalled".
        stall_bits: of "stalled".
    """

    slug: ClassVar[str] = "ete"
    paper: ClassVar[str] = "Fu et al. 2025, arXiv 2511.21103, ICML 2026 (reconstructed from its abstract)"

    threshold: float = 0.9
    cross_block_threshold: float | None = None
    horizon: int | None = 1
    explore_per_round: int = 1
    trigger: str = "always"
    score: str = "entropy"
    separation: int = 1
    min_probability: float = 0.0
    among_first: int | None = None
    branches: int = 1
    gain_weight: float = 1.0
    stall_count: int = 1
    stall_bits: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold", self.threshold, low=0)
        check_number("cross_block_threshold", self.cross_block_threshold, low=0, optional=True)
        check_number("horizon", self.horizon, low=0, integer=True, optional=True)
        check_number("explore_per_round", self.explore_per_round, low=0, integer=True)
        check_choice("trigger", self.trigger, ("always", "stalled"))
        check_choice("score", self.score, ("entropy", "confidence", "margin"))
        check_number("separation", self.separation, low=1, integer=True)
        check_number("min_probability", self.min_probability, low=0, high=1)
        check_number("among_first", self.among_first, low=1, integer=True, optional=True)
        check_number("branches", self.branches, low=1, integer=True)
        check_number("gain_weight", self.gain_weight)
        check_number("stall_count", self.stall_count, low=0, integer=True)
        check_number("stall_bits", self.stall_bits, low=0)
        if self.cross_block_threshold is not None and self.cross_block_threshold < self.threshold:
            raise ValueError(
                f"cross_block_threshold={self.cross_block_threshold} is looser than threshold={self.threshold}, but "
                "less is known of blocks ahead: give at least as much."
            )

    @classmethod
    def neutral(cls) -> Ete:
        """Nothing is certain enough, nothing is explored: one column per round."""
        return cls(threshold=2.0, horizon=0, explore_per_round=0)

    def check_canvas(self, state: DenoisingState) -> None:
        if self.branches > 1 and state.policy is not None:
            raise ValueError(
                f"branches={self.branches} runs copies of the canvas, for which a cache has no keys and values: leave "
                "the cache out, or give branches=1."
            )
        if self.branches >= state.model.vocab_size:
            raise ValueError(f"branches={self.branches} tries more tokens than the vocabulary has: give less.")
        if self.branches > 1 and self.guidance:
            raise ValueError("branches and guidance both multiply the canvases: give branches=1 or guidance=0.")

    def blocks_ahead(self, state: DenoisingState) -> int:
        blocks = state.block_count(self.block_length) - 1
        return blocks if self.horizon is None else min(self.horizon, blocks)

    def select(self, look: Look) -> torch.Tensor:
        """E0 and X; what needs the canvas comes in `chosen`."""
        exploited = look.open & (look.sure >= self.threshold)
        return exploited | self.explored(look, exploited, exploited)

    def chosen(self, state: DenoisingState, look: Look) -> torch.Tensor:
        in_block = look.open & (look.sure >= self.threshold)
        exploited = in_block | self._ahead(state, look)
        explored = self.explored(look, in_block, exploited)
        state.cost.count("explored", int(explored.sum()))
        state.cost.count("exploited", int(in_block.sum()))
        state.cost.count("exploited_ahead", int((exploited & ~in_block).sum()))
        chosen = exploited | explored
        stuck = ~chosen.any(1, keepdim=True)
        if bool(stuck.any()):
            chosen = chosen | (stuck & look.best(look.score("confidence"), 1))
        if self.branches > 1:
            self._branch(state, look, chosen, explored)
        return chosen

    def explored(self, look: Look, in_block: torch.Tensor, exploited: torch.Tensor) -> torch.Tensor:
        """X, bool [rows, n].

        Args:
            look: of the round.
            in_block: E0, bool [rows, n].
            exploited: E0 and E1, bool [rows, n].
        """
        found = torch.zeros_like(look.masked)
        if not self.explore_per_round:
            return found
        free = look.open & ~in_block
        if self.among_first is not None:
            free &= look.open.long().cumsum(1) <= self.among_first
        likely = free & (look.confidence >= self.min_probability)
        free = torch.where(likely.any(1, keepdim=True), likely, free)
        if self.trigger == "stalled":
            bits = -torch.where(exploited, look.confidence, 1.0).log2().sum(1)
            stalled = (exploited.sum(1) < self.stall_count) | (bits < self.stall_bits)
            free &= stalled[:, None]
        score = {
            "entropy": lambda: look.entropy,
            "confidence": lambda: -look.confidence,
            "margin": lambda: -look.margin,
        }
        uncertain = score[self.score]()
        for number in range(self.explore_per_round):
            if number and not bool(free.any()):
                break
            best = look.best(uncertain, 1, free)
            found |= best
            at = (look.columns * best).sum(1, keepdim=True)
            free &= ((look.columns - at).abs() >= self.separation) & ~best
        return found

    def _ahead(self, state: DenoisingState, look: Look) -> torch.Tensor:
        """E1, bool [rows, n]."""
        ahead = look.masked & ~look.block
        if not look.columns.shape[1] > state.block or not bool(ahead.any()):
            return torch.zeros_like(ahead)
        strict = self.threshold if self.cross_block_threshold is None else self.cross_block_threshold
        found = ahead & (look.sure >= strict)
        ends = state.is_end(look.tokens) & found
        if bool(ends.any()):  # the tail would fill with ends at once
            written = state.is_end(state.tokens[look.rows]) & ~state.masked[look.rows] & state.real[look.rows]
            written[:, : state.prompt_width] = False
            place = torch.arange(written.shape[1], device=written.device).expand_as(written)
            first = place.masked_fill(~written, written.shape[1]).amin(1, keepdim=True)
            found &= ~ends | (look.columns > first)
        return found

    def _branch(self, state: DenoisingState, look: Look, chosen: torch.Tensor, explored: torch.Tensor) -> None:
        """Try the likeliest tokens at the first explored column of every row; the best one goes into the look."""
        row, within = look.known.nonzero(as_tuple=True)
        columns = look.columns[row, within]
        canvases, masked = state.tokens[look.rows], state.masked[look.rows]
        written = chosen[row, within]
        canvases[row[written], columns[written]] = look.tokens[row[written], within[written]]
        masked[row[written], columns[written]] = False
        going_on = masked.any(1)
        tries = explored.any(1) & going_on
        if not bool(tries.any()):
            return
        place = explored.int().argmax(1)
        best = look.log_probabilities[torch.arange(len(place), device=place.device), place].topk(self.branches, dim=-1)
        owners = torch.arange(len(place), device=place.device).repeat_interleave(
            torch.where(tries, self.branches, going_on.long())
        )
        copies = canvases[owners]  # [copies, N]
        at = tries[owners].nonzero()[:, 0]
        tokens = best.indices[tries].flatten()
        copies[at, look.columns[owners, place[owners]][at]] = tokens
        logits = state.look_ahead(look.rows[owners], copies)  # [copies, G, vocab]
        confidence = (logits.amax(-1) - logits.logsumexp(-1)).exp()
        gain = ((confidence >= self.threshold) & masked[owners, state.prompt_width :]).sum(1)
        value = best.values[tries].flatten() + self.gain_weight * gain[at]
        winner = value.view(-1, self.branches).argmax(1)
        kept = torch.ones(len(owners), dtype=torch.bool, device=place.device)
        kept[at] = False
        kept[at.view(-1, self.branches)[torch.arange(len(winner), device=place.device), winner]] = True
        state.use_ahead(look.rows[owners[kept]], logits[kept])
        rows = tries.nonzero()[:, 0]
        look.tokens[rows, place[rows]] = best.indices[tries].gather(1, winner[:, None])[:, 0]
        found = best.values[tries].gather(1, winner[:, None])[:, 0].exp()
        look.confidence[rows, place[rows]] = found.to(look.confidence.dtype)
        state.cost.count("branch_rows", len(at))
