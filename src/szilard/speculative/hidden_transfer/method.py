"""Hidden Transfer: one forward verifies the drafts and makes the next ones, from pseudo states in the middle of it.

Wu, Liu, Gong, Wang, Li, Wang, Cai, Zhao 2024, "Parallel Decoding via Hidden Transfer for Lossless Large Language Model
Acceleration", arXiv 2404.12022. No official code is known; number of steps, transfer layers and tree are
reconstructions, and parameters here.

After layer t_i the state of a token gets a pseudo slot W_i h_n^{t_i} at position n + i. In the layers above it attends
to the text up to its token, to its token's earlier slots, and to itself; the final norm and the model's own output
layer turn it into drafts of token n + 1 + i. Real slots never attend to pseudo slots: what is written is unchanged.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.decoding.state import DecodingState
from szilard.options import check_number
from szilard.speculative.drafter import Drafter
from szilard.speculative.hidden_transfer.projections import HiddenTransferProjections
from szilard.speculative.hidden_transfer.pseudo_slots import PseudoSlots
from szilard.speculative.trained import DraftHeads, TrainedDrafts, Trees
from szilard.speculative.tree import DraftTree
from szilard.speculative.verify import Verdict

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class HiddenTransfer(TrainedDrafts):
    """Drafts from pseudo hidden states.

    Attributes:
        max_sources: nodes of a tree that get pseudo slots, the likeliest first; None: all of them (paper). Fewer slots
            cost less; where the last accepted node had none, a step goes without drafts.
    """

    slug: ClassVar[str] = "hidden-transfer"
    paper: ClassVar[str] = "Wu et al. 2024, arXiv 2404.12022"
    add_on: ClassVar[type[DraftHeads]] = HiddenTransferProjections
    changes_model: ClassVar[bool] = True  # its slots enter whatever forward is running

    max_sources: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_sources", self.max_sources, low=1, integer=True, optional=True)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing, broken or foreign drafter, and a model whose layers cannot be entered."""
        super().check(engine)
        model = getattr(engine, "model", None)
        if model is not None and self.max_nodes:
            heads = self.heads()
            assert isinstance(heads, HiddenTransferProjections)
            PseudoSlots(model, heads.layers, heads)

    def slots_per_node(self, heads: DraftHeads, layers: int) -> float:
        """Its pseudo slots, by the share of the layers that they pass."""
        assert isinstance(heads, HiddenTransferProjections)
        return 0.0 if self.max_sources is not None else sum(1 - layer / layers for layer in heads.layers)

    def proposer(self, heads: DraftHeads) -> Drafter:
        assert isinstance(heads, HiddenTransferProjections)
        return _Pseudo(heads, self.trees(heads), self.max_sources)


class _Pseudo(Drafter):
    def __init__(self, heads: HiddenTransferProjections, trees: Trees, max_sources: int | None) -> None:
        self.heads, self.trees, self.max_sources = heads, trees, max_sources
        self.slots: PseudoSlots | None = None
        self.sources: torch.Tensor | None = None  # nodes with pseudo slots, [batch, sources]; None: every node
        self.states: torch.Tensor | None = None  # pseudo states of the last accepted nodes, [batch, steps, d]
        self.there: torch.Tensor | None = None  # rows that have them, bool [batch]; None: all
        self.chances: torch.Tensor | None = None  # log-probabilities of the drafts, [batch, depth, vocab]
        self.resting = False

    def watching(self, state: DecodingState, tree: DraftTree | None) -> AbstractContextManager[Any]:
        if self.slots is None:
            model: Any = state.model  # type: ignore[attr-defined]
            self.slots = PseudoSlots(model, self.heads.layers, self.heads, attention=self.heads.pseudo_attention)
        if tree is None:
            # A window's cache would forget text for the sake of the slots; one that cannot be rewound is refused later.
            if self.slots.slides or not state.can_rewind:
                return nullcontext()
            return self.slots.inserted(torch.full((state.batch_size, 1), -1, device=state.device))
        if self.resting:
            return nullcontext()
        self.sources = None
        if self.max_sources is not None and self.max_sources < tree.tokens.shape[1] and self.chances is not None:
            self.sources = self._scores(tree).topk(self.max_sources, dim=1).indices.sort(dim=1).values
        used = tree.tokens.shape[1] if self.sources is None else self.sources.shape[1]
        above = sum(len(self.slots.layers) - layer for layer in self.heads.layers)
        state.cost.count("pseudo_slot_layers", used * above * state.batch_size)
        layers = state.size.layer_parameters - state.vocab_size * self.heads.hidden_size
        state.cost.add_product(layers // state.size.layers, used * above * state.batch_size)
        state.cost.add_product(sum(weight.numel() for weight in self.heads.parameters()), used * state.batch_size)
        return self.slots.inserted(self.sources)

    def start(self, state: DecodingState) -> None:
        assert self.slots is not None
        self.states = None if self.slots.final is None else self.slots.final[:, 0]

    def observe(self, state: DecodingState, tree: DraftTree, verdict: Verdict) -> None:
        if self.resting:
            self.states = None
            return
        assert self.slots is not None and self.slots.final is not None
        rows = torch.arange(state.batch_size, device=self.slots.final.device)
        last = verdict.path.gather(1, verdict.counts[:, None] - 1).clamp(min=0)  # [batch, 1]
        if self.sources is None:
            column, self.there = last[:, 0], None
        else:
            hit = self.sources == last
            column, self.there = hit.long().argmax(1), hit.any(1)
        self.states = self.slots.final[rows, column]

    @torch.no_grad()
    def propose(self, state: DecodingState) -> DraftTree:
        pending, self.resting = state.tokens[:, -1], False
        if self.states is None:
            return DraftTree.root(pending)
        logits = state.unembed(self.states)[:, : self.trees.shape.max_depth]  # [batch, depth, vocab]
        tree = self.trees.of(pending, logits)
        if self.max_sources is not None:
            self.chances = logits.float().log_softmax(-1)
        if self.there is not None and not bool(self.there.all()):
            valid = tree.valid & self.there[:, None]
            valid[:, 0] = True
            tree = DraftTree(tree.tokens, tree.parent, valid)
        return tree

    def rest(self, state: DecodingState) -> DraftTree:
        self.resting = True
        return super().rest(state)

    def _scores(self, tree: DraftTree) -> torch.Tensor:
        """Log-probability of the path to every node of the tree that is fed, [batch, nodes]; 0 for the root."""
        assert self.chances is not None
        place = (tree.depth - 1).clamp(min=0)
        each = self.chances[torch.arange(len(place))[:, None], place, tree.tokens]  # [batch, nodes]
        each = torch.where(tree.depth > 0, each, 0.0)
        scores = (tree.ancestors * each[:, None]).sum(-1)
        return torch.where(tree.valid, scores, -torch.inf)
