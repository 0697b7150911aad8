"""What all compressors that drop words share: words, scores (the method's own part), a decision, and the text left."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from szilard.compression.messages import compress_messages
from szilard.compression.method import Budget, TextCompressor, check_budget, tokens_of_budget
from szilard.compression.rebuild import Rebuilder
from szilard.compression.selection import SELECTIONS, Mask, select, select_corpus, select_within
from szilard.compression.stream import compress_stream
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

_HALF = re.compile("[\ud800-\udfff]")

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

    @cached_property
    def rebuilder(self) -> Rebuilder:
        """Makes the text of kept words."""
        return Rebuilder(self.text, self.spans)


@dataclass(frozen=True)
class Limit:
    """What a context may keep.

    Attributes:
        original: its tokens.
        tokens: how many of them may stay; 0: none, not even forced words.
        rate: the same as a share.
    """

    original: int
    tokens: int
    rate: float

    @classmethod
    def of(cls, original: int, tokens: int, share: Budget) -> Limit:
        """A budget of so many tokens, which was given as a share or as a number."""
        return cls(original, tokens, share if isinstance(share, float) else tokens / original)


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
        drop_consecutive: of equal words to keep that are left next to each other only the first stays.
        count_tokens: tokens of a text, where neither the engine's nor the method's own are to be counted.
    """

    rate: float = 0.5
    selection: str = "budget"
    threshold: float | None = None
    keep: str | object = ()
    keep_digits: bool = False
    structure: str = "none"
    drop_consecutive: bool = False
    count_tokens: CountTokens | None = None

    scale: ClassVar[tuple[float, float]] = (0.0, float("inf"))  # what scores can be
    passes_over: ClassVar[bool] = True  # a unit that does not fit, to choose among those after it

    def __post_init__(self) -> None:
        check_number("rate", self.rate, low=0, high=1)
        if self.rate == 0:
            raise ValueError("rate must be above 0: a text of nothing is no context.")
        object.__setattr__(self, "rate", float(self.rate))  # as a budget a whole 1 would be one token
        check_choice("selection", self.selection, SELECTIONS)
        check_number("threshold", self.threshold, low=self.scale[0], high=self.scale[1], optional=True)
        if (self.threshold is None) == (self.selection == "threshold"):
            raise ValueError("threshold goes with selection='threshold', and only with it.")
        object.__setattr__(self, "keep", check_keep(self.keep))
        check_bool("keep_digits", self.keep_digits)
        check_bool("drop_consecutive", self.drop_consecutive)
        check_choice("structure", self.structure, ("none", "safe"))
        if self.count_tokens is not None and not callable(self.count_tokens):
            raise TypeError(f"count_tokens must be a function of a text, or None, not {self.count_tokens!r}.")

    @classmethod
    def neutral(cls: type[Self]) -> Self:
        """All words stay, and the text is the original character for character."""
        return cls(rate=1.0)

    @property
    def kept_always(self) -> tuple[str | re.Pattern[str], ...]:
        """What `keep` names."""
        return check_keep(self.keep)

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
        originals = counter.count_all(contexts)
        budgets = [tokens_of_budget(share, original) for original in originals]
        texts = self.scored(contexts, engine)
        limits = self.shared_out(texts, [Limit.of(*pair, share) for pair in zip(originals, budgets, strict=True)])
        kept = self._decide(texts, limits, counter)
        results = []
        for text, (mask, costs), original in zip(texts, kept, originals, strict=True):
            left = text.rebuilder(mask)
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

    def compress_messages(
        self,
        chat: Sequence[Mapping[str, Any]],
        budget: Budget = None,
        *,
        roles: Collection[str] = ("user",),
        engine: Engine | None = None,
    ) -> list[dict[str, Any]]:
        """A chat in which the messages of `roles` are shortened; see `messages.compress_messages`."""
        return compress_messages(self, chat, budget, roles=roles, engine=engine)

    def compress_stream(
        self,
        source: Iterable[str] | Path,
        budget: Budget = None,
        *,
        engine: Engine | None = None,
        window: int = 16_384,
    ) -> Iterator[str]:
        """A text of any length, window by window, in the memory of one; see `stream.compress_stream`."""
        units = self.structure == "safe"
        return compress_stream(self, source, budget, engine=engine, window=window, whole_units=units)

    def shared_out(self, texts: Sequence[ScoredText], limits: list[Limit]) -> list[Limit]:
        """The contexts' limits once they are scored; a method may take from one to give to another."""
        return limits

    def _decide(
        self, texts: Sequence[ScoredText], limits: Sequence[Limit], counter: TokenCounter
    ) -> list[tuple[Mask, NDArray[np.int64]]]:
        """Which words stay and what each costs, per text."""
        costs = [counter.per_word(text.text, text.spans) for text in texts]
        fill = self.passes_over and self.structure == "safe"  # one long block that does not fit must not end the choice

        def count(text: ScoredText, mask: Mask) -> int:
            return counter.count(text.rebuilder(self._without_repeats(text, mask)))

        masks: list[Mask] = []
        if self.selection == "corpus" and texts:
            open_ = [limit.tokens > 0 for limit in limits]
            chosen = [text for text, is_open in zip(texts, open_, strict=True) if is_open]
            found = iter(
                select_corpus(
                    [text.scores for text in chosen],
                    [cost for cost, is_open in zip(costs, open_, strict=True) if is_open],
                    sum(limit.tokens for limit in limits),
                    forced=[text.forced for text in chosen],
                    fill=fill,
                    count=lambda masks: sum(map(count, chosen, masks)),
                )
            )
            masks = [
                next(found) if is_open else np.zeros(len(cost), bool)
                for cost, is_open in zip(costs, open_, strict=True)
            ]
        else:
            for text, cost, limit in zip(texts, costs, limits, strict=True):
                if limit.tokens == 0 or (self.selection != "threshold" and limit.tokens >= limit.original):
                    mask = np.full(len(cost), limit.tokens > 0)
                elif self.selection == "budget":
                    mask = select_within(
                        text.scores, cost, limit.tokens, partial(count, text), forced=text.forced, fill=fill
                    )
                else:
                    mask = select(
                        text.scores, cost, self.selection, rate=limit.rate, threshold=self.threshold, forced=text.forced
                    )
                masks.append(mask)
        return [(self._without_repeats(text, mask), cost) for text, mask, cost in zip(texts, masks, costs, strict=True)]

    def _without_repeats(self, text: ScoredText, mask: Mask) -> Mask:
        """Without forced words that follow an equal one, where that was asked for."""
        if not self.drop_consecutive:
            return mask
        kept = np.flatnonzero(mask)
        words = [text.text[start:end] for start, end in text.spans[kept].tolist()]
        repeats = [index for index, pair in enumerate(pairwise(words), 1) if pair[0] == pair[1]]
        mask = mask.copy()
        mask[kept[repeats]] &= ~text.forced[kept[repeats]]
        return mask

    def segmented(self, text: str, spans: Spans) -> tuple[Spans, Mask]:
        """Words with the method's units and kept white space among them, and which of them always stay."""
        places = kept_places(text, (*self.kept_always, DIGIT) if self.keep_digits else self.kept_always)
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
        if _HALF.search(text):
            raise ValueError(
                f"context number {number} holds half a character (a lone surrogate), which no model reads."
            )
