"""Entropy of every attention head on texts; see `szilard.sessions.head_entropies` for what it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from szilard.sessions.head_entropies import HeadEntropyReport, measured


def head_entropy_report(
    model: Any,
    texts: Iterable[Sequence[int]],
    *,
    name: str = "",
    progress: Callable[[int], None] | None = None,
) -> HeadEntropyReport:
    """Measure on texts, one forward each.

    Args:
        model: a decoder of transformers with an attention interface.
        texts: token ids; of one length (see `pieces`), or every text counts by its tokens.
        name: of the model.
        progress: called with the number of texts done.

    Raises:
        ValueError, TypeError: no text, or as `HeadEntropyReport.from_model`.
    """
    inputs = ({"input_ids": torch.tensor([list(ids)], dtype=torch.long, device=model.device)} for ids in texts)
    return measured(model, inputs, name=name, progress=progress)
