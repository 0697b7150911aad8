# mypy: disallow-untyped-defs=False
# (Triton compiles annotations with the code, and knows constexpr only.)
"""The Triton kernel behind `gather_attention`; importing this needs Triton.

A program serves one row, one new token, and the query heads that share a kv head and a selection, so that a key is
loaded once for them. It walks the chosen slots in blocks, with the online softmax of Milakov and Gimelshein 2018: with
the scores s_j of a block and m' = max(m, max_j s_j),

    l <- l exp(m - m') + sum_j exp(s_j - m')        o <- o exp(m - m') + sum_j exp(s_j - m') v_j

and the output is o / l.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gather_attention_kernel(
    query,  # [batch, heads, new, size]
    keys,  # [batch, kv heads, stored, size]
    values,  # [batch, kv heads, stored, wide]
    slots,  # [batch, 1 or sets, new, k]
    out,  # [batch, new, heads, wide]
    query_row,
    query_head,
    query_new,
    query_size,
    keys_row,
    keys_head,
    keys_slot,
    keys_size,
    values_row,
    values_head,
    values_slot,
    values_size,
    slots_row,
    slots_set,
    slots_new,
    slots_k,
    out_row,
    out_new,
    out_head,
    out_size,
    scaling,
    new,
    k,
    SETS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SHARED: tl.constexpr,  # one selection for all heads
    TOGETHER: tl.constexpr,  # query heads of a program
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    SIZE_BLOCK: tl.constexpr,
    WIDE_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) // new).to(tl.int64)
    token = (tl.program_id(0) % new).to(tl.int64)
    own = tl.program_id(1).to(tl.int64)
    kv_head = own * KV_HEADS // SETS
    chooser = own * 0 if SHARED else own

    head = tl.arange(0, HEADS_BLOCK)  # of the program's own
    channel = tl.arange(0, SIZE_BLOCK)
    wide = tl.arange(0, WIDE_BLOCK)
    place = tl.arange(0, BLOCK)

    at = query + row * query_row + token * query_new
    at += (own * TOGETHER + head[:, None]) * query_head + channel[None, :] * query_size
    q = tl.load(at, mask=(head[:, None] < TOGETHER) & (channel[None, :] < SIZE), other=0.0)  # [heads, size]
    keys += row * keys_row + kv_head * keys_head
    values += row * values_row + kv_head * values_head
    slots += row * slots_row + chooser * slots_set + token * slots_new

    most = tl.full([HEADS_BLOCK], -1e30, tl.float32)  # m
    total = tl.zeros([HEADS_BLOCK], tl.float32)  # l
    mixed = tl.zeros([HEADS_BLOCK, WIDE_BLOCK], tl.float32)  # o
    for start in range(0, k, BLOCK):
        slot = tl.load(slots + (start + place) * slots_k, mask=start + place < k, other=-1).to(tl.int64)
        there = slot >= 0
        key_at = keys + slot[:, None] * keys_slot + channel[None, :] * keys_size
        key = tl.load(key_at, mask=there[:, None] & (channel[None, :] < SIZE), other=0.0)  # [block, size]
        score = tl.dot(q, tl.trans(key), input_precision="tf32x3") * scaling  # [heads, block]
        score = tl.where(there[None, :], score, -1e30)
        greater = tl.maximum(most, tl.max(score, 1))
        weight = tl.where(there[None, :], tl.exp(score - greater[:, None]), 0.0)
        shrink = tl.exp(most - greater)
        value_at = values + slot[:, None] * values_slot + wide[None, :] * values_size
        value = tl.load(value_at, mask=there[:, None] & (wide[None, :] < WIDE), other=0.0)  # [block, wide]
        mixed = mixed * shrink[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="tf32x3")
        total = total * shrink + tl.sum(weight, 1)
        most = greater
    mixed = mixed / tl.maximum(total, 1e-30)[:, None]
    out_at = out + row * out_row + token * out_new
    out_at += (own * TOGETHER + head[:, None]) * out_head + wide[None, :] * out_size
    tl.store(out_at, mixed.to(out.dtype.element_ty), mask=(head[:, None] < TOGETHER) & (wide[None, :] < WIDE))
