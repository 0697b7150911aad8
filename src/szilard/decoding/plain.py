"""The plain autoregressive loop."""

from __future__ import annotations

import torch
from transformers import LogitsProcessorList

from szilard.decoding.state import DecodingState
from szilard.information import entropy


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
