"""Documents cut into pieces, and pieces put together into forwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cut(
    documents: Sequence[Sequence[int]], chunk: int | None, window: int, device: torch.device
) -> tuple[list[Tensor], list[int]]:
    """Pieces of documents, int64 [length] each, and the number of each one's document.

    Args:
        documents: token ids.
        chunk: tokens of a piece; None: a document is one.
        window: tokens that the encoder reads at once.
        device: of the pieces.

    Raises:
        ValueError: an empty document, or a piece beyond the window.
    """
    found: list[Tensor] = []
    owner: list[int] = []
    for index, document in enumerate(documents):
        ids = torch.as_tensor(document, dtype=torch.int64, device=device)
        if not len(ids):
            raise ValueError(f"document {index + 1} is empty: there is nothing to compress.")
        longest = min(chunk or len(ids), len(ids))
        if longest > window:
            raise ValueError(
                f"document {index + 1} has {len(ids)} tokens and is read in pieces of {longest}, but the encoder reads "
                f"{window} at once: give chunk={window} or less."
            )
        parts = ids.split(chunk) if chunk else (ids,)
        found.extend(parts)
        owner.extend([index] * len(parts))
    return found, owner


def batches(lengths: Sequence[int], places: int, packed: bool) -> list[list[int]]:
    """Which pieces go together, those of like length next to one another: at most so many places a forward."""
    made: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        size = lengths[index] if packed or not made or not made[-1] else lengths[made[-1][0]]
        if not made or filled + size > places:
            made.append([])
            filled = 0
            size = lengths[index]
        made[-1].append(index)
        filled += size
    return made
