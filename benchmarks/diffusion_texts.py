"""Texts that are determined in part: tiny-diffusion's stories, records and sums, and how far two answers agree."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from diffusion_run import Filled

from szilard_zoo.written_tasks import WRITTEN, fits

TASKS = ("story", "record", "sum", "chain")
COLUMNS, BLOCK = 64, 32


@dataclass(frozen=True)
class Texts:
    """Questions of one task.

    Attributes:
        task: its name.
        asked: prompts as text.
        prompts: token ids.
    """

    task: str
    asked: Sequence[str]
    prompts: Sequence[Sequence[int]]

    @classmethod
    def drawn(cls, task: str, count: int, tokenizer: Any) -> Texts:
        """The first so many questions of a task; every task has a stream of its own."""
        rng = random.Random(f"texts {task}")
        asked = [WRITTEN[task](rng)[0] for _ in range(count)]
        return cls(task, asked, [tokenizer.encode(prompt, add_special_tokens=False) for prompt in asked])

    def accuracy(self, found: Sequence[Filled], tokenizer: Any) -> float:
        """Share of answers that are among the right ones."""
        texts = [tokenizer.decode(answer.tokens, skip_special_tokens=True) for answer in found]
        return fmean(fits(self.task, prompt, text) for prompt, text in zip(self.asked, texts, strict=True))


def agreement(found: Sequence[Filled], reference: Sequence[Filled]) -> dict[str, float]:
    """How far answers are the reference's: as whole texts, and token by token.

    Returns:
        "same": share of equal texts. "agreement": share of columns up to the later of the two ends that hold the same
        token, mean over texts.
    """
    shares = []
    for mine, theirs in zip(found, reference, strict=True):
        longest = max(len(mine.tokens), len(theirs.tokens))
        shares.append(sum(a == b for a, b in zip(mine.tokens, theirs.tokens, strict=False)) / longest)
    same = fmean(mine.tokens == theirs.tokens for mine, theirs in zip(found, reference, strict=True))
    return {"same": round(same, 4), "agreement": round(fmean(shares), 4)}
