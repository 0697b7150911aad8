"""Drafters, and the one loop in which they all run: propose a tree, verify it in one forward, keep a path, commit."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch

from szilard.decoding.state import DecodingState
from szilard.information import entropy
from szilard.speculative.budget import NodeBudget
from szilard.speculative.tree import DraftTree
from szilard.speculative.verify import Typical, Verdict, verify_tree


class Drafter(ABC):
    """Who proposes continuations during one run. Everything that changes lives here, not in the method."""

    hidden_states: ClassVar[bool] = False  # whether `observe` wants the target's last hidden states

    def start(self, state: DecodingState) -> None:  # noqa: B027 - most have nothing to prepare
        """The prompt was read and the first token of every row is committed."""

    def watching(self, state: DecodingState, tree: DraftTree | None) -> AbstractContextManager[Any]:
        """Is open while the target reads the prompt (`tree` None) or a tree, for drafters that look inside it."""
        return nullcontext()

    @abstractmethod
    def propose(self, state: DecodingState) -> DraftTree:
        """A tree per row whose root is the row's pending token (the last of `state.tokens`)."""

    def rest(self, state: DecodingState) -> DraftTree:
        """What is verified in a step without drafts: each row's pending token. `observe` follows, as always."""
        return DraftTree.root(state.tokens[:, -1])

    def observe(self, state: DecodingState, tree: DraftTree, verdict: Verdict) -> None:  # noqa: B027 - as above
        """What became of the tree; the tokens are not committed yet. `state.hidden` [batch, nodes, hidden] if asked."""

    def close(self) -> None:  # noqa: B027 - as above
        """The run is over: give back what was opened."""


def speculative_decode(
    state: DecodingState, drafter: Drafter, typical: Typical | None = None, *, budget: NodeBudget | None = None
) -> None:
    """Generate until `state.done`; with `typical` None exactly what plain decoding would write.

    With a `budget` of each proposed tree only the nodes that are worth their time are verified, and where drafts are
    not worth theirs the drafter rests.

    Counters: `target_forwards` (prefill not counted), `draft_rests` (those without drafts), `nodes_verified`,
    `row_steps` (a step of one unfinished row), `accepted` (tokens beyond the one that plain decoding would have
    written; what lies behind the end of a text does not count), `accepted_1`, `accepted_2`, ... (row steps that wrote
    so many or more beyond it: divided by `row_steps` the acceptance by position).
    """
    with drafter.watching(state, None):
        logits = state.prefill(hidden_states=drafter.hidden_states)  # [batch, vocab]
    tokens = state.choose(logits)
    if state.trace is not None:
        state.record(tokens, entropy(logits), drafted=False)
    state.commit(tokens)
    if state.done:
        return
    try:
        drafter.start(state)
        while not state.done:
            running = ~state.finished
            tree = _proposed(state, drafter, budget, running)
            with drafter.watching(state, tree):
                logits = state.feed(tree=tree, hidden_states=drafter.hidden_states)  # [batch, nodes, vocab]
            verdict = verify_tree(state, tree, logits, typical)
            state.keep(verdict.path, verdict.counts)
            drafter.observe(state, tree, verdict)
            if budget is not None:
                budget.observe(tree, verdict, running)
            before = state.generated.clone()
            _commit(state, tree, logits, verdict)
            _count(state, tree, running, state.generated - before)
    finally:
        drafter.close()
        state.cut_scores()


def _proposed(state: DecodingState, drafter: Drafter, budget: NodeBudget | None, running: torch.Tensor) -> DraftTree:
    """What is verified next."""
    if budget is None:
        return _within_limits(state, drafter.propose(state))
    rows = int(running.sum())
    if budget.rests(rows):
        state.cost.count("draft_rests")
        return drafter.rest(state)
    start = time.perf_counter()
    tree = drafter.propose(state)
    budget.drafted(time.perf_counter() - start, tree.tokens.shape[1] - 1)
    return budget.cut(_within_limits(state, tree), rows)


def _within_limits(state: DecodingState, tree: DraftTree) -> DraftTree:
    """What can be fed: no deeper than the text may still grow (the bonus is one token, too), no more leaves than the
    engine can hold; nothing for finished rows."""
    depth = torch.where(state.finished, 0, tree.tokens.shape[1])
    if state.max_new_tokens is not None:
        depth = torch.minimum(depth, (state.max_new_tokens - state.generated - 1).clamp(min=0))
    if state.context_window is not None:
        depth = torch.minimum(depth, (state.context_window - state.cached.to(depth.device) - 1).clamp(min=0))
    return tree.truncate(max_depth=depth, max_leaves=state.most_leaves)


def _count(state: DecodingState, tree: DraftTree, running: torch.Tensor, written: torch.Tensor) -> None:
    """Count a step that wrote so many tokens in each row that was running."""
    kept = (written - 1)[running]
    nodes = (tree.size.to(running.device) * running).sum()
    rows, total, *places = torch.cat([torch.stack([running.sum(), nodes]), torch.bincount(kept)]).tolist()
    state.cost.count("target_forwards")
    state.cost.count("row_steps", rows)
    state.cost.count("nodes_verified", total)
    state.cost.count("accepted", sum(depth * count for depth, count in enumerate(places)))
    for depth in range(1, len(places)):
        state.cost.count(f"accepted_{depth}", sum(places[depth:]))


def _commit(state: DecodingState, tree: DraftTree, logits: torch.Tensor, verdict: Verdict) -> None:
    if state.trace is None:
        state.commit(verdict.tokens, verdict.counts)
        return
    rows = torch.arange(state.batch_size, device=logits.device)
    size = tree.size.to(logits.device)
    for column in range(verdict.tokens.shape[1]):
        moving = verdict.counts > column
        uncertainty = entropy(logits[rows, verdict.path[:, column].clamp(min=0)])
        state.record(
            verdict.tokens[:, column],
            uncertainty,
            active=moving,
            drafted=verdict.counts > column + 1,
            depth=column,
            tree_size=size,
        )
        state.commit(verdict.tokens[:, column], moving.long())
        if state.done:
            return
