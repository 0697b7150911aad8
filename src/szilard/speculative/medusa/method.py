"""Medusa: several heads on the last hidden state, each guessing one more token ahead.

Cai, Li, Geng, Peng, Lee, Chen, Dao 2024, "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding
Heads", arXiv 2401.10774. Here the baseline of the trained drafters, on their tree and by their exact verification.

Head j reads h_n, the hidden state of the last verified token, [batch, hidden], and guesses x_{n+1+j}; x_{n+1} is the
pending token, which the model itself chose. Heads do not see each other, so all nodes of one depth share candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from szilard.decoding.state import DecodingState
from szilard.speculative.drafter import Drafter
from szilard.speculative.medusa.heads import MedusaHeads
from szilard.speculative.trained import DraftHeads, TrainedDrafts, Trees, last_accepted
from szilard.speculative.tree import DraftTree
from szilard.speculative.verify import Verdict


@dataclass(frozen=True)
class Medusa(TrainedDrafts):
    """Drafts from heads on the last hidden state."""

    slug: ClassVar[str] = "medusa"
    paper: ClassVar[str] = "Cai et al. 2024, arXiv 2401.10774"
    add_on: ClassVar[type[DraftHeads]] = MedusaHeads

    def proposer(self, heads: DraftHeads) -> Drafter:
        assert isinstance(heads, MedusaHeads)
        return _Heads(heads, self.trees(heads))


class _Heads(Drafter):
    hidden_states = True

    def __init__(self, heads: MedusaHeads, trees: Trees) -> None:
        self.heads, self.trees = heads, trees
        self.last: torch.Tensor | None = None  # hidden state of the last verified token, [batch, hidden]

    def start(self, state: DecodingState) -> None:
        assert state.hidden is not None
        self.last = state.hidden[:, -1]

    @torch.no_grad()
    def propose(self, state: DecodingState) -> DraftTree:
        assert self.last is not None
        features = self.heads(self.last.to(self.heads.dtype))[: self.trees.shape.max_depth]
        logits = self.heads.logits(features, state.unembed)  # [depth, batch, vocab]
        state.cost.count("draft_forwards")
        state.cost.add_product(sum(weight.numel() for weight in self.heads.parameters()), state.batch_size)
        return self.trees.of(state.tokens[:, -1], logits.transpose(0, 1))

    def observe(self, state: DecodingState, tree: DraftTree, verdict: Verdict) -> None:
        self.last = last_accepted(state, verdict.path, verdict.counts)
