"""What a compressor is asked, and under what a scorer reads its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from szilard.engines.prompts import Prompt
from szilard.options import check_number

_NAMES = re.compile(r"\{(context|query|sentences)\}")


@dataclass(frozen=True)
class CondensePrompt:
    """The request to condense a context.

    Paper: a summary relevant to the query of 3, 6 or 9 sentences, in words that are not published; here: words of our
    own, with the context first, because a scorer then reads it once for all queries.

    Attributes:
        plain: the user's turn without a query; `{context}` and `{sentences}` are filled in.
        with_query: the user's turn with one, `{query}`.
        system: the system's turn, or None.
        raw_ending: follows in place of the chat template's answer header for models that have no chat template.
    """

    plain: str = (
        "Text:\n\n{context}\n\nSummarise this text in at most {sentences} sentences. Keep names, numbers and dates. "
        "Write nothing but the summary."
    )
    with_query: str = (
        "Text:\n\n{context}\n\nSummarise in at most {sentences} sentences what this text says about the following "
        "question. Keep the names, numbers and dates that it asks for. Write nothing but the summary.\n\n"
        "Question: {query}"
    )
    system: str | None = None
    raw_ending: str = "\n\nSummary:"

    def __post_init__(self) -> None:
        for name, needed in (("plain", "{context}"), ("with_query", "{context}"), ("with_query", "{query}")):
            if needed not in getattr(self, name):
                raise ValueError(f"{name} must hold {needed}, which is filled in.")

    def fill(self, context: str, query: str | None, sentences: int, *, chat: bool) -> Prompt:
        """The prompt for one context: a chat, or plain text for a model without a chat template."""
        check_number("sentences", sentences, low=1, integer=True)
        values = {"context": context, "query": query or "", "sentences": str(sentences)}
        template = self.plain if query is None else self.with_query
        text = _NAMES.sub(lambda match: values[match[1]], template)  # one pass: what is filled in is not searched
        if not chat:
            return (f"{self.system}\n\n" if self.system else "") + text + self.raw_ending
        turns: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        return [*turns, {"role": "user", "content": text}]
