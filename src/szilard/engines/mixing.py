"""Weighted sums of the rows of an embedding matrix: what a mixture of tokens is to a model."""

from __future__ import annotations

from typing import Any

import torch


def embedding_scale(model: Any) -> float:
    """The constant by which a model's embedding layer multiplies its rows (sqrt(hidden) in Gemma 3, 1 in most).

    Raises:
        ValueError: the layer is something else than one matrix times a constant.
    """
    layer = model.get_input_embeddings()
    text = model.config.get_text_config()
    if getattr(text, "hidden_size_per_layer_input", None):
        raise ValueError(
            f"{type(model).__name__} looks up further embeddings per layer by token id, so it cannot be fed "
            "mixtures of embeddings: use a method that does not need 'embeddings_in'."
        )
    rows = layer.weight[:64].detach().double()
    looked_up = layer(torch.arange(rows.shape[0], device=rows.device)).detach().double()
    scale = float((looked_up * rows).sum() / (rows * rows).sum().clamp(min=1e-300)) if bool(rows.any()) else 1.0
    tolerance = 1e-2 * float(rows.abs().max()) * abs(scale)
    if not torch.allclose(looked_up, scale * rows, atol=tolerance):
        raise ValueError(
            f"the input embeddings of {type(model).__name__} are not rows of one matrix times a constant, so "
            "mixtures of them are not defined: use a method that does not need 'embeddings_in'."
        )
    # The layer multiplies in its own precision; a plain embedding must stay bit-exact.
    return 1.0 if abs(scale - 1.0) < 1e-6 else float(getattr(layer, "scalar_embed_scale", scale))


def mix_rows(probabilities: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """sum_v p[b, v] weight[v] in float32 or better: [batch, vocab] x [rows, hidden] -> [batch, hidden].

    Summed slice by slice: one long float32 sum over a vocabulary loses two digits, and half-precision weights are
    widened without a float32 copy of the whole matrix. Padded vocabulary rows on either side are left out.
    """
    common = min(probabilities.shape[-1], weight.shape[0])
    dtype = torch.promote_types(weight.dtype, torch.float32)
    probabilities = probabilities[:, :common].to(dtype)
    if probabilities.shape[0] <= _FEW_ROWS and weight.dtype == torch.float32 and weight.device.type == "cpu":
        return _mix_few_rows(probabilities, weight)
    mixed = probabilities.new_zeros(probabilities.shape[0], weight.shape[1])
    whole = common - common % _SLICE if weight.dtype == dtype else 0
    if whole:
        p = probabilities[:, :whole].unflatten(1, (-1, _SLICE)).transpose(0, 1)  # [slices, batch, slice]
        mixed += torch.bmm(p, weight[:whole].unflatten(0, (-1, _SLICE))).sum(0)
    for start in range(whole, common, 16 * _SLICE):
        part = slice(start, min(start + 16 * _SLICE, common))
        mixed += probabilities[:, part] @ weight[part].to(dtype)
    return mixed


def _mix_few_rows(probabilities: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`mix_rows` on a CPU, where reading the matrix is the whole cost: it is read once for all rows, block by block.

    For one row not even all of it is read. Of the tokens below 0.0025 / vocab, which together hold less than 0.0025 of
    the mass (in practice a tenth of that), every eighth stands for all, with the mass of all. On SmolLM2 the vector is
    right to 3e-6, where its elements are of size 0.1.
    """
    rows, vocab = probabilities.shape
    if rows == 1:
        row, unlikely = probabilities[0], 0.0025 / vocab
        read = row >= unlikely
        read[::8] = True
        ids = read.nonzero()[:, 0]
        share = row[ids]
        rest = share < unlikely
        unread = (row.sum() - share.sum()).clamp(min=0)
        scale = 1 + unread / share.where(rest, 0).sum().clamp(min=1e-30)
        shares = torch.where(rest, share * scale, share)[None]
    else:
        ids, shares = torch.arange(vocab, device=weight.device), probabilities
    padding = -ids.shape[0] % _BLOCK
    if padding:
        ids, shares = (torch.nn.functional.pad(tensor, (0, padding)) for tensor in (ids, shares))
    blocks = ids.view(-1, 1, _BLOCK).expand(-1, rows, -1)  # the rows of a block one after the other: from the cache
    shares = shares.view(rows, -1, _BLOCK).transpose(0, 1)
    sums = torch.nn.functional.embedding_bag(
        blocks.reshape(-1, _BLOCK), weight, mode="sum", per_sample_weights=shares.reshape(-1, _BLOCK)
    )
    return sums.view(-1, rows, weight.shape[1]).sum(0)


_SLICE = 1024  # vocabulary rows per partial sum
_FEW_ROWS = 6  # up to here it beats the products
_BLOCK = 128
