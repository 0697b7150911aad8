"""Draft trees: what a drafter proposes and one forward of the target model scores.

A tree holds likely continuations of a row as a trie. Node 0, the root, is the row's pending token (committed, not yet
in the cache); every other node is a drafted token that follows its parent. A chain is a tree without siblings; a root
alone is plain decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from szilard.options import check_number

_NOTHING = 0  # token of a padding node; never looked at


@dataclass(frozen=True, eq=False)
class Proposal:
    """From which distributions a tree's nodes were drawn, in the order of their numbers.

    Attributes:
        probabilities: q of every node that has children, float32 [batch, internal, vocab].
        slot: row of `probabilities` that belongs to a node, int64 [batch, nodes]; -1: none.
        replacement: whether siblings were drawn with replacement.
    """

    probabilities: torch.Tensor
    slot: torch.Tensor
    replacement: bool = False


@dataclass(frozen=True, eq=False)
class DraftTree:
    """One trie per row of a batch. Derived tensors are computed on demand, and once.

    Attributes:
        tokens: ids, int64 [batch, nodes].
        parent: index of the parent, int64 [batch, nodes]; -1 for the root, and smaller than the node's own index.
        valid: False for the padding nodes of a row with a smaller tree, bool [batch, nodes].
        proposal: None: children were chosen deterministically; else how they were drawn.
    """

    tokens: torch.Tensor
    parent: torch.Tensor
    valid: torch.Tensor
    proposal: Proposal | None = None

    # ---- making one ------------------------------------------------------------------------------------------

    @classmethod
    def from_parents(cls, tokens: torch.Tensor, parent: torch.Tensor, valid: torch.Tensor | None = None) -> DraftTree:
        """A tree from its nodes, checked.

        Raises:
            ValueError: shapes that differ, a first node that is no root, a parent behind its child, a second root, or
                siblings with the same token.
        """
        valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        if not (tokens.dim() == 2 and tokens.shape == parent.shape == valid.shape and tokens.shape[1] >= 1):
            shapes = ", ".join(str(tuple(part.shape)) for part in (tokens, parent, valid))
            raise ValueError(f"tokens, parent and valid must have one shape [batch, nodes], not {shapes}.")
        nodes = torch.arange(tokens.shape[1], device=tokens.device)
        inner = valid[:, 1:]
        if not bool(((parent[:, 0] == -1) & valid[:, 0]).all()):
            raise ValueError("node 0 must be the root of every row: valid, with parent -1.")
        if bool((((parent < 0) | (parent >= nodes))[:, 1:] & inner).any()):
            raise ValueError("every node but the root must have a parent with a smaller index.")
        if not bool(valid.gather(1, parent.clamp(min=0))[:, 1:].logical_or(~inner).all()):
            raise ValueError("a valid node must have a valid parent.")
        same = (parent[:, :, None] == parent[:, None]) & (tokens[:, :, None] == tokens[:, None])
        twins = same & valid[:, :, None] & valid[:, None] & (nodes[:, None] < nodes)
        if bool(twins.any()):
            raise ValueError("siblings must carry distinct tokens: merge them (`DraftTree.from_paths` does).")
        return cls(tokens, parent, valid)

    @classmethod
    def root(cls, pending: torch.Tensor) -> DraftTree:
        """Nothing drafted: pending tokens int64 [batch] alone."""
        tokens = pending[:, None]
        return cls(tokens, torch.full_like(tokens, -1), torch.ones_like(tokens, dtype=torch.bool))

    @classmethod
    def chain(cls, pending: torch.Tensor, drafts: Sequence[Sequence[int]]) -> DraftTree:
        """One continuation per row, of any length: pending int64 [batch], drafts as many lists of ids."""
        return cls.from_paths(pending, [[draft] for draft in drafts])

    @classmethod
    def from_paths(cls, pending: torch.Tensor, paths: Sequence[Sequence[Sequence[int]]]) -> DraftTree:
        """The trie of each row's continuations (lists of ids that follow the pending token, best first)."""
        rows = []
        for row_paths in paths:
            tokens, parent = [_NOTHING], [-1]
            children: dict[tuple[int, int], int] = {}
            for path in row_paths:
                node = 0
                for token in path:
                    child = children.get((node, token))
                    if child is None:
                        child = children[node, token] = len(tokens)
                        tokens.append(token)
                        parent.append(node)
                    node = child
            rows.append((tokens, parent))
        return cls.from_rows(pending, rows)

    @classmethod
    def from_rows(cls, pending: torch.Tensor, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> DraftTree:
        """Padded from each row's (tokens, parent), whose first node stands for the pending token; not checked."""
        width = max(len(tokens) for tokens, _ in rows)
        padded = [
            [*tokens, *[_NOTHING] * (width - len(tokens)), *parent, *[0] * (width - len(parent)), len(tokens)]
            for tokens, parent in rows
        ]
        packed = torch.tensor(padded, dtype=torch.long).to(pending.device)  # one transfer
        tokens, parent, count = packed[:, :width], packed[:, width : 2 * width], packed[:, 2 * width :]
        tokens = torch.cat([pending[:, None], tokens[:, 1:]], dim=1)
        return cls(tokens, parent, torch.arange(width, device=pending.device) < count)

    @classmethod
    def static(cls, shape: TreeShape, pending: torch.Tensor, candidates: torch.Tensor) -> DraftTree:
        """A fixed shape filled with tokens: the node of rank r at depth d carries `candidates[:, d - 1, r]`.

        Args:
            pending: int64 [batch].
            candidates: the likeliest tokens of each depth, best first, int64 [batch, depth, ranks].

        Raises:
            ValueError: the shape is deeper or wider than the candidates.
        """
        if shape.max_depth > candidates.shape[1] or shape.max_rank >= candidates.shape[2]:
            raise ValueError(
                f"the tree shape needs {shape.max_depth} depths and {shape.max_rank + 1} candidates, but there are "
                f"{candidates.shape[1]} and {candidates.shape[2]}: cut it with `TreeShape.truncate`."
            )
        batch = pending.shape[0]
        parent, depth, rank = (part.to(pending.device) for part in (shape.parent, shape.depth, shape.rank))
        drafted = candidates[:, depth[1:] - 1, rank[1:]]
        tokens = torch.cat([pending[:, None], drafted], dim=1)
        return cls(tokens, parent.expand(batch, -1), torch.ones_like(tokens, dtype=torch.bool))

    # ---- what follows from the parents -----------------------------------------------------------------------

    @cached_property
    def ancestors(self) -> torch.Tensor:
        """[b, i, j]: node j is node i or one of its ancestors, bool [batch, nodes, nodes]."""
        nodes = self.tokens.shape[1]
        eye = torch.eye(nodes, device=self.tokens.device)
        if nodes == 1:
            return eye.bool().expand(len(self.tokens), 1, 1)
        up = torch.zeros(*self.tokens.shape, nodes, device=self.tokens.device)
        up.scatter_(2, self.parent.clamp(min=0)[..., None], 1.0)
        up[:, 0] = 0
        up = up * self.valid[..., None]
        reach, steps = eye + up, 1
        while steps < nodes - 1 and steps < _MOST_DEPTH:  # paths of 1, 2, 4, ... steps
            reach = (reach @ reach).clamp(max=1)
            steps *= 2
        return reach > 0

    @cached_property
    def depth(self) -> torch.Tensor:
        """Drafted tokens from the root to a node, itself included, int64 [batch, nodes]; 0 for root and padding."""
        return (self.ancestors.sum(-1) - 1) * self.valid

    @property
    def size(self) -> torch.Tensor:
        """Nodes of each row, the root included, int64 [batch]."""
        return self.valid.sum(1)

    @property
    def is_chain(self) -> bool:
        """Whether no row has siblings, and each node's parent is the node before it."""
        before = torch.arange(-1, self.tokens.shape[1] - 1, device=self.tokens.device)
        return bool(((self.parent == before) | ~self.valid).all())

    def leaves(self, row: int) -> list[int]:
        """Nodes of a row without children."""
        count = int(self.valid[row].sum())
        inner = set(self.parent[row, 1:count].tolist())
        return [node for node in range(count) if node not in inner]

    def path(self, row: int, node: int) -> list[int]:
        """Nodes of a row from the root to this one."""
        parent, found = self.parent[row].tolist(), [node]
        while found[-1] != 0:
            found.append(parent[found[-1]])
        return found[::-1]

    # ---- changing one ----------------------------------------------------------------------------------------

    def truncate(
        self,
        *,
        max_nodes: int | None = None,
        max_depth: torch.Tensor | int | None = None,
        max_leaves: int | None = None,
    ) -> DraftTree:
        """The first `max_nodes` of the nodes that are at most `max_depth` deep (a number, or int64 [batch]).

        With `max_leaves` the first of them that have no more leaves. Nodes come in the drafter's order, parents before
        children; drafters put first what they value most.
        """
        keep = self.valid
        if max_depth is not None:
            bound = max_depth[:, None] if isinstance(max_depth, torch.Tensor) else max_depth
            keep = keep & (self.depth <= bound)
        if max_nodes is not None:
            check_number("max_nodes", max_nodes, low=1, integer=True)
            keep = keep & (keep.cumsum(1) <= max_nodes)
        if max_leaves is not None:
            check_number("max_leaves", max_leaves, low=1, integer=True)
            same = (self.parent[:, :, None] == self.parent[:, None]) & keep[:, :, None] & keep[:, None]
            siblings = same.tril(-1).any(2)  # not the first child: one leaf more
            keep = keep & (1 + siblings.cumsum(1) <= max_leaves)
        if bool((keep == self.valid).all()):
            return self
        width = int(keep.sum(1).max())
        order = torch.argsort(~keep, dim=1, stable=True)[:, :width]  # kept nodes first, in their order
        place = keep.cumsum(1) - 1  # new index of a kept node
        parent = self.parent.gather(1, order)
        parent = torch.where(parent >= 0, place.gather(1, parent.clamp(min=0)), parent)
        proposal = self.proposal
        if proposal is not None:
            proposal = Proposal(proposal.probabilities, proposal.slot.gather(1, order), proposal.replacement)
        return DraftTree(self.tokens.gather(1, order), parent, keep.gather(1, order), proposal)

    def merge(self, other: DraftTree) -> DraftTree:
        """Both trees' continuations as one trie, this one's first (deterministic children only)."""
        if self.proposal is not None or other.proposal is not None:
            raise ValueError("trees whose nodes were drawn cannot be merged: the result would not be distributed as q.")
        paths = [
            [
                [int(tree.tokens[row, node]) for node in tree.path(row, leaf)[1:]]
                for tree in (self, other)
                for leaf in tree.leaves(row)
            ]
            for row in range(len(self.tokens))
        ]
        return DraftTree.from_paths(self.tokens[:, 0], paths)


_MOST_DEPTH = 512


@dataclass(frozen=True, eq=False)
class TreeShape:
    """A fixed tree, as ranks: node (0, 2) is the third candidate of depth 2 under the first of depth 1.

    Attributes:
        parent, depth, rank: of the nodes, the root first, int64 [nodes].
    """

    parent: torch.Tensor
    depth: torch.Tensor
    rank: torch.Tensor

    @classmethod
    def of(cls, choices: Sequence[Sequence[int]], *, ordered: bool = False) -> TreeShape:
        """From the nodes' ranks; parents that are not listed are an error.

        Args:
            choices: the ranks on the way to each node.
            ordered: keep the order, in which parents must come before children; else level by level.

        Raises:
            ValueError: a node without its parent (before it), a repeated one, or a negative rank.
        """
        nodes = [tuple(choice) for choice in choices]
        if not ordered:
            nodes.sort(key=lambda choice: (len(choice), choice))
        index: dict[tuple[int, ...], int] = {(): 0}
        parent, rank = [-1], [0]
        for choice in nodes:
            if not choice or choice in index or any(r < 0 for r in choice):
                raise ValueError(f"the tree shape holds {list(choice)}, which is empty, repeated or negative.")
            if choice[:-1] not in index:
                raise ValueError(f"the tree shape holds {list(choice)}, but not its parent {list(choice[:-1])}.")
            index[choice] = len(parent)
            parent.append(index[choice[:-1]])
            rank.append(choice[-1])
        depth = [0, *map(len, nodes)]
        return cls(torch.tensor(parent), torch.tensor(depth), torch.tensor(rank))

    @classmethod
    def greedy(cls, accuracy: Sequence[Sequence[float]], max_nodes: int) -> TreeShape:
        """The shape with the most expected accepted tokens: nodes by the product of accuracies along their path.

        The most valuable come first, so that its first n nodes are the best shape of n nodes, too.

        Args:
            accuracy: `accuracy[d][r]`: how often candidate r at depth d + 1 is right, given that its parent was (where
                only the plain share is known, that is taken in its place).
            max_nodes: the root included.
        """
        import heapq

        best: list[tuple[int, ...]] = []
        heap: list[tuple[float, tuple[int, ...]]] = [(-accuracy[0][0], (0,))] if accuracy and accuracy[0] else []
        while heap and len(best) < max_nodes - 1:
            value, node = heapq.heappop(heap)
            if value >= 0:
                break
            best.append(node)
            d, r = len(node) - 1, node[-1]
            if r + 1 < len(accuracy[d]) and accuracy[d][r] > 0:
                heapq.heappush(heap, (value / accuracy[d][r] * accuracy[d][r + 1], (*node[:-1], r + 1)))
            if d + 1 < len(accuracy) and accuracy[d + 1]:
                heapq.heappush(heap, (value * accuracy[d + 1][0], (*node, 0)))
        return cls.of(best, ordered=True)

    def by_value(self, accuracy: Sequence[Sequence[float]]) -> TreeShape:
        """The same nodes, the most valuable first; see `greedy`."""
        values = dict(zip(self.choices(), self.values(accuracy), strict=True))
        ranked: list[tuple[int, ...]] = []
        for choice in sorted(values, key=lambda choice: (-values[choice], len(choice), choice)):
            for depth in range(1, len(choice) + 1):  # a parent that was measured as worse comes along
                if choice[:depth] not in ranked:
                    ranked.append(choice[:depth])
        return TreeShape.of(ranked, ordered=True)

    def values(self, accuracy: Sequence[Sequence[float]]) -> list[float]:
        """How likely each node but the root is accepted: the product of its ranks' accuracies on the way to it."""
        return [math.prod(accuracy[depth][rank] for depth, rank in enumerate(choice)) for choice in self.choices()]

    def choices(self) -> list[tuple[int, ...]]:
        """The nodes as `of` takes them: the ranks on the way to each, without the root."""
        paths: list[tuple[int, ...]] = [()]
        for parent, rank in zip(self.parent[1:].tolist(), self.rank[1:].tolist(), strict=True):
            paths.append((*paths[parent], rank))
        return paths[1:]

    @property
    def max_depth(self) -> int:
        """Deepest node."""
        return int(self.depth.max())

    @property
    def max_rank(self) -> int:
        """Highest rank of a node."""
        return int(self.rank.max())

    def accepted(self, ranks: torch.Tensor) -> torch.Tensor:
        """How many drafts of this shape a text accepts whose token at depth d + 1 is candidate `ranks[:, d]`.

        Args:
            ranks: from 0, the best; int64 [texts, depths]. A rank that no node has is a wrong draft.

        Returns:
            int64 [texts].
        """
        child = torch.zeros(len(self.parent), self.max_rank + 2, dtype=torch.long)  # the last column: no such rank
        child[self.parent[1:], self.rank[1:]] = torch.arange(1, len(self.parent))
        child = child.to(ranks.device)
        node = torch.zeros(len(ranks), dtype=torch.long, device=ranks.device)
        walking = torch.ones_like(node, dtype=torch.bool)
        count = torch.zeros_like(node)
        for depth in range(min(self.max_depth, ranks.shape[1])):
            rank = ranks[:, depth].clamp(min=-1, max=self.max_rank + 1)
            node = child[node, rank]
            walking = walking & (node > 0)
            count += walking
        return count

    def truncate(self, *, max_nodes: int | None = None, max_depth: int | None = None) -> TreeShape:
        """Without the nodes deeper than `max_depth`, and of the rest the first `max_nodes`, the root included."""
        kept = [choice for choice in self.choices() if max_depth is None or len(choice) <= max_depth]
        return TreeShape.of(kept if max_nodes is None else kept[: max_nodes - 1], ordered=True)


# The tree of EAGLE-1 and Chimera: 25 drafted nodes, 5 deep (SafeAILab/EAGLE and kafkayu/Chimera, facts of their code).
SMALL_TREE = TreeShape.of(
    [
        *[(0,), (1,), (2,), (3,)],
        *[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)],
        *[(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1), (0, 2, 0), (0, 2, 1), (1, 0, 0)],
        *[(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2)],
        *[(0, 0, 0, 0, 0), (0, 0, 0, 0, 1)],
    ]
)
