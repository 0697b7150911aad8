"""Verification: which path of a draft tree the target model would have written itself, and the token after it.

Walks down from the root, all rows at once. At node v the target's processed distribution is p_v:

    greedy                      y = argmax p_v; descend to the child with token y, else stop with y as the bonus
    children chosen, sampling   y ~ p_v, one draw per node visited; descend or stop alike
    children drawn from q_v     multi-round rejection (Leviathan 2022, arXiv 2211.17192; SpecInfer, arXiv 2305.09781):
                                accept x with probability min(1, p(x) / q(x)), else p <- norm(max(p - q, 0))

All three are exact: what is committed is distributed as plain decoding would. Processors see each node's own text, the
committed tokens and the path down to the node, so a repetition penalty acts on a draft as on plain text.

`Typical` acceptance (Medusa, arXiv 2401.10774) is not: it takes every plausible draft.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from szilard.decoding.state import DecodingState
from szilard.decoding.warpers import WARPERS
from szilard.information import entropy
from szilard.options import check_number
from szilard.speculative.tree import DraftTree


@dataclass(frozen=True)
class Typical:
    """Medusa's lossy rule: a draft is accepted where p(x) > min(epsilon, delta exp(-H(p))), H in nats.

    Attributes:
        epsilon: what is always plausible enough.
        delta: of the entropy-dependent threshold. (Official function defaults swap the two; these are its callers'.)
    """

    epsilon: float = 0.09
    delta: float = 0.3

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, low=0, high=1)
        check_number("delta", self.delta, low=0)


def check_typical(state: DecodingState) -> None:
    """Refuse processors that read the text or forbid tokens: the rule looks at all nodes at once.

    Raises:
        ValueError: the run has one.
    """
    for processor in state.logits_processor:
        if not isinstance(processor, WARPERS):
            raise ValueError(
                f"acceptance='typical' does not run with {type(processor).__name__}: take 'exact', or leave out what "
                "asked for it."
            )


@dataclass(frozen=True)
class Verdict:
    """What a verification found, per row.

    Attributes:
        path: nodes from the root to the last accepted one, int64 [batch, longest]; -1 behind it.
        counts: nodes on the path, which is also how many tokens are committed, int64 [batch].
        tokens: the accepted drafts and the bonus, int64 [batch, longest].
    """

    path: torch.Tensor
    counts: torch.Tensor
    tokens: torch.Tensor


def verify_tree(state: DecodingState, tree: DraftTree, logits: torch.Tensor, typical: Typical | None = None) -> Verdict:
    """Walk down the tree with the run's own rule of choice (its processors, greedy or sampling).

    Args:
        state: whose pending tokens are the roots.
        tree: what was fed.
        logits: of every node, [batch, nodes, vocab].
        typical: accept by this rule instead; a text that plain decoding would not write.
    """
    batch, device = state.batch_size, logits.device
    tokens, parent, valid = tree.tokens.to(device), tree.parent.to(device), tree.valid.to(device)
    rows = torch.arange(batch, device=device)
    node = torch.zeros(batch, dtype=torch.long, device=device)
    walking = ~state.finished
    nodes, found = [node], []
    counts = torch.ones(batch, dtype=torch.long, device=device)
    text = state.tokens
    while True:
        at = logits[rows, node]  # [batch, vocab]
        children = (parent == node[:, None]) & valid  # [batch, nodes]
        if typical is not None:
            wanted, child = _typical(state, tree, logits, text, node, children, typical)
        elif tree.proposal is not None and state.do_sample:
            wanted, child = _rejection(state, tree, at, text, node, children, walking)
        else:
            wanted = state.choose(at, text=text)
            child = torch.where(children & (tokens == wanted[:, None]), 1, 0).argmax(1)  # 0: no such child
        found.append(wanted)
        walking = walking & (child > 0)
        if not bool(walking.any()):
            break
        node = torch.where(walking, child, node)
        nodes.append(torch.where(walking, child, -1))
        counts = counts + walking
        text = torch.cat([text, wanted[:, None]], dim=1)
    return Verdict(torch.stack(nodes, 1), counts, torch.stack(found, 1))


def _rejection(
    state: DecodingState,
    tree: DraftTree,
    logits: torch.Tensor,
    text: torch.Tensor,
    node: torch.Tensor,
    children: torch.Tensor,
    walking: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One node of every row by multi-round rejection: the token, and the accepted child (0: none)."""
    proposal = tree.proposal
    assert proposal is not None
    rows = torch.arange(len(node), device=node.device)
    drafts = tree.tokens.to(node.device)
    p = state.probabilities(logits, text=text)  # float32 [batch, vocab]
    if state.scores is not None or state.raw_logits is not None:
        state.keep_scores(p.log(), logits, ahead=text.shape[1] - state.tokens.shape[1])
    counts = children.sum(1) * walking
    most = int(counts.max())
    if most:
        slot = proposal.slot.to(node.device)[rows, node].clamp(min=0)  # -1: a node without children
        q = proposal.probabilities.to(p)[rows, slot]
    order = children.byte().argsort(dim=1, descending=True, stable=True)  # as they were drawn
    wanted, child, undecided = torch.zeros_like(node), torch.zeros_like(node), walking
    for rank in range(most):
        candidate = order[:, rank]
        token = drafts[rows, candidate]
        asked = undecided & (counts > rank)
        chance = torch.rand(len(rows), generator=state.generator, device=p.device)
        accepted = asked & (chance * q[rows, token] < p[rows, token])
        wanted, child = torch.where(accepted, token, wanted), torch.where(accepted, candidate, child)
        undecided = undecided & ~accepted
        rest = (p - q).clamp(min=0)
        total = rest.sum(1, keepdim=True)  # 0: nothing is left, by rounding only
        p = torch.where((asked & ~accepted)[:, None] & (total > 0), rest / total, p)
        if not proposal.replacement:
            q = q.scatter(1, token[:, None], 0.0)
            q = q / q.sum(1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)
    drawn = torch.multinomial(p, 1, generator=state.generator)[:, 0]
    return state.pad(torch.where(undecided, drawn, wanted)), child


def _typical(
    state: DecodingState,
    tree: DraftTree,
    logits: torch.Tensor,
    text: torch.Tensor,
    node: torch.Tensor,
    children: torch.Tensor,
    rule: Typical,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One node of every row: the child from which the longest accepted path goes on, ties by probability.

    Where no child is plausible enough the token is chosen as always.
    """
    scores = logits.flatten(0, 1).float()
    for processor in state.logits_processor:
        scores = processor(None, scores)  # none of them reads the text: see `check_typical`
    p = torch.softmax(scores, dim=-1).view(logits.shape)
    bar = (rule.delta * torch.exp(-entropy(p.clamp(min=1e-20).log()))).clamp(max=rule.epsilon)  # [batch, nodes]
    parent = tree.parent.to(p.device).clamp(min=0)
    rows = torch.arange(len(node), device=node.device)
    own = p[rows[:, None], parent, tree.tokens.to(p.device)]  # p of every node under its parent, [batch, nodes]
    accepted = (own > bar.gather(1, parent)) & tree.valid.to(p.device)
    accepted[:, 0] = True
    ancestors = tree.ancestors.to(p.device)
    reached = (ancestors & ~accepted[:, None]).sum(-1) == 0  # the whole path is accepted
    likelihood = (ancestors * own.clamp(min=1e-20).log()[:, None]).sum(-1)
    score = torch.where(reached, tree.depth.to(p.device) * 1e4 + likelihood, -torch.inf)  # of ending there
    below = torch.where(ancestors.transpose(1, 2), score[:, None], -torch.inf).amax(-1)  # best end at or under a node
    value = torch.where(children & reached, below, -torch.inf)
    best, child = value.max(1)
    found = best > -torch.inf
    plain = state.choose(logits[rows, node], text=text)
    return torch.where(found, tree.tokens.to(p.device)[rows, child], plain), torch.where(found, child, 0)
