"""E(x, l): chunks in the place where they stood, each as one vector or as its tokens."""

from __future__ import annotations

from typing import Any

import torch


def arrange(
    embed: Any, ids: torch.Tensor, lengths: torch.Tensor, vectors: torch.Tensor, expanded: torch.Tensor
) -> torch.Tensor:
    """What a decoder reads of a context.

    Args:
        embed: the decoder's input embedding layer.
        ids: tokens of all chunks, int64 [tokens].
        lengths: of each chunk, int64 [L].
        vectors: phi(c), [L, hidden].
        expanded: which chunks stay tokens, bool [L].

    Returns:
        [(L - T') + tokens of the expanded, hidden], in the decoder's dtype; gradients reach `vectors`.
    """
    dtype = embed.weight.dtype
    is_token = torch.repeat_interleave(expanded, torch.where(expanded, lengths, 1))  # [positions]
    out = vectors.new_empty(len(is_token), vectors.shape[1], dtype=dtype)
    out[~is_token] = vectors[~expanded].to(dtype)
    out[is_token] = embed(ids[torch.repeat_interleave(expanded, lengths)]).to(dtype)
    return out


def expanded_count(share: float, chunks: int) -> int:
    """T' = floor(p L)."""
    return int(share * chunks + 1e-9)  # 0.29 * 100 is 28.999...
