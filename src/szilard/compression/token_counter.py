"""Whose tokens a budget counts: an engine's, a tokenizer's, a function's, or words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from szilard.compression.words import Spans, as_spans, owners, regex_words, solid_places

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

CountTokens = Callable[[str], int]
_COUNTED = 64


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens of texts and of their words.

    Attributes:
        name: for results.
        tokenizer: a Hugging Face tokenizer, or None.
        function: tokens of a text, or None. With neither, words are counted.
        read: places of the tokens of texts; None: the tokenizer is asked.
        known: places of the tokens of texts that were counted with `count_all`.
        counted: tokens of texts that were counted last.
    """

    name: str
    tokenizer: Any = None
    function: CountTokens | None = None
    read: Callable[[Sequence[str]], list[Spans]] | None = None
    known: dict[str, Spans] = field(default_factory=dict, compare=False, repr=False)
    counted: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls, engine: Engine | None, function: CountTokens | None, tokenizer: Any = None, name: str = ""
    ) -> TokenCounter:
        """The function where one is given, else the engine's tokenizer, else the method's own, else words."""
        if function is not None:
            return cls(getattr(function, "__name__", type(function).__name__), function=function)
        if engine is not None:
            return cls(engine.name, engine.tokenizer)
        return cls(name, tokenizer) if tokenizer is not None else cls("words")

    def count(self, text: str) -> int:
        """Tokens of a text, without special ones."""
        if (known := self.counted.get(text)) is not None:
            return known
        if self.function is not None:
            found = int(self.function(text))
        elif self.tokenizer is not None:
            found = len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        else:
            found = len(regex_words(text))
        if len(self.counted) >= _COUNTED:
            self.counted.clear()
        self.counted[text] = found
        return found

    def count_all(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, whose words can then be counted without reading it again."""
        if self.function is not None or self.tokenizer is None or not self.tokenizer.is_fast or not texts:
            return [self.count(text) for text in texts]
        places = self._places(texts) if self.read is None else self.read(texts)
        self.known.update(zip(texts, places, strict=True))
        return list(map(len, places))

    def _places(self, texts: Sequence[str]) -> list[Spans]:
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        return [solid_places(*pair) for pair in zip(texts, map(as_spans, encoded["offset_mapping"]), strict=True)]

    def per_word(self, text: str, spans: Spans) -> NDArray[np.int64]:
        """Tokens of each word where it stands, int64 [words]; with a fast tokenizer they add up to those of the text.

        With any other, each word is counted alone, with a space in front where it has one in the text.
        """
        if not len(spans):
            return np.zeros(0, dtype=np.int64)
        if self.tokenizer is None and self.function is None:
            return np.bincount(owners(spans, regex_words(text)), minlength=len(spans)).astype(np.int64)
        if self.tokenizer is not None and self.tokenizer.is_fast:
            if text not in self.known:
                self.count_all([text])
            return np.bincount(owners(spans, self.known[text]), minlength=len(spans)).astype(np.int64)
        words = [text[max(a - 1, 0) : b] if text[max(a - 1, 0)] == " " else text[a:b] for a, b in spans.tolist()]
        known = {word: self.count(word) for word in dict.fromkeys(words)}
        return np.array([known[word] for word in words], dtype=np.int64)
