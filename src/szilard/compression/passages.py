"""What soft compressors learn from: contexts with the text that follows, and contexts with questions and answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from szilard.records import read_objects
from szilard.training.corpus import Example
from szilard.training.hidden_states import Stretches, Tokens

Ids = list[torch.Tensor]


class Passages(Stretches):
    """Stretches of a corpus, each in two parts: a context and what follows it in the text.

    Each is {"context" int64 [context], "target" int64 [up to target]}; texts are cut one stretch behind the other.

    Args:
        tokens: the corpus.
        context: tokens of a context; shorter texts give a shorter one, of at least `shortest`.
        target: tokens that follow, at most.
        shortest: of either part.
    """

    def __init__(self, tokens: Tokens, context: int, target: int, *, shortest: int = 4) -> None:
        self.ids = tokens.ids
        self.spans: list[tuple[int, int, int]] = []  # context's first, target's first, target's end
        self.texts = []
        for text, (start, end) in enumerate(itertools.pairwise(tokens.offsets.tolist())):
            for first in range(start, end, context + target):
                last = min(first + context + target, end)
                middle = min(first + context, last - min(target, (last - first) // 2))
                if middle - first >= shortest and last - middle >= shortest:
                    self.spans.append((first, middle, last))
                    self.texts.append(text)

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        first, middle, last = self.spans[index]
        ids = torch.from_numpy(self.ids[first:last].astype(np.int64))
        return {"context": ids[: middle - first], "target": ids[middle - first :]}

    @staticmethod
    def collate(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, Ids]:
        """{"contexts", "targets"}: a list of int64 [n] each."""
        return {"contexts": [item["context"] for item in items], "targets": [item["target"] for item in items]}


def check_fits(engine: Any, context: int, target: int) -> None:
    """Refuse stretches that the decoder cannot read at once, as it does to measure them.

    Raises:
        ValueError: in a sentence.
    """
    longest = getattr(engine, "context_window", None)
    if longest and context + target > longest:
        raise ValueError(
            f"contexts of {context} tokens and {target} behind them do not fit into the {longest} tokens that "
            f"{engine.name} reads: lower them."
        )


@dataclass(frozen=True)
class Question:
    """A question about contexts, and its answer."""

    contexts: tuple[str, ...]
    prompt: str
    answer: str


def as_examples(questions: Sequence[Question], tokenizer: Any) -> list[Example]:
    """Each question with its contexts and answer in a decoder's tokens: what a training on them is known by."""
    found = []
    for one in questions:
        ahead = tokenizer.encode("\n".join([*one.contexts, one.prompt, ""]))
        answer = tokenizer.encode(one.answer, add_special_tokens=False)
        found.append(Example((*ahead, *answer), (*[False] * len(ahead), *[True] * len(answer))))
    return found


def read_questions(file: Path, *, limit: int | None = None) -> list[Question]:
    """The records {"context": text or texts, "prompt": text, "answer": text} of a .jsonl, .json, .csv or .parquet file.

    Raises:
        ValueError: no such file, no record, or one that lacks a part.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    found = []
    for number, record in enumerate(itertools.islice(read_objects(file), limit), start=1):
        contexts: Any = record.get("context")
        contexts = [contexts] if isinstance(contexts, str) else contexts
        texts = [*(contexts if isinstance(contexts, list) else []), record.get("prompt"), record.get("answer")]
        if len(texts) < 3 or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(
                f'{str(file)!r}, record {number}, needs a "context" (text, or a list of texts), a "prompt" and an '
                '"answer".'
            )
        found.append(Question(tuple(texts[:-2]), texts[-2], texts[-1]))
    if not found:
        raise ValueError(f"{str(file)!r} holds no question.")
    return found
