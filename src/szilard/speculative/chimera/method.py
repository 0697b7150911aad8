"""Chimera: a draft model of one layer that sees the last three tokens and every hidden state of the text.

Zeng, Yu, Pang, Wang, Zhuang, Shao, Zou 2024, "Chimera: A Lossless Decoding Method for Accelerating Large Language
Models Inference by Fusing all Tokens", arXiv 2402.15758; reference code kafkayu/Chimera (Apache-2.0).

Known are x_0 .. x_n with their hidden states h_0 .. h_n, and the pending token x_{n+1}, whose hidden state is not.
Step j makes o_{n+j}, which stands for the unknown h_{n+j}, from the text, the earlier outputs, and the code g_{n+j} of
the last three tokens; head j reads [h_n; o_{n+j}] and proposes x_{n+1+j}. Verification is exact here (the official
evaluation accepts by Medusa's lossy rule at temperature 1: `acceptance="typical"`).

The official repository has no inference loop: this one is reconstructed from its training graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import DynamicCache

from szilard.decoding.state import DecodingState
from szilard.options import check_choice
from szilard.speculative.chimera.drafter import ChimeraDrafter, triples
from szilard.speculative.drafter import Drafter
from szilard.speculative.one_layer import growing
from szilard.speculative.trained import CANDIDATES, WHOLE_PROMPT, DraftHeads, TrainedDrafts, Trees
from szilard.speculative.tree import DraftTree, TreeShape
from szilard.speculative.verify import Verdict


@dataclass(frozen=True)
class Chimera(TrainedDrafts):
    """Drafts from trigrams fused with the text's hidden states.

    Attributes:
        expand: "spine": one greedy path is followed and all nodes of a depth share its candidates (reconstructed);
            "branches": every inner node has candidates of its own (ours), for more work per step.
    """

    slug: ClassVar[str] = "chimera"
    paper: ClassVar[str] = "Zeng et al. 2024, arXiv 2402.15758"
    add_on: ClassVar[type[DraftHeads]] = ChimeraDrafter

    expand: str = "spine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("expand", self.expand, ("spine", "branches"))
        if self.expand == "branches" and self.tree == "probable":
            raise ValueError("tree='probable' takes the candidates of one path: with expand='spine'.")

    def shape(self, heads: DraftHeads) -> TreeShape:
        """As of the others; a spine runs through the best candidate of every depth, so these nodes are there."""
        shape = super().shape(heads)
        known = shape.choices()
        spine = [(0,) * depth for depth in range(1, shape.max_depth)]
        if self.expand == "branches" or set(spine) <= set(known):
            return shape
        return TreeShape.of([*spine, *(choice for choice in known if choice not in spine)], ordered=True)

    def proposer(self, heads: DraftHeads) -> Drafter:
        assert isinstance(heads, ChimeraDrafter)
        return _Fused(heads, self.trees(heads), branches=self.expand == "branches")


class _Fused(Drafter):
    """Drafts of one run. The draft cache holds the text's hidden states; rows that accept less leave holes in it."""

    hidden_states = True

    def __init__(self, heads: ChimeraDrafter, trees: Trees, *, branches: bool) -> None:
        self.heads, self.trees, self.shape = heads, trees, trees.shape
        self.levels = expanded_nodes(self.shape, branches=branches)
        self.cache = DynamicCache()
        self.encoded = 0  # slots that went through the layer in this step
        self.fresh: list[torch.Tensor] | None = None  # hidden states, positions, which are real: yet to be read

    def start(self, state: DecodingState) -> None:
        assert state.hidden is not None
        if state.hidden.shape[1] != state.prompt_width:
            raise ValueError(WHOLE_PROMPT.format("chimera"))
        mask = state.prompt_mask.bool()
        self.seen = mask[:, :0]  # of every cached slot: whether it is text, bool [batch, cached]
        self._take(state.hidden, mask.cumsum(1) - 1, mask)
        self.last = state.hidden[:, -1]

    def _take(self, hidden: torch.Tensor, positions: torch.Tensor, real: torch.Tensor) -> None:
        """Hidden states to be read at the next proposal: [batch, new, d], positions and which are no padding."""
        new = [hidden.to(self.heads.dtype), positions.clamp(min=0), real & self.heads.use_context]
        if self.fresh is not None:  # the drafter rested
            new = [torch.cat(parts, dim=1) for parts in zip(self.fresh, new, strict=True)]
        self.fresh = new

    def observe(self, state: DecodingState, tree: DraftTree, verdict: Verdict) -> None:
        assert state.hidden is not None
        path, counts = verdict.path.clamp(min=0), verdict.counts
        rows = torch.arange(state.batch_size, device=path.device)
        hidden = state.hidden[rows[:, None], path]  # root and accepted nodes, [batch, longest, d]
        steps = torch.arange(path.shape[1], device=path.device)
        self._take(hidden, state.lengths[:, None] - 1 + steps, steps < counts[:, None])
        self.last = hidden[rows, counts - 1]

    @torch.no_grad()
    def propose(self, state: DecodingState) -> DraftTree:
        heads, shape = self.heads, self.shape
        batch, nodes = state.batch_size, len(shape.parent)
        pending = state.lengths - 1  # position of the pending token
        last = self.last.to(heads.dtype)
        tokens = state.tokens.new_zeros(batch, nodes)
        tokens[:, 0] = state.tokens[:, -1]
        text = torch.nn.functional.pad(state.tokens[:, -3:], (max(0, 3 - state.tokens.shape[1]), 0))
        ends = {0: text}  # the last three tokens up to a node, [batch, 3]
        outputs: dict[int, torch.Tensor] = {}
        slots: list[int] = []  # nodes whose output is in the cache, in order
        spine: list[torch.Tensor] = []  # logits along the path that is followed
        for depth, (expanded, children) in enumerate(self.levels):
            for node in expanded:
                if node:
                    parent = int(shape.parent[node])
                    ends[node] = torch.cat([ends[parent][:, 1:], tokens[:, node, None]], dim=1)
            triple = torch.stack([ends[node] for node in expanded], dim=1)
            length = (state.lengths + depth)[:, None].expand(-1, len(expanded))
            codes = heads.trigram(state.embed(triples(triple, length)).to(heads.dtype))  # [batch, expanded, d]
            made = self._encode(depth, expanded, codes, outputs, slots, pending)
            outputs |= {node: made[:, column] for column, node in enumerate(expanded)}
            logits = heads.logits(depth, last[:, None].expand_as(made), made, state.unembed)
            spine.append(logits[:, :1])
            best = logits.topk(min(CANDIDATES, logits.shape[-1]), dim=-1).indices  # [batch, expanded, candidates]
            own, rank, source = children
            tokens[:, own] = best[:, source, rank].to(tokens.device)
        state.cost.count("draft_forwards", len(self.levels))
        state.cost.add_product(heads.layer_parameters, self.encoded)
        state.cost.add_product(heads.code_parameters, batch * sum(len(expanded) for expanded, _ in self.levels))
        self.encoded = 0
        if slots:
            self.cache.crop(-len(slots))
        if self.trees.grown:
            return self.trees.of(state.tokens[:, -1], torch.cat(spine, dim=1))
        parents = shape.parent.to(tokens.device).expand(batch, -1)
        return DraftTree(tokens, parents, torch.ones_like(tokens, dtype=torch.bool))

    def _encode(
        self,
        depth: int,
        expanded: list[int],
        codes: torch.Tensor,
        outputs: dict[int, torch.Tensor],
        slots: list[int],
        pending: torch.Tensor,
    ) -> torch.Tensor:
        """Outputs of the expanded nodes of a depth, [batch, expanded, d]; nodes whose slots stay join `slots`."""
        batch = codes.shape[0]
        device = codes.device
        if depth == 0:
            assert self.fresh is not None
            (hidden, positions, real), self.fresh = self.fresh, None
            count = hidden.shape[1]
            kept = growing(self.seen, real)
            self.seen = torch.cat([self.seen, real], dim=1)
            inputs, at = hidden, positions
        else:
            parents = sorted({int(self.shape.parent[node]) for node in expanded})
            before = self._ancestors(parents, [*slots, *parents], proper=True)
            slots += parents
            count = len(parents)
            rows = torch.cat([self.seen[:, None].expand(-1, count, -1), before.expand(batch, -1, -1).to(device)], 2)
            kept = rows
            inputs = torch.stack([outputs[node] for node in parents], dim=1)
            at = (pending + depth - 1)[:, None].expand(-1, count)
        size = len(expanded)
        text = self.seen[:, None].expand(-1, size, -1)
        above = self._ancestors(expanded, slots, proper=False).expand(batch, -1, -1).to(device)
        own = torch.eye(size, dtype=torch.bool, device=device).expand(batch, -1, -1)
        visible = torch.cat(
            [torch.cat([kept, kept.new_zeros(batch, count, size)], dim=2), torch.cat([text, above, own], dim=2)], dim=1
        )
        positions = torch.cat([at, (pending + depth)[:, None].expand(-1, size)], dim=1)
        made = self.heads.encode(torch.cat([inputs, codes], dim=1), positions, visible, self.cache)
        self.encoded += batch * (count + size)
        self.cache.crop(-size)  # codes are not kept
        return made[:, count:]

    def _ancestors(self, nodes: list[int], slots: list[int], *, proper: bool) -> torch.Tensor:
        """Which cached outputs a node sees: its proper ancestors', and with `proper` its own; bool [nodes, slots]."""
        table = torch.zeros(len(nodes), len(slots), dtype=torch.bool)
        for line, node in enumerate(nodes):
            above = {node} if proper else set()
            while node:
                node = int(self.shape.parent[node])
                above.add(node)
            for column, slot in enumerate(slots):
                table[line, column] = slot in above
        return table


Children = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def expanded_nodes(shape: TreeShape, *, branches: bool) -> list[tuple[list[int], Children]]:
    """Of every depth with children: the nodes to run the drafter on, and whose candidates each child takes.

    Returns:
        Per depth (nodes, (children, their ranks, place of the source among the nodes)), int64 each.
    """
    levels = []
    place = {choice: node for node, choice in enumerate([(), *shape.choices()])}
    for depth in range(shape.max_depth):
        children = [node for node in range(len(shape.parent)) if int(shape.depth[node]) == depth + 1]
        parents = sorted({int(shape.parent[child]) for child in children})
        nodes = parents if branches else [place[(0,) * depth]]  # the spine: the best candidate of each depth
        source = [nodes.index(int(shape.parent[child])) if branches else 0 for child in children]
        rank = [int(shape.rank[child]) for child in children]
        levels.append((nodes, (torch.tensor(children), torch.tensor(rank), torch.tensor(source))))
    return levels
