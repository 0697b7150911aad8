"""LLMLingua, its token level: drop the tokens that a language model sees coming after what is left of the text.

Jiang, Wu, Lin, Yang, Qiu 2023, "LLMLingua: Compressing Prompts for Accelerated Inference of Large Language Models",
EMNLP, arXiv 2310.05736, section 4.2 and algorithm 2. Reference code: microsoft/LLMLingua (MIT).

The text is read in segments s_1 .. s_m. Tokens of a segment are scored behind what was kept of the ones before,

    I(s_{j,i}) = - ln p(s_{j,i} | s_{j,<i}, kept of s_1 .. s_{j-1})

and those above the threshold of the segment, which leaves the wanted share of it, are kept. So unlike Selective Context
it does not count on words that the reader will not see. A segment is read once; then the model's cache forgets it and
reads what was kept. Of a compressed text that is longer than a window the model sees the end.

# Paper: before this, whole demonstrations of a prompt are dropped by their perplexity, and instruction and question are
# kept longer; here: a context is one text, and whoever has several gives a budget for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from szilard.compression.dropping import Limit, ScoredText, check_contexts
from szilard.compression.method import Budget, check_budget, tokens_of_budget
from szilard.compression.selection import Mask
from szilard.compression.selective_context import units
from szilard.compression.self_information import ROWS, InformationDropping, Reading, add_cost, encoded, per_unit
from szilard.compression.text import CompressedText
from szilard.compression.words import Spans, owners
from szilard.options import check_choice, check_number

if TYPE_CHECKING:
    from szilard.compression.token_counter import TokenCounter
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class SegmentedText(ScoredText):
    """A text whose words compete within their segment.

    Attributes:
        places_in_segment: float [words], 1 for the best word of a segment, towards 0 for the worst: the share of the
            segment's tokens that is not better.
    """

    places_in_segment: NDArray[Any] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class LlmLingua(InformationDropping):
    """Keeps what surprises a language model, segment by segment, behind what it has kept so far.

    Attributes:
        segment: tokens of a segment.
        unit: what is kept or dropped as a whole: "token" (of the scoring model; the paper's) or "word" (ours).
    """

    slug: ClassVar[str] = "llmlingua"
    paper: ClassVar[str] = "Jiang et al. 2023, EMNLP, arXiv 2310.05736"

    segment: int = 200
    unit: str = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("segment", self.segment, low=2, integer=True)
        check_choice("unit", self.unit, ("token", "word"))
        if self.segment > self.window // 2:
            raise ValueError(
                f"segment={self.segment} must be at most half of window={self.window}, so that there is room for what "
                "was kept before."
            )
        if self.selection in ("threshold", "corpus"):
            raise ValueError(
                f"selection={self.selection!r} does not go with llmlingua, whose thresholds are of segments: take "
                "'budget' or 'percentile'."
            )

    def compress(
        self, contexts: Sequence[str], budget: Budget = None, *, engine: Engine | None = None
    ) -> list[CompressedText]:
        """As `WordDropping.compress`. With a share as the budget, contexts are read together.

        Raises:
            ValueError: as there; a scorer whose cache cannot forget.
        """
        check_contexts(contexts)
        check_budget(budget)
        if budget is None or isinstance(budget, float):
            method = self if budget is None else dataclasses.replace(self, rate=budget)
            return super(LlmLingua, method).compress(contexts, engine=engine)
        counter = self.counter(engine)
        found = []
        for text in contexts:  # what is kept of a segment depends on the share, which differs
            original = counter.count(text)
            method = dataclasses.replace(self, rate=tokens_of_budget(budget, original) / max(original, 1))
            found += super(LlmLingua, method).compress([text], budget, engine=engine)
        return found

    def informed(self, contexts: Sequence[str], model: Engine) -> list[ScoredText]:
        order = sorted(range(len(contexts)), key=lambda index: len(contexts[index]))
        found: dict[int, ScoredText] = {}
        with torch.inference_mode():
            for start in range(0, len(order), ROWS):
                block = order[start : start + ROWS]
                found |= zip(block, self._read_together([contexts[index] for index in block], model), strict=True)
        return [found[index] for index in range(len(contexts))]

    def _read_together(self, texts: Sequence[str], model: Engine) -> list[ScoredText]:
        rows = [_Row(self, text, model) for text in texts]
        limit = model.context_window
        window = self.window if limit is None else min(self.window, limit - 1)
        segment = min(self.segment, window // 2)
        cost = {"forwards": 0.0, "tokens": 0.0}
        reading: Reading | None = None
        try:
            while any(row.read < len(row.ids) for row in rows):
                # 1. Room for a segment: where there is none, begin anew with the end of what was kept.
                if reading is None or int(reading.state.cached.max()) + segment > window:
                    if reading is not None:
                        add_cost(cost, reading.cost)
                        reading.__exit__()
                    tail = max(window - 2 * segment, 1)
                    before = [row.kept[-tail:] for row in rows]
                    reading = Reading(model, before, window - max(1, *map(len, before)))
                    if not reading.state.can_rewind:
                        raise ValueError(f"llmlingua takes back what it read, which {model.name} cannot: take another.")
                # 2. Score it behind what was kept.
                lengths, following = reading.state.cached.clone(), reading.next.clone()
                nats = reading.read([row.ids[row.read : row.read + segment] for row in rows])
                # 3. Choose, and put what was chosen in its place.
                chosen = [row.choose(values, self.rate) for row, values in zip(rows, nats, strict=True)]
                reading.rewind(lengths, following)
                if any(chosen) and any(row.read < len(row.ids) for row in rows):
                    reading.read(chosen)
        finally:
            if reading is not None:
                add_cost(cost, reading.cost)
                reading.__exit__()
        return [row.scored({name: amount / len(rows) for name, amount in cost.items()}) for row in rows]

    def _decide(
        self, texts: Sequence[ScoredText], limits: Sequence[Limit], counter: TokenCounter
    ) -> list[tuple[Mask, NDArray[np.int64]]]:
        """Words compete by their places in their segments, so that every segment keeps about the same share."""
        placed = [
            dataclasses.replace(text, scores=text.places_in_segment) if isinstance(text, SegmentedText) else text
            for text in texts
        ]
        return super()._decide(placed, limits, counter)


class _Row:
    """One text on its way: its tokens, what was read, and what was kept."""

    def __init__(self, method: LlmLingua, text: str, model: Engine) -> None:
        self.text = text
        self.ids, places = encoded(model, text)
        self.spans, self.forced = method.segmented(text, units(text, places, method.unit))
        self.places: Spans = places
        self.whose = owners(self.spans, places)  # [tokens]
        self.read = 0
        self.kept: list[int] = []
        self.nats = np.zeros(len(self.ids), dtype=np.float32)
        self.in_segment = np.zeros(len(self.spans))

    def choose(self, nats: NDArray[Any], share: float) -> list[int]:
        """The tokens of a segment that stay; it counts as read.

        A word that a segment's end cuts is judged by its part in each; what its last part says, counts in the end.
        """
        if not len(nats):
            return []
        start, self.read = self.read, self.read + len(nats)
        self.nats[start : self.read] = nats
        words, where = np.unique(self.whose[start : self.read], return_inverse=True)
        tokens = np.bincount(where)
        scores = np.bincount(where, weights=nats) / tokens
        order = np.argsort(-np.where(self.forced[words], np.inf, scores), kind="stable")
        better = np.empty(len(words))
        better[order] = np.concatenate([[0], np.cumsum(tokens[order])[:-1]])
        self.in_segment[words] = 1 - better / len(nats)
        stays = (better + tokens <= share * len(nats) + 1e-9) | self.forced[words]
        chosen = [self.ids[start + index] for index in np.flatnonzero(stays[where])]
        self.kept += chosen
        return chosen

    def scored(self, cost: dict[str, float]) -> SegmentedText:
        """With the mean self-information of each word's tokens."""
        scores = per_unit(self.nats, self.spans, self.places, mean=True)
        return SegmentedText(self.text, self.spans, scores, self.forced, cost, self.in_segment)
