"""Verified answers run through a model: its logits before every token, and the text that stood there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass
class Replayed:
    """What a replay found beside the logits; lists of as many entries.

    Attributes:
        contexts: the text of every key.
        next_ids: the answer's token there.
        question_ids: its question's number.
        steps: its position in the answer, 1-based.
        model: name of the model.
    """

    contexts: list[str] = field(default_factory=list)
    next_ids: list[int] = field(default_factory=list)
    question_ids: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    model: str = ""


def replay(
    engine: Engine,
    questions: Sequence[tuple[str, Sequence[str]]],
    answers: Sequence[Sequence[list[int]]],
    context: int | None,
    batch_size: int,
    logits: torch.Tensor,
    token_ids: torch.Tensor | None,
    progress: Callable[[int, int], None] | None = None,
) -> Replayed:
    """Run every question once, and its answers on forks of that.

    Args:
        engine: the model.
        questions: (question, answers as text).
        answers: their answers as ids, none of them empty.
        context: tokens of a key; None: the whole text so far.
        batch_size: answers of a question at once.
        logits: [entries, vocab or k], filled.
        token_ids: [entries, k], filled; None: all logits are kept.
        progress: called with (questions done, questions in all).
    """
    found = Replayed()
    for number, ((question, _), own) in enumerate(zip(questions, answers, strict=True)):
        if not own:
            continue
        state = engine.state(question, max_new_tokens=max(map(len, own)))
        found.model = state.model_name
        try:
            first = state.prefill()  # [1, vocab]
            prompt = state.tokens[0].tolist()
            for start in range(0, len(own), batch_size):
                part = own[start : start + batch_size]
                twin = state.fork(len(part))
                fed = torch.zeros(len(part), max(map(len, part)) - 1, dtype=torch.long, device=state.device)
                for row, ids in enumerate(part):  # what is padded on the right comes after all that is read
                    fed[row, : len(ids) - 1] = torch.tensor(ids[:-1])
                later = twin.feed(fed) if fed.shape[1] else first.new_empty(len(part), 0, first.shape[-1])
                twin.close()
                for row, ids in enumerate(part):
                    rows = torch.cat([first, later[row, : len(ids) - 1]])  # [len(ids), vocab]
                    into = slice(len(found.next_ids), len(found.next_ids) + len(ids))
                    _store(rows, logits[into], None if token_ids is None else token_ids[into])
                    texts = [context_text(engine.tokenizer, prompt + ids[:s], context) for s in range(len(ids))]
                    found.contexts += texts
                    found.next_ids += ids
                    found.question_ids += [number] * len(ids)
                    found.steps += range(1, len(ids) + 1)
        finally:
            state.close()
        if progress is not None:
            progress(number + 1, len(questions))
    return found


def context_text(tokenizer: Any, tokens: Sequence[int], context: int | None) -> str:
    """The key of a position as text: the last `context` of its (unpadded) ids, special tokens skipped.

    A cut multi-byte character gives replacement characters, the same ones whenever the ids are the same.
    """
    ids = list(tokens) if context is None else list(tokens[-context:])
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _store(rows: torch.Tensor, into: torch.Tensor, ids: torch.Tensor | None) -> None:
    """Write logits [n, vocab] into the storage [n, vocab], or the largest k of each row and their ids.

    Every row is shifted so that its largest logit is 0, which no rule here can notice: half precision is finest
    around 0, and so around the tokens that matter. -inf stays.
    """
    rows = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
    rows = rows - rows.amax(-1, keepdim=True)
    if ids is not None:
        rows, kept = rows.topk(ids.shape[1], dim=-1)
        ids.copy_(kept)
    lowest = torch.finfo(into.dtype).min
    into.copy_(torch.where(rows == -torch.inf, rows, rows.clamp(min=lowest)))
