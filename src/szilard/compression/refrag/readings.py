"""What the stages learn from: contexts alone, contexts with what follows, questions about contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from szilard.compression.passages import Passages, Question
from szilard.compression.refrag.chunks import leading_specials
from szilard.engines.engine import Engine
from szilard.engines.prompt_parts import around_context
from szilard.training.hidden_states import Stretches, Tokens, Windows
from szilard.training.loop import NOTHING

Reading = dict[str, Any]


class Readings(Stretches):
    """One reading each: {"head" ids, "contexts" a list of ids, "tail" ids, "target" ids}, int64 of one dimension.

    The decoder reads head, contexts (a blank line between them) and tail, and is to go on with the target.
    """

    def __init__(self, readings: Sequence[Reading], texts: Sequence[int]) -> None:
        if not readings:
            raise ValueError(NOTHING)
        self.readings, self.texts = readings, list(texts)

    def __len__(self) -> int:
        return len(self.readings)

    def __getitem__(self, index: int) -> Reading:
        return self.readings[index]

    @staticmethod
    def collate(items: Sequence[Reading]) -> dict[str, Any]:
        """{"contexts", "heads", "tails", "targets"}, lists over the batch."""
        return {
            "contexts": [item["contexts"] for item in items],
            "heads": [item["head"] for item in items],
            "tails": [item["tail"] for item in items],
            "targets": [item["target"] for item in items],
        }


def reconstructions(tokens: Tokens, context: int, tokenizer: Any) -> Readings:
    """Stretches of a corpus that are to be written again."""
    windows = Windows(tokens, context, shortest=4)
    pairs = [(windows[index]["ids"], None) for index in range(len(windows))]
    return _of_text(pairs, windows.texts, tokenizer)


def continuations(tokens: Tokens, context: int, target: int, tokenizer: Any) -> Readings:
    """Stretches of a corpus with what follows them."""
    passages = Passages(tokens, context, target)
    pairs = [(item["context"], item["target"]) for item in (passages[index] for index in range(len(passages)))]
    return _of_text(pairs, passages.texts, tokenizer)


def answers(questions: Sequence[Question], engine: Engine, context: int) -> Readings:
    """Questions about contexts, with answers up to the end token; contexts beyond so many tokens are cut."""
    tokenizer, readings = engine.tokenizer, []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for question in questions:
        left, contexts = context, []
        for text in question.contexts:
            ids = tokenizer.encode(text, add_special_tokens=False)[:left]
            left -= len(ids)
            if ids:
                contexts.append(torch.tensor(ids))
        head, tail = around_context(engine, question.prompt)
        answer = tokenizer.encode(question.answer, add_special_tokens=False) + end
        if contexts and answer:
            parts = (torch.tensor(ids, dtype=torch.int64) for ids in (head, tail, answer))
            readings.append(dict(zip(("head", "tail", "target"), parts, strict=True)) | {"contexts": contexts})
    return Readings(readings, range(len(readings)))


def _of_text(pairs: Sequence[tuple[torch.Tensor, torch.Tensor | None]], texts: list[int], tokenizer: Any) -> Readings:
    readings, whose = [], []
    nothing = torch.zeros(0, dtype=torch.int64)
    for (ids, target), text in zip(pairs, texts, strict=True):
        first = leading_specials(tokenizer, ids)  # they stay tokens
        context = ids[first:]
        if len(context) < 2:
            continue
        wanted = context if target is None else target
        readings.append({"head": ids[:first], "contexts": [context], "tail": nothing, "target": wanted})
        whose.append(text)
    return Readings(readings, whose)
