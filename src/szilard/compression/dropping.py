"""What all compressors that drop words share: words, scores (the method's own part), a decision, and the text left."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from szilard.compression.method import Budget, TextCompressor, check_budget, tokens_of_budget
from szilard.compression.rebuild import rebuild
from szilard.compression.selection import SELECTIONS, Mask, select, select_corpus, select_within
from szilard.compression.structure import safe_units
from szilard.compression.text import CompressedText, Word
from szilard.compression.token_counter import CountTokens, TokenCounter
from szilard.compression.words import (
    DIGIT,
    Spans,
    check_keep,
    kept_places,
    merged,
    overlapping,
    regex_words,
    with_white_space,
)
from szilard.options import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

Self = TypeVar("Self", bound="WordDropping")


@dataclass(frozen=True)
class ScoredText:
    """A text, its words and what each is worth.

    Attributes:
        spans: int64 [words, 2].
        scores: float [words].
        forced: bool [words], words that always stay.
        forwards, tokens: what the scoring took.
    """

    text: str
    spans: Spans
    scores: NDArray[Any]
    forced: Mask
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WordDropping(TextCompressor):
    """Drops the words with the lowest scores. Subclasses say what a word is worth.

    Attributes:
        rate: tau, the share of tokens that stays where no budget is given, in (0, 1].
        selection: "budget": the best words that fit, the finished text counted again; "percentile": the released
            code's threshold; "threshold": scores of at least `threshold`; "corpus": one threshold for all contexts.
        threshold: of "threshold".
        keep: strings and compiled patterns that always stay, with the words that they are in. White space counts too:
            "\\n" keeps line breaks. A string that begins or ends with a letter is looked for at the ends of words.
        keep_digits: words with a digit always stay.
        structure: "safe": fenced and inline code, JSON, URLs, e-mail addresses and numbers with their units are kept or
            dropped as a whole; "none": words only.
        count_tokens: tokens of a text, where neither the engine's nor the method's own are to be counted.
    """

    rate: float = 0.5
    selection: str = "budget"
    threshold: float | None = None
    keep: Any = ()
    keep_digits: bool = False
    structure: str = "none"
    count_tokens: CountTokens | None = None

    scale: ClassVar[tuple[float, float]] = (0.0, float("inf"))  # what scores can be
    passes_over: ClassVar[bool] = True  # a unit that does not fit, to choose among those after it

    def __post_init__(self) -> None:
        check_number("rate", self.rate, low=0, high=1)
        if self.rate == 0:
            raise ValueError("rate must be above 0: a text of nothing is no context.")
        check_choice("selection", self.selection, SELECTIONS)
        check_number("threshold", self.threshold, low=self.scale[0], high=self.scale[1], optional=True)
        if (self.threshold is None) == (self.selection == "threshold"):
            raise ValueError("threshold goes with selection='threshold', and only with it.")
        object.__setattr__(self, "keep", check_keep(self.keep))
        check_bool("keep_digits", self.keep_digits)
        check_choice("structure", self.structure, ("none", "safe"))
        if self.count_tokens is not None and not callable(self.count_tokens):
            raise TypeError(f"count_tokens must be a function of a text, or None, not {self.count_tokens!r}.")

    @classmethod
    def neutral(cls: type[Self]) -> Self:
        """All words stay, and the text is the original character for character."""
        return cls(rate=1.0)

    @abstractmethod
    def scored(self, contexts: Sequence[str], engine: Engine | None) -> list[ScoredText]:
        """Words and their scores, per context."""

    def counter(self, engine: Engine | None) -> TokenCounter:
        """Whose tokens the budget counts."""
        return TokenCounter.of(engine, self.count_tokens)

    def compress(
        self, contexts: Sequence[str], budget: Budget = None, *, engine: Engine | None = None
    ) -> list[CompressedText]:
        """Shorten each context by itself; see `TextCompressor.compress`.

        In "budget" and "corpus" mode the finished texts are counted again, and never have more tokens than the budget,
        unless forced words alone exceed it. A number of tokens is per context; "corpus" spreads their sum over all.

        Raises:
            ValueError: an empty text, a budget out of range, or a budget beside selection="threshold".
        """
        started = time.perf_counter()
        check_contexts(contexts)
        if self.selection == "threshold" and budget is not None:
            raise ValueError("selection='threshold' keeps what scores at least the threshold: it takes no budget.")
        share = self.rate if budget is None else budget
        check_budget(share)
        self.check(engine)
        counter = self.counter(engine)
        originals = [counter.count(text) for text in contexts]
        budgets = [tokens_of_budget(share, original) for original in originals] if originals else []
        texts = self.scored(contexts, engine)
        kept = self._decide(texts, originals, budgets, counter, share)
        results = []
        for text, (mask, costs), original in zip(texts, kept, originals, strict=True):
            left = rebuild(text.text, text.spans, mask)
            words = map(Word, *text.spans.T.tolist(), text.scores.tolist(), costs.tolist(), mask.tolist())
            results.append(
                CompressedText(
                    text=left,
                    original=text.text,
                    words=tuple(words),
                    original_tokens=original,
                    compressed_tokens=counter.count(left),
                    method=self.slug,
                    counted_by=counter.name,
                    cost=text.cost | {"seconds": (time.perf_counter() - started) / len(texts)},
                )
            )
        return results

    def _decide(
        self,
        texts: Sequence[ScoredText],
        originals: Sequence[int],
        budgets: Sequence[int],
        counter: TokenCounter,
        share: float | int,
    ) -> list[tuple[Mask, NDArray[np.int64]]]:
        """Which words stay and what each costs, per text."""
        costs = [counter.per_word(text.text, text.spans) for text in texts]
        fill = (
            self.passes_over and self.structure == "safe"
        )  # one long block of code that does not fit must not end the choice
        if self.selection == "corpus" and texts:
            masks = select_corpus(
                [text.scores for text in texts],
                costs,
                sum(budgets),
                forced=[text.forced for text in texts],
                fill=fill,
                count=lambda masks: sum(
                    counter.count(rebuild(text.text, text.spans, mask)) for text, mask in zip(texts, masks, strict=True)
                ),
            )
            return list(zip(masks, costs, strict=True))
        decided = []
        for text, cost, original, tokens in zip(texts, costs, originals, budgets, strict=True):
            if self.selection == "budget":
                mask = np.ones(len(cost), dtype=bool)
                if tokens < original:
                    mask = select_within(
                        text.scores,
                        cost,
                        tokens,
                        lambda kept, text=text: counter.count(rebuild(text.text, text.spans, kept)),  # type: ignore[misc]
                        forced=text.forced,
                        fill=fill,
                    )
            else:
                rate = share if isinstance(share, float) else min(share / original, 1.0)
                mask = select(
                    text.scores, cost, self.selection, rate=rate, threshold=self.threshold, forced=text.forced
                )
            decided.append((mask, cost))
        return decided

    def segmented(self, text: str, spans: Spans) -> tuple[Spans, Mask]:
        """Words with the method's units and kept white space among them, and which of them always stay."""
        places = kept_places(text, (*self.keep, DIGIT) if self.keep_digits else self.keep)
        spans = with_white_space(text, spans, places)
        if self.structure == "safe":
            spans = merged(np.concatenate([spans, safe_units(text)]))
        return spans, overlapping(spans, places)

    def regex_segmented(self, text: str) -> tuple[Spans, Mask]:
        """`segmented` for words by their form."""
        return self.segmented(text, regex_words(text))


def check_contexts(contexts: Any) -> None:
    """Refuse what is no list of texts with something in each.

    Raises:
        TypeError, ValueError: in a sentence.
    """
    if isinstance(contexts, str) or not isinstance(contexts, Sequence):
        raise TypeError("contexts must be a list of texts: [text] for one.")
    for number, text in enumerate(contexts):
        if not isinstance(text, str):
            raise TypeError(f"contexts must be texts, but number {number} is {type(text).__name__}.")
        if not text.strip():
            raise ValueError(f"context number {number} is empty: leave it out.")
