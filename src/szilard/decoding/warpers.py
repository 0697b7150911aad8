"""Logits processors that filter or rescale a distribution and do not look at the text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

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


def reads_text(processors: Iterable[Any]) -> bool:
    """Whether one of the processors may look at the text."""
    return any(not isinstance(processor, WARPERS) for processor in processors)
