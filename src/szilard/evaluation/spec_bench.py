"""Spec-Bench: prompts of six kinds on which speculative decoding is compared.

Xia et al. 2024, "Unlocking Efficiency in Large Language Model Inference: A Comprehensive Survey of Speculative
Decoding", arXiv 2401.07851; prompts hemingkx/Spec-Bench (Apache-2.0). Measured are counts and times, which stand in
every result; the score says only that something was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from szilard.evaluation.tasks import Item, TextTask

# Its conversations are MT-Bench's eight categories.
_CONVERSATION = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
CATEGORIES = ("conversation", "translation", "summarization", "qa", "math_reasoning", "rag")


@dataclass(frozen=True)
class SpecBench(TextTask):
    """The first turns of the prompts. Items are called category/number.

    Attributes:
        category: only this one of the six; None: all.
    """

    slug: ClassVar[str] = "spec-bench"
    paper: ClassVar[str] = "Xia et al. 2024, arXiv 2401.07851"
    metric: ClassVar[str] = "share of prompts with an answer"
    max_new_tokens: ClassVar[int] = 256
    hub: ClassVar[tuple[str, str]] = ("hemingkx/Spec-Bench", "question.jsonl")

    category: str | None = None

    def __post_init__(self) -> None:
        if self.category is not None and self.category not in CATEGORIES:
            raise ValueError(f"category must be one of {', '.join(CATEGORIES)}, not {self.category!r}.")

    def item(self, record: Mapping[str, Any], number: int) -> Item | None:
        kind = record["category"]
        kind = "conversation" if kind in _CONVERSATION else kind
        if kind not in CATEGORIES:
            raise ValueError(f"its category {record['category']!r} is none of Spec-Bench's.")
        turns = record["turns"]
        if not (isinstance(turns, list) and turns and isinstance(turns[0], str) and turns[0].strip()):
            raise ValueError("it has no first turn.")
        if self.category is not None and kind != self.category:
            return None
        return Item(f"{kind}/{record['question_id']}", turns[0], None)

    def score(self, item: Item, text: str) -> dict[str, float]:
        return {"score": float(bool(text.strip()))}
