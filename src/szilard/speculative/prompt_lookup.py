"""Prompt lookup: the continuation of an earlier occurrence of the last tokens is the draft.

Saxena 2023, apoorvumang/prompt-lookup-decoding; the reference drafter of this family: no model, no training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.options import check_choice, check_number
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
        self.texts: list[NgramIndex] = []

    def start(self, state: DecodingState) -> None:
        self.texts = [NgramIndex(self.method.max_ngram) for _ in range(state.batch_size)]

    def propose(self, state: DecodingState) -> DraftTree:
        new = [length - len(text) for length, text in zip(state.lengths.tolist(), self.texts, strict=True)]
        width = max(new)
        drafts = []
        for text, ids, count, over in zip(
            self.texts, state.tokens[:, -width:].tolist(), new, state.finished.tolist(), strict=True
        ):
            text.extend(ids[width - count :])
            drafts.append([] if over else text.continuation(self.method.draft_tokens))
        return DraftTree.chain(state.tokens[:, -1], drafts)


class NgramIndex:
    """A growing text, and where each of its runs of tokens first stood.

    Args:
        longest: tokens of a run at most.
    """

    def __init__(self, longest: int) -> None:
        self._ids: list[int] = []
        self._first: list[dict[tuple[int, ...], int]] = [{} for _ in range(longest)]  # the end of each run, by length

    def __len__(self) -> int:
        return len(self._ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Append to the text."""
        for token in ids:
            self._ids.append(token)
            end = len(self._ids)
            for size, ends in enumerate(self._first[:end], start=1):
                ends.setdefault(tuple(self._ids[end - size :]), end)

    def continuation(self, count: int) -> list[int]:
        """What followed the first earlier occurrence of the longest last run that has one; at most `count` tokens."""
        for size in range(min(len(self._first), len(self) - 1), 0, -1):
            end = self._first[size - 1][tuple(self._ids[-size:])]
            if end < len(self):
                return self._ids[end : end + count]
        return []
