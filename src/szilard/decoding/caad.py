"""CAAD: context-aware adaptive decoding (later RCD and RAD), grounding by stored logits of verified answers.

Nguyen, Gupta, Le 2025, arXiv 2508.02184; reference code manhitv/DecodeHub (`rcd`, MIT).

    q = E(last M tokens as text)            s_i = cos(q, e_i)            R = {i : s_i > tau}
    l_agg = sum_{i in R} (s_i / sum_{j in R} s_j) l_i                    0 when R is empty
    z' = z_t + alpha l_agg                                               the token is chosen from z'

(e_i, l_i) are the entries of a `GroundingSpace`: contexts of verified answers and the same model's logits there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from transformers import LogitsProcessor

from szilard.decoding.grounding import GroundingSpace
from szilard.decoding.grounding_files import read_header
from szilard.decoding.grounding_replay import context_text
from szilard.decoding.method import Method, Shaping
from szilard.decoding.state import DecodingState
from szilard.information import entropy
from szilard.options import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

_ROWS_AT_ONCE = 64  # stored rows widened to float32 at a time


class Shaped(NamedTuple):
    """What retrieval made of one step's logits."""

    logits: torch.Tensor
    """z', [batch, vocab]; rows without neighbours as they were."""
    neighbours: torch.Tensor
    """Entries used, int64 [batch]."""
    best_similarity: torch.Tensor
    """Of the nearest entry, used or not, [batch]; NaN where nothing was looked up."""


@dataclass(frozen=True)
class Caad(Method):
    """Adds the logits that the same model had in similar contexts of verified answers.

    Attributes:
        space: a `GroundingSpace`, the folder of a saved one, or None: an empty space, which changes nothing.
        weight: alpha, what the retrieved logits are multiplied with; 0: plain decoding.
        similarity_threshold: tau, cosine; only entries strictly above it count. From 1 on none does. Below 0 needs
            another weighting than "similarity".
        top_n: keep at most so many of these, the nearest; None: all (of the 2,048 nearest).
        weighting: of the entries: "similarity" (s_i / sum s_j), "mean", or "softmax" (of the similarities).
        combine: "add": z + alpha l; "interpolate_logits": (1 - alpha) z + alpha l; "interpolate_probabilities":
            ln((1 - alpha) softmax(z) + alpha softmax(l)).
        min_probability: with "add": a stored token contributes how far its log-probability is above that of this
            value, and nothing below it; 0: raw logits.
        exclude_identical: leave out entries whose context is exactly the present one (a control for leakage).
    """

    slug: ClassVar[str] = "caad"
    paper: ClassVar[str] = "Nguyen, Gupta, Le 2025, arXiv 2508.02184"

    space: GroundingSpace | str | None = None
    weight: float = 0.5
    similarity_threshold: float = 0.7
    top_n: int | None = None
    weighting: str = "similarity"
    combine: str = "add"
    min_probability: float = 0.0
    exclude_identical: bool = False

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, ("similarity", "mean", "softmax"))
        check_choice("combine", self.combine, ("add", "interpolate_logits", "interpolate_probabilities"))
        check_number("weight", self.weight, low=0, high=1e6 if self.combine == "add" else 1)
        check_number("similarity_threshold", self.similarity_threshold, low=0 if self.weighting == "similarity" else -1)
        check_number("top_n", self.top_n, low=1, integer=True, optional=True)
        check_number("min_probability", self.min_probability, low=0, high=1)
        check_bool("exclude_identical", self.exclude_identical)
        if self.min_probability > 0 and self.combine != "add":
            raise ValueError(f"min_probability acts with combine='add' only, not with {self.combine!r}.")
        if isinstance(self.space, Path):
            object.__setattr__(self, "space", str(self.space))
        if isinstance(self.space, str):
            read_header(self.space)  # refuses a folder that is none
        elif self.space is not None and not isinstance(self.space, GroundingSpace):
            raise TypeError(f"space must be a GroundingSpace, the folder of one, or None, not {self.space!r}.")

    @classmethod
    def neutral(cls) -> Caad:
        """Retrieved logits count nothing: plain decoding."""
        return cls(weight=0.0)

    @classmethod
    def reconstructed_v1(cls, space: GroundingSpace | str | None = None, *, top_n: int = 8) -> Caad:
        """The first version as far as its abstract and reviews tell: the nearest `top_n` entries, whatever their
        similarity, weighted by the softmax of their similarities; stored tokens below 0.01 are discarded."""
        return cls(space, similarity_threshold=-1.0, top_n=top_n, weighting="softmax", min_probability=0.01)

    def decode(self, state: DecodingState) -> None:
        """The plain loop on shaped logits; the run's own processors and filters come after the shaping."""
        space = self.grounding()
        if space is not None:
            space.check(state)
        prompt_lengths = state.prompt_mask.sum(1)
        logits = state.prefill()  # [batch, vocab]
        while True:
            texts: list[str | None] = [None] * state.batch_size
            if space is not None:
                texts = _contexts(space, state.tokens, prompt_lengths + state.generated, state.finished)
            shaped = self.shape(logits, texts, space)
            tokens = state.choose(shaped.logits)
            if space is not None:
                state.cost.count("positions", sum(text is not None for text in texts))
                state.cost.count("with_neighbours", int((shaped.neighbours > 0).sum()))
            if state.trace is not None:
                state.record(
                    tokens,
                    entropy(logits),
                    shaped_entropy=entropy(shaped.logits),
                    neighbours=shaped.neighbours,
                    best_similarity=shaped.best_similarity,
                    flipped=logits.argmax(-1) != shaped.logits.argmax(-1),
                )
            state.commit(tokens)
            if state.done:
                return
            logits = state.feed(tokens)[:, -1]

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a damaged space, or one whose encoder cannot be had."""
        space = self.grounding()
        if space is not None:
            space.check_encoder()

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The space by a hash of its content, and its folder's name if it has one."""
        space = self.grounding()
        if space is None:
            return self.changed_options()
        name = [Path(self.space).name] if isinstance(self.space, str) else []
        return self.changed_options() | {"space": ", ".join([*name, space.fingerprint])}

    def shaping(self, state: DecodingState) -> Shaping | None:
        """The same retrieval at every position of given text."""
        space = self.grounding()
        if space is None:
            return None
        space.check(state)
        opened = space

        def shape(texts: Sequence[Sequence[int]], logits: torch.Tensor) -> torch.Tensor:
            contexts = [context_text(opened.tokenizer, ids, opened.context) for ids in texts]
            shaped = self.shape(logits, contexts, opened)
            state.cost.count("positions", len(contexts))
            state.cost.count("with_neighbours", int((shaped.neighbours > 0).sum()))
            return shaped.logits

        return shape

    def processor(self, tokenizer: Any = None) -> LogitsProcessor:
        """The method as a logits processor: `model.generate(..., logits_processor=[Caad(space).processor()])`.

        It sees ids and scores only: the vocabulary's width is checked, the model's name is not. transformers runs it
        before its sampling filters.

        Args:
            tokenizer: turns ids into text; None: the space's own.
        """
        return CaadProcessor(self, tokenizer)

    def grounding(self) -> GroundingSpace | None:
        """The space if it can act in this setting, opened if it was given as a folder; None otherwise."""
        if self.space is None or self.weight == 0 or self.similarity_threshold >= 1:
            return None
        space = self.space
        if isinstance(space, str):
            space = _opened(space, (Path(space) / "header.json").stat().st_mtime_ns)
        if space.token_ids is not None and (self.min_probability > 0 or self.combine == "interpolate_probabilities"):
            rule = "min_probability" if self.min_probability > 0 else f"combine={self.combine!r}"
            raise ValueError(
                f"{rule} needs probabilities, and this grounding space keeps only the largest logits of each entry: "
                "build it with all of them (without top_k_logits)."
            )
        return space if len(space) else None

    def shape(self, logits: torch.Tensor, texts: Sequence[str | None], space: GroundingSpace | None) -> Shaped:
        """z' for every row.

        Args:
            logits: z_t, [batch, vocab]; left untouched.
            texts: the context of every row; None: leave the row as it is.
            space: what `grounding` opened; None: leave every row as it is.
        """
        neighbours = torch.zeros(len(logits), dtype=torch.long)
        best = torch.full((len(logits),), torch.nan)
        asked = [row for row, text in enumerate(texts) if text is not None]
        if space is None or not asked:
            return Shaped(logits, neighbours.to(logits.device), best.to(logits.device))
        shaped = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        found = space.search(space.encode([texts[row] or "" for row in asked]))  # all rows at once
        for row, similarities, entries in zip(asked, *found, strict=True):
            best[row] = similarities[0]
            similarities, entries = self.select(space, similarities, entries, texts[row] or "")
            neighbours[row] = len(entries)
            if len(entries):
                aggregate = self.aggregate(space, similarities, entries).to(shaped)
                shaped[row] = self.combined(shaped[row], aggregate)
        return Shaped(shaped, neighbours.to(logits.device), best.to(logits.device))

    def select(
        self, space: GroundingSpace, similarities: torch.Tensor, entries: torch.Tensor, text: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """R: of the examined entries [k], nearest first, those that count."""
        keep = similarities > self.similarity_threshold
        if self.exclude_identical:
            keep &= ~torch.isin(entries, torch.tensor(space.entries_of(text), dtype=torch.long))
        similarities, entries = similarities[keep], entries[keep]
        if self.top_n is not None and len(entries) > self.top_n:
            entries, order = entries.sort()  # equally near ones (repeated contexts) in a fixed order, whatever the
            similarities = similarities[order]  # last digit of their similarity is in this batch
            order = similarities.mul(1e6).round().sort(descending=True, stable=True).indices[: self.top_n]
            similarities, entries = similarities[order], entries[order]
        return similarities, entries

    def weights(self, similarities: torch.Tensor) -> torch.Tensor:
        """The shares of the entries, [n] > 0 -> [n], summing to 1."""
        if self.weighting == "mean":
            return torch.full_like(similarities, 1 / len(similarities))
        if self.weighting == "softmax":
            return torch.softmax(similarities, dim=0)
        return similarities / similarities.sum()

    def aggregate(self, space: GroundingSpace, similarities: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        """l_agg: the weighted sum of the stored rows of entries [n], n >= 1 -> [vocab]."""
        weights = self.weights(similarities)
        total: torch.Tensor | None = None
        for start in range(0, len(entries), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            rows = space.rows(entries[part])  # [part, vocab]
            if self.min_probability > 0:
                # Paper (v1, reconstructed): tokens below 0.01 are discarded; of raw logits, whose zero means nothing,
                # the only reading that a constant added to a row does not change.
                floor = torch.tensor(self.min_probability).log().to(rows)
                rows = (torch.log_softmax(rows, dim=-1) - floor).clamp(min=0)
            added = weights[part].to(rows) @ rows
            total = added if total is None else total + added
        assert total is not None
        return total

    def combined(self, logits: torch.Tensor, aggregate: torch.Tensor) -> torch.Tensor:
        """z' of one row with neighbours: z [vocab], l_agg [vocab] -> [vocab].

        Paper: with nothing retrieved, "interpolate_logits" scales z by 1 - alpha; here such rows are left alone,
        because a lookup that finds nothing should not change how tokens are drawn.
        """
        if self.combine == "interpolate_probabilities":
            own, stored = torch.softmax(logits, dim=-1), torch.softmax(aggregate, dim=-1)
            shaped = torch.log((1 - self.weight) * own + self.weight * stored)
        elif self.combine == "interpolate_logits" and self.weight == 1:
            shaped = aggregate
        elif self.combine == "interpolate_logits":
            shaped = (1 - self.weight) * logits + self.weight * aggregate
        else:
            shaped = logits + self.weight * aggregate
        possible = bool((shaped > -torch.inf).any()) or not bool((logits > -torch.inf).any())
        return shaped if possible else logits  # stored rows that rule out every token between them say nothing


class CaadProcessor(LogitsProcessor):
    """`Caad` for transformers' own `generate`; see `Caad.processor`."""

    def __init__(self, method: Caad, tokenizer: Any = None) -> None:
        self.method = method
        self.space = method.grounding()
        self.tokenizer = tokenizer
        if self.space is not None:
            self.space.check_encoder()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Shape the scores [batch, vocab] by the texts of input_ids [batch, length] (padding in front is cut)."""
        if self.space is None:
            return scores
        self.space.check_width(scores.shape[-1])
        tokenizer = self.tokenizer if self.tokenizer is not None else self.space.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        texts: list[str | None] = []
        for ids in input_ids.tolist():
            start = next((at for at, token in enumerate(ids) if token != pad), len(ids))
            texts.append(context_text(tokenizer, ids[start:], self.space.context))
        return self.method.shape(scores, texts, self.space).logits  # type: ignore[return-value]


def _contexts(
    space: GroundingSpace, tokens: torch.Tensor, lengths: torch.Tensor, finished: torch.Tensor
) -> list[str | None]:
    """The context of every row from right-aligned ids [batch, width], of which the last `lengths` [batch] are real."""
    texts: list[str | None] = []
    if space.context is not None:
        tokens = tokens[:, -space.context :]
    for ids, length, over in zip(tokens.tolist(), lengths.tolist(), finished.tolist(), strict=True):
        texts.append(None if over else context_text(space.tokenizer, ids[max(0, len(ids) - length) :], space.context))
    return texts


@lru_cache(maxsize=4)
def _opened(folder: str, written: int) -> GroundingSpace:
    """The space in a folder, opened once for each time it was written."""
    return GroundingSpace.load(folder)
