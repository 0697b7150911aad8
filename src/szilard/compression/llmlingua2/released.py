"""LLMLingua-2 as its released code runs it, step by step, so that it keeps the same words.

It differs from the paper, and from `LlmLingua2` without `compat`, in more than a threshold:

- each chunk has a threshold of its own, a percentile of word probabilities weighted by their tokens, and strict ">";
- chunks are turned into text and into tokens again; text is put together from tokens, which loses line breaks;
- forced strings of several tokens become added tokens, whose embeddings nobody trained;
- contexts are judged by the first tokens of their words;
- every model is given BERT's [CLS] and [SEP], which XLM-RoBERTa does not have and reads as unknown tokens.

Pan et al. 2024, arXiv 2403.12968; released code: microsoft/LLMLingua 0.2.2 (MIT), whose behaviour this follows.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from szilard.compression.llmlingua2.classifier import KeepClassifier

MAX_FORCED = 100  # added tokens [NEW0], [NEW1], ...
_LENGTH = 512
_SEED = 42  # under which the added tokens' embeddings are drawn
_MARK = {"bert": "##", "xlm-roberta": "\u2581"}
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class ForcedStrings:
    """What always stays, and which strings of it became added tokens.

    Attributes:
        strings: as given.
        added: string -> "[NEW3]", for those that are not one token.
        digits: tokens with a digit always stay.
        once: of equal forced strings that follow each other one stays ("drop_consecutive").
    """

    strings: tuple[str, ...]
    added: dict[str, str]
    digits: bool = False
    once: bool = False

    def replaced(self, text: str) -> str:
        for string_, token in self.added.items():
            text = text.replace(string_, token)
        return text

    def restored(self, text: str) -> str:
        for string_, token in self.added.items():
            text = text.replace(token, string_)
        return text


@dataclass(frozen=True)
class ChunkWords:
    """Words of a chunk.

    Attributes:
        words: as the tokenizer spells them, with the mark of a beginning word.
        probabilities: [words], 1 where forced.
        natural: [words], before forcing.
    """

    words: list[str]
    probabilities: NDArray[Any]
    natural: NDArray[Any]


class ReleasedTokenizer:
    """A classifier with the added tokens of the released code, and its tokens by what the rules ask of them.

    Raises:
        ValueError: a tokenizer of neither family that the released code knows.
    """

    def __init__(self, classifier: KeepClassifier) -> None:
        self.family = _family(classifier)
        self.mark = _MARK[self.family]
        self.tokenizer = copy.deepcopy(classifier.tokenizer)
        special = {value for value in self.tokenizer.special_tokens_map.values() if isinstance(value, str)}
        self.new = [f"[NEW{index}]" for index in range(MAX_FORCED)]
        self.tokenizer.add_special_tokens({"additional_special_tokens": self.new})
        embeddings = classifier.model.get_input_embeddings().weight
        shared: dict[int, Any] = {id(one): one for one in classifier.model.parameters() if one is not embeddings}
        model = copy.deepcopy(classifier.model, memo=shared)  # only the embedding matrix is another
        with torch.random.fork_rng(devices=[]), _quiet("transformers.modeling_utils"):  # it says how new rows are drawn
            torch.manual_seed(_SEED)
            model.resize_token_embeddings(len(self.tokenizer))
        self.classifier = KeepClassifier(model, self.tokenizer, classifier.name)
        self.vocabulary: list[str] = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        self.pure = [token.lstrip(self.mark) for token in self.vocabulary]
        self.special = np.array([token in special for token in self.vocabulary])
        if self.family == "bert":
            self.starts = np.array([not token.startswith(self.mark) for token in self.vocabulary])
        else:
            signs = string.punctuation
            self.starts = np.array([token.startswith(self.mark) or token in signs for token in self.vocabulary])
        first, last, self.padding = (
            self.tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]", "[PAD]")
        )
        self.released_specials = [first], [last]

    @cached_property
    def with_digit(self) -> NDArray[np.bool_]:
        """Which tokens hold a digit; added ones do not (their strings may)."""
        return np.array([bool(_DIGIT.search(token)) for token in self.vocabulary])

    def forced(self, strings: Sequence[str], digits: bool, once: bool) -> ForcedStrings:
        """Added tokens for the strings that are not exactly one token.

        Raises:
            ValueError: more strings than added tokens.
        """
        if len(strings) > MAX_FORCED:
            raise ValueError(f"the released code forces at most {MAX_FORCED} strings, not {len(strings)}.")
        added = {text: self.new[index] for index, text in enumerate(strings) if len(self._spelled(text)) != 1}
        return ForcedStrings(tuple(strings), added, digits, once)

    def chunks(self, text: str, ends: set[str]) -> list[str]:
        """A text, its forced strings replaced, in chunks of at most 511 tokens that stop behind one of `ends`."""
        tokens = self._spelled(text)
        stops = np.array([index for index, token in enumerate(tokens) if token in ends], dtype=np.int64)
        size = _LENGTH - 2
        cut = []
        first = 0
        while first < len(tokens):
            last = len(tokens) - 1
            if first + size <= last:
                last = first + size
                index = int(np.searchsorted(stops, last, side="right")) - 1
                if index >= 0 and stops[index] > first:
                    last = int(stops[index])
            cut.append(self.tokenizer.convert_tokens_to_string(tokens[first : last + 1]))
            first = last + 1
        return cut

    def _spelled(self, text: str) -> list[str]:
        """Tokens as they are spelled in the text, unknown ones included."""
        return self.tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False).tokens()

    def words(
        self,
        chunks: Sequence[str],
        forced: ForcedStrings,
        *,
        how: str,
        batch_size: int,
        slips: bool = True,
        backend: str = "torch",
    ) -> list[ChunkWords]:
        """Words and probabilities of every chunk.

        Args:
            slips: as there: BERT's special tokens for every model, and contexts judged by the first token of each word.
        """
        if not chunks:
            return []
        before, after = self.released_specials if slips else self.classifier.specials
        encoded = self.tokenizer(list(chunks), add_special_tokens=False, return_attention_mask=False, verbose=False)
        # As there: a chunk of 511 tokens and two special ones is one too long, and loses the last.
        rows = [np.array([*before, *ids, *after], dtype=np.int64)[:_LENGTH] for ids in encoded["input_ids"]]
        hidden = self.padding if self.family == "bert" else None  # "[PAD]" in a text is padding there
        probabilities = self.classifier.keep_probability(rows, batch_size=batch_size, hidden=hidden, backend=backend)
        rules = self._rules(forced)
        found = []
        for ids, values in zip(rows, probabilities, strict=True):
            active = ~self.special[ids]
            if hidden is not None:
                active &= ids != hidden
            found.append(self._merged(ids[active], values[active], rules, forced, how, slips))
        return found

    def _rules(self, forced: ForcedStrings) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Per token of the vocabulary: whether it begins a word, and whether it then has probability 1."""
        wanted = {*forced.strings, *forced.added.values()}
        starts, sure = self.starts.copy(), np.zeros(len(self.vocabulary), dtype=bool)
        pures = [index for text in wanted for index in self._of_pure.get(text, ())]
        sure[pures] = True
        if self.family == "bert":
            starts[pures] = True
        else:
            starts[[index for index in pures if self.vocabulary[index] in wanted]] = True
        return starts, sure

    @cached_property
    def _of_pure(self) -> dict[str, list[int]]:
        """Tokens by their text without the mark."""
        found: dict[str, list[int]] = {}
        for index, text in enumerate(self.pure):
            found.setdefault(text, []).append(index)
        return found

    def _merged(
        self,
        ids: NDArray[np.int64],
        values: NDArray[Any],
        rules: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        forced: ForcedStrings,
        how: str,
        slips: bool,
    ) -> ChunkWords:
        if not len(ids):
            return ChunkWords([], np.zeros(0), np.zeros(0))
        starts = rules[0][ids]
        starts[0] = True  # Released code: a chunk that begins inside a word raises an IndexError; here: a word begins.
        sure = rules[1][ids] & starts
        if forced.digits:
            sure |= self.with_digit[ids]
        firsts = np.flatnonzero(starts)
        probabilities = natural = _per_word(values, firsts, how)
        if slips:  # in its mean before forcing, the first token's probability stands in the place of each later one's
            natural = _per_word(np.repeat(values[firsts], np.diff(np.append(firsts, len(values)))), firsts, how)
        if sure.any():
            probabilities = _per_word(np.where(sure, np.float32(1), values), firsts, how)
            whole = sure[firsts] if how == "first" else np.logical_and.reduceat(sure, firsts)
            if whole.any():  # there plain Python numbers are among them, which make the percentile one of float64
                probabilities = probabilities.astype(np.float64)
        stops = [*firsts[1:].tolist(), len(ids)]
        names = [self.vocabulary[index] for index in ids.tolist()]
        inside = [self.pure[index] for index in ids.tolist()]
        words = []
        for first, stop in zip(firsts.tolist(), stops, strict=True):
            word = forced.restored(names[first]) if forced.added else names[first]
            for inner in range(first + 1, stop):
                word += inside[inner]
            words.append(word)
        return ChunkWords(words, probabilities, natural)


def _per_word(values: NDArray[Any], firsts: NDArray[np.int64], how: str) -> NDArray[Any]:
    """Mean or first of each word's tokens, summed from left to right in float32."""
    if how == "first":
        return values[firsts]
    lengths = np.diff(np.append(firsts, len(values)))
    sums = np.add.reduceat(values, firsts)
    for index in np.flatnonzero(lengths > 8).tolist():  # numpy sums longer stretches in another order
        total = values[firsts[index]]
        for value in values[firsts[index] + 1 : firsts[index] + lengths[index]]:
            total = total + value
        sums[index] = total
    return sums / lengths.astype(np.float32)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _family(classifier: KeepClassifier) -> str:
    tokens = classifier.tokenizer.convert_ids_to_tokens(range(len(classifier.tokenizer)))
    if any(token.startswith("##") for token in tokens) and "[CLS]" in tokens:
        return "bert"
    if any(token.startswith("\u2581") for token in tokens) and classifier.tokenizer.cls_token == "<s>":
        return "xlm-roberta"
    raise ValueError(
        f"compat follows a code that knows the tokenizers of BERT and XLM-RoBERTa only, and {classifier.name!r} has "
        "another: leave compat out, which takes any fast tokenizer."
    )
