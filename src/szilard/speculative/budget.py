"""How many drafted nodes are worth verifying, from what a forward costs here and how often nodes are accepted (ours).

Of the nodes in the drafter's order, node i is accepted with probability P_i, estimated while decoding. A step that
verifies the first n nodes of every row writes B (1 + sum_{i <= n} P_i) tokens and takes c(B (n + 1)) seconds, with B
rows and c the measured profile of the model (`szilard doctor --profile`). n is chosen to write the most per second.
What drafting itself costs is not in it, except for a draft model, whose forwards are profiled, too. Nodes behind the
64th are not verified.
"""

from __future__ import annotations

import torch

from szilard.decoding.state import DecodingState
from szilard.engines import step_profile
from szilard.speculative.tree import DraftTree
from szilard.speculative.verify import Verdict

_MEMORY = 0.97  # of each observation one step later
_PRIOR = 1.0  # observations that the first guess is worth
_MOST = 64


class NodeBudget:
    """Chooses the number of nodes of every step.

    Args:
        profile: seconds of a forward by its tokens.
        per_node: seconds that drafting a node takes, for drafters that can stop early.
    """

    def __init__(self, profile: step_profile.StepProfile, per_node: float = 0.0) -> None:
        self.profile, self.per_node = profile, per_node
        self.accepted = [0.0] * _MOST
        self.tried = [0.0] * _MOST

    @classmethod
    def of(cls, state: DecodingState) -> NodeBudget | None:
        """For this model on this machine; None: it was never profiled."""
        profile = step_profile.find(state)
        return None if profile is None else cls(profile)

    def chances(self, count: int) -> list[float]:
        """P_i of the first `count` drafted nodes. A node that was not tried for long is thought well of again."""
        found = []
        for place in range(min(count, _MOST)):
            prior = 0.5 / (place + 1) ** 0.5
            found.append((self.accepted[place] + _PRIOR * prior) / (self.tried[place] + _PRIOR))
        return found

    def nodes(self, count: int, rows: int) -> int:
        """How many of `count` drafted nodes to verify in each of `rows` rows."""
        written, best, chosen = 1.0, 1.0 / self.profile(rows), 0
        for place, chance in enumerate(self.chances(count), start=1):
            written += chance
            rate = written / (self.profile(rows * (place + 1)) + place * self.per_node)
            if rate > best:
                best, chosen = rate, place
        return chosen

    def cut(self, tree: DraftTree, rows: int) -> DraftTree:
        """The tree with the nodes that are worth it."""
        return tree.truncate(max_nodes=1 + self.nodes(tree.tokens.shape[1] - 1, max(rows, 1)))

    def observe(self, tree: DraftTree, verdict: Verdict, running: torch.Tensor) -> None:
        """Learn from a verified tree; `running`: rows that were not finished, bool [batch]."""
        nodes = tree.tokens.shape[1]
        on_path = torch.zeros(tree.tokens.shape, dtype=torch.bool, device=tree.tokens.device)
        path = verdict.path.to(on_path.device).clamp(min=0)
        kept = torch.arange(path.shape[1], device=path.device) < verdict.counts.to(path.device)[:, None]
        on_path.scatter_(1, path * kept, True)  # what lies behind a path points at its root
        real = tree.valid & running.to(tree.valid.device)[:, None]
        counts = torch.stack([(on_path & real).sum(0), real.sum(0)]).tolist()
        for place in range(_MOST):
            self.accepted[place] *= _MEMORY
            self.tried[place] *= _MEMORY
            if place + 1 < nodes:
                self.accepted[place] += counts[0][place + 1]
                self.tried[place] += counts[1][place + 1]
