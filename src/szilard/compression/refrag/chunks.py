"""Cutting a context into chunks of k decoder tokens whose text a second tokenizer can read."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

_BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are no whole character


@dataclass(frozen=True)
class Chunks:
    """A context's tokens in chunks.

    Attributes:
        ids: of the decoder, all chunks one behind the other, int64 [tokens].
        lengths: tokens of each chunk, int64 [L].
        texts: of each chunk.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


def cut_chunks(tokenizer: Any, ids: torch.Tensor, size: int) -> Chunks:
    """Cut token ids into chunks of `size`; the last may be shorter.

    A chunk that would end inside a character of several tokens ends in front of it, and is shorter (inferred). Where
    that is not possible, because a character has more tokens than a chunk, it is cut all the same.

    Args:
        tokenizer: of the decoder.
        ids: int64 [tokens].
        size: k.
    """
    tokens = ids.tolist()
    bounds = [*range(0, len(tokens), size), len(tokens)] if tokens else [0]
    texts = [_text(tokenizer, tokens[a:b]) for a, b in itertools.pairwise(bounds)]
    if any(_BROKEN in text for text in texts):
        bounds, texts = _clean(tokenizer, tokens, size)
    return Chunks(ids, torch.tensor(bounds, dtype=torch.int64).diff(), tuple(texts))


def leading_specials(tokenizer: Any, ids: torch.Tensor) -> int:
    """How many special tokens (BOS) a text begins with: they stay tokens."""
    special = set(tokenizer.all_special_ids)
    count = 0
    for token in ids.tolist():
        if token not in special:
            break
        count += 1
    return count


def _clean(tokenizer: Any, tokens: list[int], size: int) -> tuple[list[int], list[str]]:
    """Bounds of chunks that end with whole characters wherever they can, and their texts."""
    bounds, texts = [0], []
    while bounds[-1] < len(tokens):
        start = bounds[-1]
        longest = min(start + size, len(tokens))
        ends = range(longest, start, -1)
        end = next((e for e in ends if not _text(tokenizer, tokens[start:e]).endswith(_BROKEN)), longest)
        bounds.append(end)
        texts.append(_text(tokenizer, tokens[start:end]))
    return bounds, texts


def _text(tokenizer: Any, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
