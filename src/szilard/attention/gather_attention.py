"""Attention over chosen slots of a key-value cache in one kernel launch: keys and values are read where they lie.

Triton is optional: without it, or off the GPU, `szilard.attention.sparse` gathers the slots and attends to the copy.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_BLOCK = 64  # slots that a program holds at a time
_LEAST = 16  # rows and columns that a matrix unit takes at least


@cache
def installed() -> bool:
    """Whether Triton is there."""
    return importlib.util.find_spec("triton") is not None


def usable(keys: torch.Tensor) -> bool:
    """Whether the kernel takes these keys: on a CUDA device, of one of `DTYPES`, with Triton installed."""
    return keys.is_cuda and keys.dtype in DTYPES and installed()


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attention over chosen slots, accumulated in float32.

    Args:
        query: [batch, heads, new, head size].
        keys, values: of the cache, with any strides, [batch, kv heads, stored, head size].
        slots: int64 [batch, 1 or kv heads or heads, new, k]; -1: no slot.
        scaling: of the products.

    Returns:
        [batch, new, heads, head size], in the type of `query`; zeros where nothing was chosen.

    Raises:
        ValueError: Triton is not installed.
    """
    if not installed():
        raise ValueError("the gather kernel needs Triton, which is not installed: pip install triton (Linux).")
    from szilard.attention.gather_kernel import gather_attention_kernel

    batch, heads, new, size = query.shape
    kv_heads, wide = keys.shape[1], values.shape[3]
    choosers, k = slots.shape[1], slots.shape[3]
    sets = max(choosers, kv_heads)  # small attentions per row and new token
    out = query.new_empty(batch, new, heads, wide)
    strides: list[Any] = [stride for tensor in (query, keys, values, slots, out) for stride in tensor.stride()]
    gather_attention_kernel[batch * new, sets](
        query,
        keys,
        values,
        slots,
        out,
        *strides,
        scaling,
        new,
        k,
        SETS=sets,
        KV_HEADS=kv_heads,
        SHARED=choosers == 1,
        TOGETHER=heads // sets,
        SIZE=size,
        WIDE=wide,
        HEADS_BLOCK=_block(heads // sets),
        SIZE_BLOCK=_block(size),
        WIDE_BLOCK=_block(wide),
        BLOCK=_BLOCK,
    )
    return out


def _block(length: int) -> int:
    """The least power of two that holds it, and a matrix unit's least at least."""
    return max(_LEAST, 1 << (length - 1).bit_length())
