"""Models and ways of decoding beside one another on the same contexts: what hyperfitting bought, and at what price.

The ways that are not training: drawing from the nucleus, forbidding repetitions, and the temperature at which the first
model is as sure as the last (which changes how sure it is, not what it likes best).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from szilard.decoding.citation_blocker import CitationBlocker
from szilard.information.text_diversity import self_bleu
from szilard.information.text_overlap import SpanIndex
from szilard.training.hyperfitting.open_ended import OpenEnded, evaluate_open_ended
from szilard.training.hyperfitting.prediction import (
    Predictions,
    entropy_matched_temperature,
    held_out_predictions,
    top_tokens,
)

# ways of decoding that loops are fought with, and transformers' options for them
BASELINES: dict[str, dict[str, Any]] = {
    "top-p 0.9": {"do_sample": True, "top_p": 0.9},  # the paper names no p (inferred)
    "repetition penalty 1.2": {"repetition_penalty": 1.2},
    "no repeated 3-gram": {"no_repeat_ngram_size": 3},
}


@dataclass(frozen=True)
class Compared:
    """One model under one way of decoding.

    Attributes:
        model, decoding: which.
        written: its continuations and their measures.
        predictions: of held-out texts; None for a way of decoding, which changes no prediction.
        agreement: share of positions at which it likes best what the first model does; None as well.
    """

    model: str
    decoding: str
    written: OpenEnded
    predictions: Predictions | None = None
    agreement: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Names, measures and texts, for JSON."""
        found = {"model": self.model, "decoding": self.decoding, **self.written.summary}
        if self.predictions is not None:
            found |= asdict(self.predictions) | {"agreement": self.agreement}
        known = {name: None if isinstance(value, float) and value != value else value for name, value in found.items()}
        return known | {"texts": self.written.texts}


def compare_open_ended(
    models: Sequence[tuple[str, Callable[[], tuple[Any, Any]]]],
    texts: Tensor,
    *,
    context_length: int = 32,
    max_new_tokens: int = 96,
    trained_on: Sequence[Sequence[int]] | None = None,
    baselines: bool = False,
    bleu: bool = True,
    exact_length: bool = True,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Compared]:
    """Continue the beginnings of held-out texts with every model, greedily, and the first also in other ways.

    Args:
        models: names, and what opens each: () -> (model, tokenizer). One is open at a time, the first again at the end
            where `baselines` needs the others' entropy.
        texts: in the models' common tokens, int64 [texts, length].
        context_length, max_new_tokens: of each continuation.
        trained_on: the sequences that the last model was tuned on: copies are measured, and it is run with citations
            blocked, too.
        baselines: other ways of decoding for the first model; drawing at the last one's entropy is left out where no
            temperature gives it.
        bleu, exact_length, batch_size, seed: see `evaluate_open_ended`.
        progress: told what runs.

    Raises:
        ValueError: texts shorter than the context, sequences too short to be cited, or what `evaluate_open_ended`
            refuses.
    """
    if bleu:
        self_bleu([])  # a missing package is told before any work
    if texts.shape[1] < context_length:
        raise ValueError(f"texts of {texts.shape[1]} tokens have no beginning of {context_length}: shorten it.")
    contexts = texts[:, :context_length].tolist()
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "trained_on": None if trained_on is None else SpanIndex(trained_on),
        "bleu": bleu,
        "exact_length": exact_length,
        "batch_size": batch_size,
        "seed": seed,
    }
    found: list[Compared] = []
    first: Tensor | None = None
    blocker: CitationBlocker | None = None

    def write(name: str, decoding: str, model: Any, tokenizer: Any, *measured: Any, **options: Any) -> None:
        if progress is not None:
            progress(f"{name}, {decoding}")
        found.append(
            Compared(name, decoding, evaluate_open_ended(model, tokenizer, contexts, **settings, **options), *measured)
        )

    for place, (name, load) in enumerate(models):
        model, tokenizer = load()
        if place == 0 and trained_on is not None:
            blocker = CitationBlocker(trained_on, tokenizer=tokenizer)
        predictions = held_out_predictions(model, texts, batch_size=batch_size)
        choices = top_tokens(model, texts, batch_size=batch_size)
        first = choices if first is None else first
        write(name, "greedy", model, tokenizer, predictions, float((choices == first).to(torch.float64).mean()))
        if place == 0 and baselines:
            for decoding, options in BASELINES.items():
                write(name, decoding, model, tokenizer, **options)
        if place == len(models) - 1 and trained_on is not None:
            write(name, "greedy, citations blocked", model, tokenizer, blocker=blocker)
        del model
    if baselines and len(models) > 1:
        name, load = models[0]
        model, tokenizer = load()
        last = next(row.predictions for row in reversed(found) if row.predictions is not None)
        try:
            heat = entropy_matched_temperature(model, texts, last.entropy, batch_size=batch_size)
        except ValueError:  # out of reach; what is known by now is not lost for it
            return found
        write(name, f"drawn at temperature {heat:.2f}", model, tokenizer, do_sample=True, temperature=heat)
    return found
