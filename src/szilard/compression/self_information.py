"""How much does a text tell a language model? Self-information of every token, nats.

    I(x_t) = - ln p(x_t | x_0, ..., x_{t-1})

The measure of Selective Context and LLMLingua: what a model sees coming can be left out. On any engine that reads from
left to right. The first token follows the model's beginning-of-text token (or its end-of-text one). A text that does
not fit into a window is read in windows that overlap, so that every token but the first ones has something before it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from szilard.compression.dropping import ScoredText, WordDropping
from szilard.compression.method import Budget
from szilard.compression.text import CompressedText
from szilard.compression.words import Spans, as_spans, owners
from szilard.decoding.cost import Cost
from szilard.engines.engine import Engine
from szilard.engines.pair import second_engine
from szilard.options import check_number

WINDOW, OVERLAP = 1024, 256  # tokens
ROWS = 8  # texts, or windows, that are read together
_POSITIONS_AT_ONCE = 512  # logits of so many positions are held at a time


@dataclass(frozen=True)
class InformationDropping(WordDropping):
    """Drops what a language model sees coming. Subclasses say of what, and after what.

    Attributes:
        scorer: the language model that scores: an engine, a transformers model, or a name for `szilard.load`; None: the
            engine that the context is for.
        window: tokens that it reads at once.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    scorer: str | object | None = None
    window: int = WINDOW

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("window", self.window, low=16, integer=True)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse to run without a language model, unless everything stays."""
        super().check(engine)
        if self.rate < 1:
            self.model(engine)

    def model(self, engine: Engine | None) -> Engine:
        """The model that scores.

        Raises:
            ValueError: there is none, or one that does not read from left to right.
        """
        if self.scorer is not None:
            engine = second_engine(str(self.scorer) if isinstance(self.scorer, Path) else self.scorer, "auto")
        if engine is None:
            raise ValueError(
                f"{self.slug} asks a language model what it sees coming: give engine=szilard.load(...), or the option "
                "scorer."
            )
        if "logits" not in engine.provides:
            raise ValueError(f"{self.slug} needs a model that reads from left to right, which {engine.name} does not.")
        return engine

    def compress(
        self, contexts: Sequence[str], budget: Budget = None, *, engine: Engine | None = None
    ) -> list[CompressedText]:
        if budget is not None and budget != 1.0:
            self.model(engine)
        return super().compress(contexts, budget, engine=engine)

    def scored(self, contexts: Sequence[str], engine: Engine | None) -> list[ScoredText]:
        if engine is None and self.scorer is None:  # everything stays, and no model is needed
            segmented = [self.regex_segmented(text) for text in contexts]
            return [
                ScoredText(text, spans, np.zeros(len(spans)), forced)
                for text, (spans, forced) in zip(contexts, segmented, strict=True)
            ]
        return self.informed(contexts, self.model(engine)) if contexts else []

    @abstractmethod
    def informed(self, contexts: Sequence[str], model: Engine) -> list[ScoredText]:
        """Units of each context and their scores by a language model."""


class Reading:
    """Rows that are read on and on, beside each other.

    Args:
        engine: the model.
        before: ids that each row begins with; where a row has none, `start_token`.
        room: tokens per row that will be read.
    """

    def __init__(self, engine: Engine, before: Sequence[Sequence[int]], room: int) -> None:
        prompts = [torch.tensor(list(ids) or [start_token(engine)]) for ids in before]
        self.state = engine.state(prompts, max_new_tokens=room, trace=False)
        self.next = self.state.prefill().float()  # [rows, vocab], of the token that comes next

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.state.cost.stop()
        self.state.close()

    @property
    def cost(self) -> Cost:
        """What has been read."""
        return self.state.cost

    def read(self, rows: Sequence[Sequence[int]]) -> list[NDArray[Any]]:
        """Self-information of each row's new tokens, float [tokens]; nothing else is left in the cache."""
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max())
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        tokens = tokens.to(self.state.device)
        before = self.state.cached.clone()
        nats = torch.zeros(len(rows), width)
        at_once = max(1, _POSITIONS_AT_ONCE // len(rows))
        for start in range(0, width, at_once):
            piece = tokens[:, start : start + at_once]
            logits = self.state.feed(piece, rewindable=self.state.can_rewind).float()  # [rows, piece, vocab]
            ahead = torch.cat([self.next[:, None], logits[:, :-1]], dim=1)
            told = torch.logsumexp(ahead, -1) - ahead.gather(-1, piece[..., None])[..., 0]
            nats[:, start : start + at_once] = told.cpu()
            last = (lengths - 1 - start).to(logits.device)
            ended = (last >= 0) & (last < piece.shape[1])  # this piece holds the row's last token
            self.next[ended] = logits[ended, last[ended]]
        if bool((lengths < width).any()) and self.state.can_rewind:
            self.state.rewind(before + lengths.to(before.device))
        return [row[:length].numpy() for row, length in zip(nats, lengths.tolist(), strict=True)]

    def rewind(self, lengths: torch.Tensor, following: torch.Tensor) -> None:
        """Forget what was read behind `lengths`; `following`: the logits that were next there, [rows, vocab]."""
        self.state.rewind(lengths)
        self.next = following


def start_token(engine: Engine) -> int:
    """What a text follows that follows nothing.

    Raises:
        ValueError: a tokenizer with neither a beginning nor an end of text.
    """
    for token in (engine.tokenizer.bos_token_id, engine.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ValueError(f"the tokenizer of {engine.name} has neither a beginning nor an end of text: take another scorer.")


def self_information(
    engine: Engine, rows: Sequence[Sequence[int]], *, window: int = WINDOW, overlap: int = OVERLAP
) -> tuple[list[NDArray[Any]], dict[str, float]]:
    """Of every token of every row.

    Args:
        engine: the model.
        rows: token ids, without special tokens.
        window: tokens that are read together; the model's context window, where that is smaller.
        overlap: tokens of a window that were in the one before; they are read again, and keep the first reading.

    Returns:
        Nats, float32 [tokens] per row; and the cost, "forwards" and "tokens" (padding included), over all rows.
    """
    limit = engine.context_window
    window = window if limit is None else min(window, limit - 2)
    overlap = min(overlap, window // 2)
    step = window - overlap
    pieces = [  # row, first token, tokens
        (index, start, min(window, len(row) - start))
        for index, row in enumerate(rows)
        for start in range(0, max(len(row) - overlap, 1), step)
        if len(row)
    ]
    pieces.sort(key=lambda piece: piece[2])
    found = [np.zeros(len(row), dtype=np.float32) for row in rows]
    cost = {"forwards": 0.0, "tokens": 0.0}
    with torch.inference_mode():
        for at in range(0, len(pieces), ROWS):
            block = pieces[at : at + ROWS]
            with Reading(engine, [[]] * len(block), max(length for *_, length in block)) as reading:
                read = reading.read([rows[index][start : start + length] for index, start, length in block])
                add_cost(cost, reading.cost)
            for (index, start, length), nats in zip(block, read, strict=True):
                known = overlap if start else 0
                found[index][start + known : start + length] = nats[known:]
    return found, cost


def add_cost(total: dict[str, float], cost: Cost) -> None:
    """Count a reading in."""
    total["forwards"] += sum(cost.forward_passes.values())
    total["tokens"] += sum(cost.tokens.values())


def encoded(engine: Engine, text: str) -> tuple[list[int], Spans]:
    """Token ids of a text and their characters, int64 [tokens, 2].

    Raises:
        ValueError: a tokenizer that does not tell where tokens stand.
    """
    if not getattr(engine.tokenizer, "is_fast", False):
        raise ValueError(f"the tokenizer of {engine.name} does not tell where tokens stand: take another scorer.")
    read = engine.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(read["input_ids"]), as_spans(read["offset_mapping"])


def per_unit(values: NDArray[Any], spans: Spans, places: Spans, *, mean: bool) -> NDArray[np.float64]:
    """Values of tokens as sums, or means, over the units that they belong to, float64 [units]."""
    whose = owners(spans, places)
    sums = np.bincount(whose, weights=values, minlength=len(spans)).astype(np.float64)
    return sums / np.maximum(np.bincount(whose, minlength=len(spans)), 1) if mean else sums
