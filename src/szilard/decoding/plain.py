"""The plain autoregressive loop; processors (what may be said) told apart from warpers (how it is drawn)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from szilard.decoding.state import DecodingState
from szilard.information import entropy

# The classes that transformers' own `generate` adds for sampling only.
WARPERS = tuple(
    getattr(hf, name)
    for name in (
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "TopHLogitsWarper",
    )
    if hasattr(hf, name)
)


def without_warpers(processors: Iterable[Any]) -> LogitsProcessorList:
    """The processors that are not sampling filters, in order."""
    return LogitsProcessorList(p for p in processors if not isinstance(p, WARPERS))


def plain_decode(
    state: DecodingState,
    *,
    processors: LogitsProcessorList | None = None,
    do_sample: bool | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """One forward, one token, until every row is finished. Entropy is computed only when a trace is kept."""
    logits = state.prefill()  # [batch, vocab]
    while True:
        tokens = state.choose(logits, processors=processors, do_sample=do_sample, generator=generator)
        if state.trace is not None:
            state.record(tokens, entropy(logits))
        state.commit(tokens)
        if state.done:
            return
        logits = state.feed(tokens)[:, -1]
