"""LaDiR's attention masks: causal, and inside a block of thought tokens everything sees everything.

Kang et al. 2025, arXiv 2510.04573, section on the blockwise mask:

    question, <BOT> Z^(1) <EOT>, <BOT> Z^(2) <EOT>, ..., <SOA>, answer

Later blocks see earlier ones, never the reverse; question and answer are causal. `span` says what "inside a block" is:
"block": <BOT> .. <EOT>, both included (as a re-implementation reads the paper), or "latents": the thought tokens alone
(the released code).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

SPANS: Final = ("block", "latents")
PADDING, TEXT = -1, 0  # paths of slots; noisy copies of blocks have paths of their own, from 1


def span_in_block(size: int, span: str, *, timestep: bool) -> tuple[int, int]:
    """Where full attention begins and ends, [start, end), counted from a block's <BOT>.

    Args:
        size: thought tokens of a block, L_b.
        span: "block" or "latents".
        timestep: whether the block holds the token of the time (one that is being denoised does).
    """
    length = size + 2 + int(timestep)
    return (0, length) if span == "block" else (length - 1 - size, length - 1)


def block_mask(size: int, span: str, *, timestep: bool, device: torch.device | None = None) -> torch.Tensor:
    """Which positions of one block each position of it sees, bool [query, key]; what precedes the block it all sees."""
    length = size + 2 + int(timestep)
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    start, end = span_in_block(size, span, timestep=timestep)
    seen[start:end, start:end] = True
    return seen


def blockwise_mask(
    lengths: Sequence[int] | torch.Tensor,
    block_spans: Sequence[Sequence[tuple[int, int]]],
    *,
    width: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Causal, and full inside the spans; of rows padded on the right.

    Args:
        lengths: real positions of every row.
        block_spans: of every row, [start, end) of its blocks; they do not overlap.
        width: columns; None: the longest row's.
        dtype: of the mask.

    Returns:
        Additive [batch, 1, width, width]: 0 where there is something to see, else the lowest finite number. Padding
        sees itself, so that no row of a softmax is empty.

    Raises:
        ValueError: a span outside its row, or two that overlap.
    """
    counts = torch.as_tensor(lengths, dtype=torch.int64)
    width = int(counts.max()) if width is None else width
    if len(block_spans) != len(counts):
        raise ValueError(f"there are block spans for {len(block_spans)} rows, but lengths for {len(counts)}.")
    span = torch.zeros(len(counts), width, dtype=torch.int64)
    for row, spans in enumerate(block_spans):
        for number, (start, end) in enumerate(spans, start=1):
            if not 0 <= start <= end <= int(counts[row]):
                raise ValueError(f"the span {(start, end)} lies outside row {row} of {int(counts[row])} positions.")
            if bool(span[row, start:end].any()):
                raise ValueError(f"the span {(start, end)} of row {row} overlaps with another one.")
            span[row, start:end] = number
    place = torch.arange(width).expand(len(counts), width)
    path = torch.where(place < counts[:, None], TEXT, PADDING)
    return additive(visible(path, place, span, torch.zeros_like(span)), dtype)


def visible(path: torch.Tensor, place: torch.Tensor, span: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """What each slot of packed sequences sees, bool [batch, query, key].

    Beside its text a sequence holds noisy copies of its blocks, each on a path of its own: a copy sees the text before
    its block, and itself. So one forward trains all blocks.

    Args:
        path: PADDING, TEXT, or the number of the copy; int64 [batch, slots].
        place: positions; int64 [batch, slots].
        span: number of the block inside which all see each other, 0: none; int64 [batch, slots].
        start: of a copy, the position at which it begins; int64 [batch, slots].
    """
    query, key = (slice(None), slice(None), None), (slice(None), None, slice(None))
    same = (path[query] == path[key]) & (path[query] != PADDING)
    found = same & (place[key] <= place[query])
    found |= same & (span[query] == span[key]) & (span[query] > 0)
    found |= (path[query] > TEXT) & (path[key] == TEXT) & (place[key] < start[query])
    return found | torch.eye(path.shape[1], dtype=torch.bool, device=path.device)


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """bool [batch, query, key] as what attention adds, [batch, 1, query, key]; finite."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def as_attention_mask(
    model: Any, seen: torch.Tensor, place: torch.Tensor, key_place: torch.Tensor | None = None
) -> Any:
    """What `attention_mask` must be for a model to let positions see `seen`, bool [batch, query, key].

    Args:
        model: of transformers; layers with a sliding window see no farther than it reaches.
        place: positions of the queries, int64 [batch, query].
        key_place: of the keys, int64 [batch, key]; None: they are the queries.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" not in kinds or window is None:
        return additive(seen, model.dtype)
    key_place = place if key_place is None else key_place
    near = place[:, :, None] - key_place[:, None] < window
    masks = {"full_attention": additive(seen, model.dtype), "sliding_attention": additive(seen & near, model.dtype)}
    return {kind: mask for kind, mask in masks.items() if kind in kinds} if len(kinds) > 1 else masks.popitem()[1]


def padded_causal(real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of rows with padding anywhere, bool [batch, width]: what each position sees [batch, query, key], and places."""
    place = (real.cumsum(1) - 1).clamp(min=0)
    path = torch.where(real, TEXT, PADDING)
    nothing = torch.zeros_like(place)
    return visible(path, place, nothing, nothing), place
