"""The door of the released code, `compress_prompt`, with its arguments and its results.

Pan et al. 2024, arXiv 2403.12968; released code: microsoft/LLMLingua 0.2.2 (MIT), whose behaviour this follows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from szilard.compression.dropping import check_contexts
from szilard.compression.llmlingua2.released import ChunkWords, ForcedStrings
from szilard.compression.llmlingua2.released_selection import kept_words, pieces
from szilard.compression.method import Budget, check_budget, tokens_of_budget
from szilard.compression.text import CompressedText, Word
from szilard.options import check_number

if TYPE_CHECKING:
    from szilard.compression.llmlingua2.method import LlmLingua2
    from szilard.engines.engine import Engine

_DOLLARS_PER_TOKEN = 0.06 / 1000  # what the released code reckons GPT-4 to cost
_WORDS_COUNTED = 1 << 16


def check_compat(method: LlmLingua2) -> None:
    """Refuse options that the released code does not have.

    Raises:
        ValueError: in a sentence.
    """
    if method.count_tokens is None:
        raise ValueError(
            "compat weighs words by their cl100k tokens: count_tokens=lambda text: "
            'len(tiktoken.get_encoding("cl100k_base").encode(text)).'
        )
    for given, words in (
        (method.selection != "percentile", "selects by percentile: selection='percentile'"),
        (method.structure != "none", "knows no units: structure='none'"),
        (any(not isinstance(one, str) for one in method.kept_always), "keeps strings only, no patterns"),
        (method.precision != "float32", "runs in float32: precision='float32'"),
        (method.max_length != 512, "has chunks of 512 tokens: max_length=512"),
        (method.context_rate is not None, "chooses contexts in compress_prompt only: context_rate=None"),
    ):
        if given:
            raise ValueError(f"compat follows the released code, which {words}.")


def compress_prompt(
    method: LlmLingua2,
    context: str | Sequence[str],
    instruction: str = "",
    question: str = "",
    rate: float = 0.5,
    target_token: float = -1,
    *,
    use_context_level_filter: bool = True,
    use_token_level_filter: bool = True,
    target_context: int = -1,
    context_level_rate: float = 1.0,
    context_level_target_token: int = -1,
    force_context_ids: Sequence[int] | None = None,
    return_word_label: bool = False,
    word_sep: str = "\t\t|\t\t",
    label_sep: str = " ",
    token_to_word: str | None = None,
    force_tokens: Sequence[str] | None = None,
    force_reserve_digit: bool | None = None,
    drop_consecutive: bool | None = None,
    chunk_end_tokens: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Contexts in, one shorter prompt out.

    Args:
        method: its checkpoint, and what is used where an argument below is None (`keep`, `keep_digits`,
            `drop_consecutive`, `token_to_word`, `chunk_end`).
        context: one text, or several: then those with the lowest mean probability are left out as a whole.
        instruction, question: not read, as in the released code.
        rate: tokens to keep, of each chunk.
        target_token: tokens to keep, of all contexts; -1: by `rate`.
        use_context_level_filter, use_token_level_filter: whether contexts, and whether words, are dropped.
        target_context, context_level_rate, context_level_target_token: how many contexts, which share of them, or how
            many tokens of contexts stay; without any of them a share half-way between `rate` and 1, or contexts of
            twice `target_token`.
        force_context_ids: contexts that always stay.
        return_word_label: also give every word with 1 (kept) or 0.
        word_sep, label_sep: between labelled words, and between a word and its label.
        force_tokens, force_reserve_digit, drop_consecutive, token_to_word, chunk_end_tokens: as the method's fields.

    Returns:
        "compressed_prompt", "compressed_prompt_list" (per context that stays), "origin_tokens", "compressed_tokens",
        "ratio", "rate", "saving", and "fn_labeled_original_prompt" where it was asked for.

    Raises:
        ValueError, TypeError: no text, an empty one, a rate out of range, strings to force that are none.
    """
    contexts = [context] if isinstance(context, str) else list(context)
    check_contexts(contexts)
    if not contexts:
        raise ValueError("there is no context to compress.")
    _check_arguments(rate, target_token, context_level_rate, force_tokens)
    count = _Count(method.classifier().released.tokenizer, method.count_tokens)
    original = sum(map(count.text, contexts))
    by_context = use_context_level_filter and len(contexts) > 1
    strings = _strings(method) if force_tokens is None else tuple(force_tokens)
    work = _Work(
        method,
        strings,
        method.keep_digits if force_reserve_digit is None else force_reserve_digit,
        method.drop_consecutive if drop_consecutive is None else drop_consecutive,
        token_to_word or method.token_to_word,
        method.chunk_ends if chunk_end_tokens is None else tuple(chunk_end_tokens),
        count,
    )
    chunks = [work.chunks(text) for text in contexts]
    stays = [True] * len(contexts)
    scored: list[list[ChunkWords]] | None = None
    if by_context:
        share, tokens = context_level_rate, context_level_target_token
        if target_context <= 0 and share >= 1.0 and tokens <= 0:
            if target_token < 0 and rate < 1.0:
                share = (rate + 1.0) / 2 if use_token_level_filter else rate
            if target_token >= 0:
                tokens = int(target_token * 2 if use_token_level_filter else target_token)
        if target_context >= 0:
            share = min(target_context / len(contexts), 1.0)
        if tokens >= 0:
            share = min(tokens / original, 1.0)
        scored = work.scored(chunks)
        means = [_mean([chunk.natural for chunk in one]) for one in scored]
        threshold = np.percentile(means, int(100 * (1 - share)))
        always = set(force_context_ids or ())
        stays = [bool(mean >= threshold) or index in always for index, mean in enumerate(means)]
        if target_token >= 0:
            reserved = sum(count.text(chunk) for one, kept in zip(chunks, stays, strict=True) if kept for chunk in one)
            rate = min(target_token / reserved, 1.0)
    elif target_token > 0:
        rate = min(target_token / original, 1.0)
    reduce_rate = max(0.0, 1 - rate) if use_token_level_filter else 0.0
    texts, labelled = [], []
    if reduce_rate > 0 and scored is None:  # one pass of the encoder serves both filters; there it is two
        scored = work.scored(chunks)
    for index, kept in enumerate(stays):
        if not kept:
            assert scored is not None
            labelled += [(work.shown(word), 0) for chunk in scored[index] for word in chunk.words]
        elif reduce_rate <= 0:
            restored = [work.forced.restored(chunk) for chunk in chunks[index]]
            labelled += [(word, 1) for chunk in restored for word in pieces(chunk)]
            texts.append("".join(restored))
        else:
            assert scored is not None
            left = []
            for chunk in scored[index]:
                mask = kept_words(chunk, work.forced, reduce_rate, count.word)
                labelled += [(work.shown(word), int(one)) for word, one in zip(chunk.words, mask, strict=True)]
                left.append(work.text(chunk, mask))
            texts.append("".join(left))
    compressed = sum(map(count.text, texts))
    ratio = original / compressed if compressed else 1
    result = {
        "compressed_prompt": "\n\n".join(texts),
        "compressed_prompt_list": texts,
        "origin_tokens": original,
        "compressed_tokens": compressed,
        "ratio": f"{ratio:.1f}x",
        "rate": f"{1 / ratio * 100:.1f}%",
        "saving": f", Saving ${(original - compressed) * _DOLLARS_PER_TOKEN:.1f} in GPT-4.",
    }
    if return_word_label:
        result["fn_labeled_original_prompt"] = word_sep.join(f"{word}{label_sep}{one}" for word, one in labelled)
    return result


def _check_arguments(rate: Any, target_token: Any, context_level_rate: Any, force_tokens: Any) -> None:
    """Refuse what the released code would break on, or take for something else (a text as its letters).

    Raises:
        ValueError, TypeError: in a sentence.
    """
    check_number("rate", rate, low=0, high=1)
    if rate == 0:
        raise ValueError("rate must be above 0: a text of nothing is no context.")
    check_number("target_token", target_token, low=-1)
    check_number("context_level_rate", context_level_rate, low=0, high=1)
    if force_tokens is None:
        return
    if isinstance(force_tokens, str) or not all(isinstance(one, str) and one for one in force_tokens):
        raise TypeError(f"force_tokens must be a list of strings, none of them empty, not {force_tokens!r}.")


def compress(
    method: LlmLingua2, contexts: Sequence[str], budget: Budget, engine: Engine | None
) -> list[CompressedText]:
    """`LlmLingua2.compress` with `compat`: each context as a prompt of its own.

    Words are looked up in the original from left to right; one that is not there as it is (the tokenizer normalised it)
    has a place without characters.
    """
    started = time.perf_counter()
    check_contexts(contexts)
    share = method.rate if budget is None else budget
    check_budget(share)
    method.check(engine)
    count = _Count(method.classifier().released.tokenizer, method.count_tokens)
    originals = [count.text(text) for text in contexts]
    rates = [
        share if isinstance(share, float) else tokens_of_budget(share, original) / original for original in originals
    ]
    work = _Work(
        method,
        _strings(method),
        method.keep_digits,
        method.drop_consecutive,
        method.token_to_word,
        method.chunk_ends,
        count,
    )
    chunks = [work.chunks(text) for text in contexts]
    results = []
    for text, own, scored, original, rate in zip(contexts, chunks, work.scored(chunks), originals, rates, strict=True):
        if (reduce_rate := max(0.0, 1 - rate)) > 0:
            masks = [kept_words(chunk, work.forced, reduce_rate, count.word) for chunk in scored]
            left = "".join(work.text(chunk, mask) for chunk, mask in zip(scored, masks, strict=True))
        else:
            masks = [np.ones(len(chunk.words), dtype=bool) for chunk in scored]
            left = "".join(map(work.forced.restored, own))
        results.append(
            CompressedText(
                text=left,
                original=text,
                words=tuple(_placed(text, scored, masks, work, count)),
                original_tokens=original,
                compressed_tokens=count.text(left),
                method=method.slug,
                counted_by=getattr(method.count_tokens, "__name__", "count_tokens"),
                cost={"forwards": len(own), "seconds": (time.perf_counter() - started) / len(contexts)},
            )
        )
    return results


def _strings(method: LlmLingua2) -> tuple[str, ...]:
    """What the method always keeps.

    Raises:
        ValueError: patterns, which the released procedure does not have.
    """
    found = tuple(one for one in method.kept_always if isinstance(one, str))
    if len(found) < len(method.kept_always):
        raise ValueError("compress_prompt keeps strings only, no patterns: use compress, or force_tokens=[...].")
    return found


class _Count:
    """Tokens of texts, and of words, which come again and again."""

    def __init__(self, tokenizer: Any, function: Any) -> None:
        self.text = function or (
            lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        )
        self.word = lru_cache(_WORDS_COUNTED)(self.text)


class _Work:
    """One call: the forced strings, and every step under the same options."""

    def __init__(
        self,
        method: LlmLingua2,
        strings: tuple[str, ...],
        digits: bool,
        once: bool,
        how: str,
        ends: tuple[str, ...],
        count: _Count,
    ) -> None:
        self.method, self.how, self.count = method, how, count
        self.released = method.classifier().released
        self.forced: ForcedStrings = self.released.forced(strings, digits, once)
        self.ends = {*ends, *(self.forced.added[end] for end in ends if end in self.forced.added)}

    def chunks(self, text: str) -> list[str]:
        return self.released.chunks(self.forced.replaced(text), self.ends)

    def scored(self, chunks: Sequence[Sequence[str]]) -> list[list[ChunkWords]]:
        found = iter(
            self.released.words(
                [chunk for one in chunks for chunk in one],
                self.forced,
                how=self.how,
                batch_size=self.method.batch_size,
                slips=self.method.compat,
                backend=self.method.backend,
            )
        )
        return [[next(found) for _ in one] for one in chunks]

    def text(self, chunk: ChunkWords, mask: NDArray[np.bool_]) -> str:
        words = [chunk.words[index] for index in np.flatnonzero(mask).tolist()]
        return self.released.tokenizer.convert_tokens_to_string(words)

    def shown(self, word: str) -> str:
        return word.lstrip(self.released.mark) if self.released.family == "xlm-roberta" else word


def _mean(chunks: list[NDArray[Any]]) -> Any:
    """Mean over all words of a context, in the order and precision of the released code."""
    values = np.concatenate(chunks) if chunks else np.zeros(0)
    if not len(values):
        raise ValueError("a context has no words that the classifier knows: leave it out.")
    return values.cumsum()[-1] / values.dtype.type(len(values))


def _placed(
    text: str, scored: list[ChunkWords], masks: list[NDArray[np.bool_]], work: _Work, count: _Count
) -> list[Word]:
    """Words with their characters in the original."""
    words, position = [], 0
    for chunk, mask in zip(scored, masks, strict=True):
        for word, score, kept in zip(chunk.words, chunk.probabilities.tolist(), mask.tolist(), strict=True):
            name = word.lstrip(work.released.mark)
            start = text.find(name, position)
            if start < 0 or text[position:start].strip():  # other words between: it is not this one
                start = end = position
            else:
                end = start + len(name)
            words.append(Word(start, end, score, count.word(word), kept))
            position = end
    return words
