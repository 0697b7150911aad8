"""Selective Context: drop the phrases that a language model sees coming.

Li, Dong, Lin, Guerin 2023, "Compressing Context to Enhance Inference Efficiency of Large Language Models", EMNLP, arXiv
2310.06201. Reference code: liyucheng09/Selective_Context (MIT).

    I(x_t) = - ln p(x_t | x_0 .. x_{t-1}),    I(u) = of the tokens of a unit u (a token, a phrase, a sentence)

Units with the largest I stay, as many as the budget allows.

# Paper: I(u) is the sum, since self-information adds up; here: the mean by default, as in the released code, because a
# budget counts tokens and a sum prefers whatever is long. `total` takes the sum.
# Paper: phrases are spaCy's noun phrases; here: stretches between signs, cut where a function word follows another
# word, or after eight words, which needs no tagger. The function words are English.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from szilard.compression.dropping import ScoredText
from szilard.compression.llmlingua2.rule_teacher import FUNCTION, sentences
from szilard.compression.self_information import OVERLAP, InformationDropping, encoded, per_unit, self_information
from szilard.compression.words import Spans, as_spans, merged, regex_words
from szilard.options import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

UNITS = ("token", "word", "phrase", "sentence")
_LONGEST = 8  # words of a phrase


@dataclass(frozen=True)
class SelectiveContext(InformationDropping):
    """Keeps the units of a text that tell a language model most.

    Attributes:
        unit: what is kept or dropped as a whole: "token" (of the scoring model), "word" (ours), "phrase" or "sentence".
        total: a unit is worth the sum over its tokens, not the mean.
        overlap: tokens that a window of a longer text has in common with the one before.
    """

    slug: ClassVar[str] = "selective-context"
    paper: ClassVar[str] = "Li et al. 2023, EMNLP, arXiv 2310.06201"

    unit: str = "phrase"
    total: bool = False
    overlap: int = OVERLAP

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("unit", self.unit, UNITS)
        check_bool("total", self.total)
        check_number("overlap", self.overlap, low=0, high=self.window - 1, integer=True)

    def informed(self, contexts: Sequence[str], model: Engine) -> list[ScoredText]:
        read = [encoded(model, text) for text in contexts]
        nats, cost = self_information(model, [ids for ids, _ in read], window=self.window, overlap=self.overlap)
        share: dict[str, float] = {name: amount / len(contexts) for name, amount in cost.items()}
        found = []
        for text, (_, places), values in zip(contexts, read, nats, strict=True):
            spans, forced = self.segmented(text, units(text, places, self.unit))
            scores = per_unit(values, spans, places, mean=not self.total)
            found.append(ScoredText(text, spans, scores, forced, dict(share)))
        return found


def units(text: str, places: Spans, unit: str) -> Spans:
    """The units of a text, int64 [units, 2], without white space at their ends.

    Args:
        text: the text.
        places: characters of the scoring model's tokens.
        unit: one of `UNITS`.
    """
    if unit == "word":
        return regex_words(text)
    if unit == "phrase":
        return phrases(text)
    if unit == "sentence":
        ends = [0]
        for sentence in sentences(text):
            ends.append(ends[-1] + len(sentence))
        return _trimmed(text, list(pairwise(ends)))
    return merged(_trimmed(text, places.tolist()))  # tokens of one character that takes several overlap


def phrases(text: str) -> Spans:
    """Stretches between signs, cut where a function word follows another word, int64 [phrases, 2]."""
    found: list[list[int]] = []
    length, before_is_function = 0, False  # of the phrase that may go on
    for start, end in regex_words(text).tolist():
        word = text[start:end].lower()
        is_function = word in FUNCTION
        if not word[0].isalnum():
            found.append([start, end])
            length = 0
            continue
        if 0 < length < _LONGEST and (before_is_function or not is_function):
            found[-1][1] = end
            length += 1
        else:
            found.append([start, end])
            length = 1
        before_is_function = is_function
    return as_spans(found)


def _trimmed(text: str, spans: Sequence[Any]) -> Spans:
    found = []
    for start, end in spans:
        inside = text[start:end]
        if inside.strip():
            found.append((start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())))
    return as_spans(found)
