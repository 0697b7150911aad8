"""How many drafted nodes are worth verifying, from what a forward costs here and how often nodes are accepted (ours).

Of the nodes in the drafter's order, node i is accepted with probability P_i, estimated while decoding. A step that
verifies the first n nodes of every row writes B (1 + sum_{i <= n} P_i) tokens and takes d + c(B (n + 1)) seconds, with
B rows, c the measured profile of the model (`szilard doctor --profile`) and d the seconds that drafting took of late.
n is chosen to write the most per second. Where even that is less than plain decoding writes, 1 / c(B), the drafter
rests for some steps, then for more and more; it tries a few steps in between. Nodes behind the 64th are not verified.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from szilard.decoding.state import DecodingState
from szilard.engines import step_profile
from szilard.speculative.tree import DraftTree
from szilard.speculative.verify import Verdict

_MEMORY = 0.97  # of each observation one step later
_PRIOR, _MEASURED = 1.0, 4.0  # observations that a guess, and a measured chance, are worth at the start
_MOST = 64
_CHEAP = 0.02  # of a forward: a drafter that takes no longer has nothing to rest from
_TRIES = 4  # steps with drafts before the first decision to rest
_TRIES_AGAIN = 2  # and after each rest
_SHORTEST, _LONGEST = 4, 64  # steps of rest


class NodeBudget:
    """Chooses the number of nodes of every step, and the steps that go without drafts.

    Args:
        profile: seconds of a forward by its tokens.
        chances: P_i as known beforehand, of as many nodes as are known.
        slots_per_node: what the drafter adds to the target's own forward for every node, in nodes.

    Attributes:
        drafting: seconds that a proposal takes, d; the mean of the last ones.
        per_node: in its place the seconds of each drafted node, for drafters that ask before they draft; else None.
        rested: whether the last step went without drafts.
    """

    def __init__(
        self, profile: step_profile.StepProfile, chances: Sequence[float] = (), *, slots_per_node: float = 0.0
    ) -> None:
        self.profile, self.slots_per_node = profile, slots_per_node
        self.drafting = 0.0
        self.per_node: float | None = None
        self.rested = False
        self._left, self._pause = 0, _SHORTEST  # steps of this rest, and of the next one
        self._tries, self._timed, self._offered = 0, -1, _MOST
        known = list(chances)[:_MOST]
        self._prior = known + [0.5 / (place + 1) ** 0.5 for place in range(len(known), _MOST)]
        self._weight = [_MEASURED] * len(known) + [_PRIOR] * (_MOST - len(known))
        self.accepted = [0.0] * _MOST
        self.tried = [0.0] * _MOST

    @classmethod
    def of(cls, state: DecodingState, chances: Sequence[float] = (), **options: float) -> NodeBudget | None:
        """For this model on this machine; None: it was never profiled."""
        profile = step_profile.find(state)
        return None if profile is None else cls(profile, chances, **options)

    def chances(self, count: int) -> list[float]:
        """P_i of the first `count` drafted nodes. A node that was not tried for long is thought well of again."""
        known = zip(self.accepted, self.tried, self._prior, self._weight, strict=True)
        found = [(accepted + weight * prior) / (tried + weight) for accepted, tried, prior, weight in known]
        return found[:count]

    def nodes(self, count: int, rows: int) -> int:
        """How many of `count` drafted nodes to verify in each of `rows` rows."""
        return self._best(count, rows)[0]

    def pays_at_best(self, count: int, rows: int) -> bool:
        """Whether up to `count` drafted nodes were worth their time if every one of them were accepted."""
        each, plain = self.per_node or 0.0, self.profile(rows)
        return any(
            (1 + place) * plain > self._seconds(place, rows) + place * each for place in range(1, min(count, _MOST) + 1)
        )

    def _best(self, count: int, rows: int) -> tuple[int, float]:
        """The best number of nodes, and the tokens per second and row that it writes."""
        each = self.per_node or 0.0
        written, best, chosen = 1.0, 1.0 / self._seconds(0, rows), 0
        for place, chance in enumerate(self.chances(count), start=1):
            written += chance
            rate = written / (self._seconds(place, rows) + place * each)
            if rate > best:
                best, chosen = rate, place
        return chosen, best

    def _seconds(self, nodes: int, rows: int) -> float:
        return self.drafting + self.profile(rows * (nodes + 1) * (1 + self.slots_per_node))

    def drafted(self, seconds: float, nodes: int) -> None:
        """A proposal of so many nodes took so long. The first counts for nothing: it reads the prompt, or warms up."""
        self._offered = nodes
        self._timed += 1
        if self._timed:
            share = 1 / min(self._timed, 8)
            if self.per_node is None:
                self.drafting += share * (seconds - self.drafting)
            elif nodes:
                self.per_node += share * (seconds / nodes - self.per_node)

    def rests(self, rows: int) -> bool:
        """Whether this step goes without drafts."""
        plain = self.profile(rows)
        if self._left:
            self._left -= 1
            self.rested = True
        elif self._tries < _TRIES or self.drafting + (self.per_node or 0.0) < _CHEAP * plain:
            self._tries += 1
            self.rested = False
        else:
            self.rested = self._best(self._offered, rows)[1] * plain <= 1.0
            self._left, self._tries = (self._pause - 1, _TRIES - _TRIES_AGAIN) if self.rested else (0, self._tries)
            self._pause = min(2 * self._pause, _LONGEST) if self.rested else _SHORTEST
        return self.rested

    def cut(self, tree: DraftTree, rows: int) -> DraftTree:
        """The tree with the nodes that are worth it."""
        return tree.truncate(max_nodes=1 + self.nodes(tree.tokens.shape[1] - 1, max(rows, 1)))

    def observe(self, tree: DraftTree, verdict: Verdict, running: torch.Tensor) -> None:
        """Learn from a verified tree, unless the drafter rested; `running`: rows not finished, bool [batch]."""
        if self.rested:
            return
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
