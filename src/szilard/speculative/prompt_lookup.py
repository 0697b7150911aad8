"""Prompt lookup: the continuation of an earlier occurrence of the last tokens is the draft.

Saxena 2023, apoorvumang/prompt-lookup-decoding; the reference drafter of this family: no model, no training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from szilard.decoding.method import Method, check_choice, check_number
from szilard.decoding.state import DecodingState
from szilard.speculative.budget import NodeBudget
from szilard.speculative.drafter import Drafter, speculative_decode
from szilard.speculative.tree import DraftTree


@dataclass(frozen=True)
class PromptLookup(Method):
    """Drafts copied from the text so far. Lossless.

    Attributes:
        draft_tokens: longest draft; 0: plain decoding.
        max_ngram: tokens that are matched at most; shorter matches are tried when longer ones fail.
        budget: "auto": verify only as many drafts as are worth their time, where `szilard doctor --profile` measured
            what forwards of this model cost; "fixed": all of them.
    """

    slug: ClassVar[str] = "prompt-lookup"
    family: ClassVar[str] = "speculative"
    paper: ClassVar[str] = "Saxena 2023, apoorvumang/prompt-lookup-decoding"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "rewind"})

    draft_tokens: int = 10
    max_ngram: int = 3
    budget: str = "auto"

    def __post_init__(self) -> None:
        check_number("draft_tokens", self.draft_tokens, low=0, integer=True)
        check_number("max_ngram", self.max_ngram, low=1, integer=True)
        check_choice("budget", self.budget, ("auto", "fixed"))

    @classmethod
    def neutral(cls) -> PromptLookup:
        """No drafts."""
        return cls(draft_tokens=0)

    def decode(self, state: DecodingState) -> None:
        budget = NodeBudget.of(state) if self.budget == "auto" else None
        speculative_decode(state, _Lookup(self), budget=budget)


class _Lookup(Drafter):
    def __init__(self, method: PromptLookup) -> None:
        self.method = method

    def propose(self, state: DecodingState) -> DraftTree:
        lengths = state.lengths.tolist()
        finished = state.finished.tolist()
        drafts = [
            [] if over else lookup(ids[len(ids) - length :], self.method.max_ngram, self.method.draft_tokens)
            for ids, length, over in zip(state.tokens.tolist(), lengths, finished, strict=True)
        ]
        return DraftTree.chain(state.tokens[:, -1], drafts)


def lookup(ids: list[int], max_ngram: int, draft_tokens: int) -> list[int]:
    """What followed the first earlier occurrence of the last `max_ngram` tokens (or fewer), at most `draft_tokens`."""
    for size in range(min(max_ngram, len(ids) - 1), 0, -1):
        wanted = ids[-size:]
        for start in range(len(ids) - size):
            if ids[start : start + size] == wanted:
                return ids[start + size : start + size + draft_tokens]
    return []
