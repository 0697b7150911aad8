"""Flash: a drafter that predicts several features per forward and sees an image as a few latents.

Wang, Li, Du, Zhou, Zhang, Yang 2025, "FLASH: Latent-Aware Semi-Autoregressive Speculative Decoding for Multimodal
Tasks", arXiv 2505.12728 (renamed SpecFLASH); reference code ZihuaEvan/FlashSD.

After each verification the accepted tokens join the drafter's text as slots [embedding of the next token; feature of
this one]; at the last slot, which holds the pending token, one forward gives K features, and the target's own output
layer K sets of candidates. The target verifies; what is written is unchanged.

The release has no loop for its semi-autoregressive head, cuts the text's tail where it compresses an image, and draws
the last token of a wholly accepted path without the run's processors: not so here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import DynamicCache

from szilard.decoding.state import DecodingState
from szilard.options import check_number
from szilard.speculative.drafter import Drafter
from szilard.speculative.flash.drafter import FlashDrafter, in_one_batch
from szilard.speculative.one_layer import growing
from szilard.speculative.trained import WHOLE_PROMPT, DraftHeads, TrainedDrafts, Trees
from szilard.speculative.tree import SMALL_TREE, DraftTree, TreeShape
from szilard.speculative.verify import Verdict


@dataclass(frozen=True)
class Flash(TrainedDrafts):
    """Drafts of several tokens per forward of the drafter.

    Attributes:
        rounds: forwards of the drafter per step; each further one goes on from the greedy path of the one before.
    """

    slug: ClassVar[str] = "flash"
    paper: ClassVar[str] = "Wang et al. 2025, arXiv 2505.12728"
    add_on: ClassVar[type[DraftHeads]] = FlashDrafter

    rounds: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rounds", self.rounds, low=1, integer=True)

    def shape(self, heads: DraftHeads) -> TreeShape:
        if self.rounds == 1 or self.tree == "probable" or isinstance(self.tree, TreeShape):
            return super().shape(heads)
        if self.tree == "measured":
            raise ValueError("tree='measured' knows the accuracy of one round; take 'static' or a TreeShape.")
        # The whole greedy path, and of the published tree as many nodes as there is room for.
        path = [(0,) * depth for depth in range(1, self.drafted_depth(heads) + 1)]
        beside = [node for node in SMALL_TREE.truncate(max_depth=len(path)).choices() if any(node)]
        return TreeShape.of([*path[: self.max_nodes], *beside[: max(0, self.max_nodes - len(path))]])

    def drafted_depth(self, heads: DraftHeads) -> int:
        return heads.depth * self.rounds

    def proposer(self, heads: DraftHeads) -> Drafter:
        assert isinstance(heads, FlashDrafter)
        return _SemiAutoregressive(heads, self.trees(heads), self.rounds)


class _SemiAutoregressive(Drafter):
    hidden_states = True

    def __init__(self, heads: FlashDrafter, trees: Trees, rounds: int) -> None:
        self.heads, self.trees, self.rounds = heads, trees, rounds
        self.cache = DynamicCache()
        self.parameters = sum(weight.numel() for weight in heads.parameters())

    def start(self, state: DecodingState) -> None:
        assert state.hidden is not None
        heads, mask = self.heads, state.prompt_mask.bool()
        if state.hidden.shape[1] != state.prompt_width:
            raise ValueError(WHOLE_PROMPT.format("flash"))
        features = state.hidden.to(heads.dtype)
        following = state.embed(state.tokens[:, 1 : state.prompt_width + 1]).to(heads.dtype)
        ids = state.tokens[:, : state.prompt_width]
        image = torch.zeros_like(mask) if heads.image_token is None else ids == heads.image_token
        with torch.no_grad():
            rows = [
                heads.draft_sequence(features[row, real], following[row, real], image[row, real])[0]
                for row, real in enumerate(mask)
            ]
        self.fresh, self.real = in_one_batch(rows)  # slots yet to be read, and which are no padding
        self.seen = self.real[:, :0]  # of every cached slot: whether it is text, bool [batch, cached]
        self.length = torch.zeros_like(self.real[:, 0], dtype=torch.long)  # slots of each row so far
        state.cost.count("draft_slots_saved", int(mask.sum() - self.real.sum()))

    def observe(self, state: DecodingState, tree: DraftTree, verdict: Verdict) -> None:
        assert state.hidden is not None
        path, device = verdict.path.clamp(min=0), state.hidden.device
        rows = torch.arange(state.batch_size, device=device)
        features = state.hidden[rows[:, None], path].to(self.heads.dtype)  # root and accepted nodes
        following = state.embed(verdict.tokens).to(self.heads.dtype)  # each node's next token
        with torch.no_grad():
            fresh = self.heads.fuse(torch.cat([following, features], dim=-1))
        real = torch.arange(path.shape[1], device=device) < verdict.counts[:, None]
        self.fresh = torch.cat([self.fresh, fresh], dim=1)  # behind those that a resting drafter has not read
        self.real = torch.cat([self.real, real], dim=1)

    @torch.no_grad()
    def propose(self, state: DecodingState) -> DraftTree:
        heads = self.heads
        batch = state.batch_size
        rows = torch.arange(batch, device=self.fresh.device)
        place = self.real.cumsum(1)  # of each slot among its row's new ones, from 1
        positions = self.length[:, None] + (place - 1).clamp(min=0)
        out = heads(self.fresh, positions, growing(self.seen, self.real), self.cache)  # [batch, new, K, d]
        counts = self.real.sum(1)
        self.seen = torch.cat([self.seen, self.real], dim=1)
        self.length = self.length + counts
        found = [out[rows, place.argmax(1)]]  # of each row's last new slot, [batch, K, d]
        logits = [state.unembed(found[0])]  # [batch, K, vocab]
        temporary = torch.ones(batch, heads.depth, dtype=torch.bool, device=self.fresh.device)
        seen = self.seen
        for round in range(1, self.rounds):  # slots t + j: their features as predicted, their next tokens as guessed
            guessed = state.embed(logits[-1].argmax(-1)).to(heads.dtype)
            fused = heads.fuse(torch.cat([guessed, found[-1]], dim=-1))
            at = self.length[:, None] + (round - 1) * heads.depth + torch.arange(heads.depth, device=fused.device)
            further = heads(fused, at, growing(seen, temporary), self.cache)
            seen = torch.cat([seen, temporary], dim=1)
            found.append(further[:, -1])
            logits.append(state.unembed(found[-1]))
        if self.rounds > 1:
            self.cache.crop(-heads.depth * (self.rounds - 1))
        state.cost.count("draft_forwards", self.rounds)
        slots = self.fresh.shape[1] + (self.rounds - 1) * heads.depth
        self.fresh, self.real = self.fresh[:, :0], self.real[:, :0]
        state.cost.add_product(self.parameters, batch * slots)
        return self.trees.of(state.tokens[:, -1], torch.cat(logits, dim=1)[:, : self.trees.shape.max_depth])
