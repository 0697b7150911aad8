"""What a model writes on its own: continuations of held-out contexts, and how varied, looped and copied they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from szilard.information.text_diversity import ends_in_loop, repeated_ngram_rate, self_bleu, type_token_ratio
from szilard.information.text_overlap import SpanIndex, rate_of_copies
from szilard.training.hyperfitting.continuations import continue_contexts

if TYPE_CHECKING:
    from szilard.decoding.citation_blocker import CitationBlocker

COPIED = 5  # tokens of a span that counts as copied
LONG = 10  # tokens above which an overlap is counted (paper)


@dataclass(frozen=True)
class OpenEnded:
    """Continuations and what they are like.

    Attributes:
        contexts: token ids of each.
        ids: new token ids of each.
        texts: the same, as text.
        columns: a value per text: "tokens", "ttr", "repeated_bigrams", "loop" (1.0 or 0.0) and, where the sequences
            that were learned are known, "overlap" (tokens of the longest copied span) and "copy_rate" (share of 5-grams
            that stand in them).
        summary: means of the columns ("loops", "overlap_mean", ...), "overlap_max", "overlap_above_10" (share of
            texts) and "self_bleu" where it was asked for.
    """

    contexts: list[list[int]]
    ids: list[list[int]]
    texts: list[str]
    columns: dict[str, list[float]] = field(repr=False)
    summary: dict[str, float]


def evaluate_open_ended(
    model: Any,
    tokenizer: Any,
    contexts: Sequence[str | Sequence[int]] | torch.Tensor,
    max_new_tokens: int = 96,
    blocker: CitationBlocker | None = None,
    *,
    trained_on: SpanIndex | None = None,
    window: int = 96,
    bleu: bool = True,
    batch_size: int = 8,
    exact_length: bool = False,
    seed: int = 0,
    logits_processor: Sequence[Any] = (),
    **options: Any,
) -> OpenEnded:
    """Continue contexts, greedily where nothing else is asked for, and measure what was written.

    Args:
        model: a causal language model of transformers.
        tokenizer: of the model.
        contexts: texts or token ids, disjoint from what the model was tuned on (32 tokens each in the paper).
        max_new_tokens: of each continuation (96 in the paper's table).
        blocker: forbids citing the tuning's sequences; see `CitationBlocker`.
        trained_on: the tuning's sequences, to look for copies; None: not measured.
        window: last tokens that the type-token ratio looks at.
        bleu: measure self-BLEU (needs sacrebleu).
        batch_size: contexts at once.
        exact_length: forbid the end before `max_new_tokens`: short texts have high type-token ratios.
        seed: of drawn continuations.
        logits_processor: further ones of transformers.
        options: of transformers' GenerationConfig: do_sample, top_p, repetition_penalty, no_repeat_ngram_size ...

    Raises:
        ValueError: no contexts, `bleu` without sacrebleu, or what `continue_contexts` refuses.
    """
    if not len(contexts):
        raise ValueError("there are no contexts to continue.")
    if bleu:
        self_bleu([])  # a missing package is told before any work
    rows = [
        tokenizer.encode(context)
        if isinstance(context, str)
        else context.tolist()
        if isinstance(context, torch.Tensor)
        else list(context)
        for context in contexts
    ]
    written = continue_contexts(
        model,
        tokenizer,
        rows,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        exact_length=exact_length,
        logits_processor=[*logits_processor, *([] if blocker is None else [blocker])],
        seed=seed,
        **options,
    )
    columns: dict[str, list[float]] = {
        "tokens": [float(len(ids)) for ids in written],
        "ttr": [type_token_ratio(ids, window) for ids in written],
        "repeated_bigrams": [repeated_ngram_rate(ids, 2) for ids in written],
        "loop": [float(ends_in_loop(ids)) for ids in written],
    }
    if trained_on is not None:
        lengths = [trained_on.match_lengths(ids) for ids in written]
        columns["overlap"] = [float(max(found, default=0)) for found in lengths]
        columns["copy_rate"] = [rate_of_copies(found, COPIED) for found in lengths]
    return OpenEnded(
        rows, written, [tokenizer.decode(ids) for ids in written], columns, _summary(columns, written, bleu)
    )


def _summary(columns: dict[str, list[float]], written: list[list[int]], bleu: bool) -> dict[str, float]:
    """Means over the texts for which a value exists."""

    def mean(name: str) -> float:
        return float(torch.tensor(columns[name], dtype=torch.float64).nanmean())

    found = {name: mean(name) for name in ("tokens", "ttr", "repeated_bigrams")} | {"loops": mean("loop")}
    if "overlap" in columns:
        found |= {"overlap_mean": mean("overlap"), "overlap_max": max(columns["overlap"])}
        found["overlap_above_10"] = sum(value > LONG for value in columns["overlap"]) / len(written)
        found["copy_rate"] = mean("copy_rate")
    if bleu:
        found["self_bleu"] = self_bleu(written)
    return found
