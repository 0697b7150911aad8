"""Drafters of the tests: one that knows the answer, and one that grows random trees around it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from szilard.decoding.method import Method
from szilard.speculative.drafter import Drafter, speculative_decode
from szilard.speculative.tree import DraftTree
from tests.conftest import VOCAB


@dataclass(frozen=True)
class Replay(Method):
    """Drafts from known continuations (a list of ids per row), hidden in random trees.

    `length`: of the true path; `siblings`: wrong nodes around it; 0 and 0: plain decoding.
    """

    slug: ClassVar[str] = "replay"
    family: ClassVar[str] = "speculative"
    paper: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "rewind"})

    answers: Any = None
    length: int = 3
    siblings: int = 0
    vocab: int = VOCAB

    @classmethod
    def neutral(cls):
        return cls(length=0)

    def decode(self, state):
        speculative_decode(state, _Replay(self))


class _Replay(Drafter):
    def __init__(self, method):
        self.method = method
        self.random = torch.Generator().manual_seed(11)

    def propose(self, state):
        paths = []
        for row, done in enumerate(state.generated.tolist()):
            answer = self.method.answers[row] if self.method.answers is not None else []
            right = answer[done : done + self.method.length]
            found = [right] if right and self._chance(0.8) else []
            for _ in range(self.method.siblings if self._chance(0.9) else 0):
                cut = int(torch.randint(0, len(right) + 1, (), generator=self.random))
                wrong = torch.randint(0, self.method.vocab, (2,), generator=self.random).tolist()
                found.append(right[:cut] + wrong)
            if self.method.siblings and self._chance(0.5):
                found.reverse()
            paths.append(found if self.method.siblings or not found else [right])
        return DraftTree.from_paths(state.tokens[:, -1], paths)

    def _chance(self, share):
        return self.method.siblings == 0 or float(torch.rand((), generator=self.random)) < share
