"""Keys and values of a prompt's beginning, computed once and put in front of other prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class KvPrefix:
    """What a model's layers keep of the first positions of a prompt.

    Attributes:
        head: ids in front of the context: it holds for prompts that begin with them.
        layers: keys and values, [1, kv heads, positions, head size] each.
        model: fingerprint of the model.
    """

    head: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    model: str

    @property
    def positions(self) -> int:
        """How many it covers, the head's included."""
        return int(self.layers[0][0].shape[-2])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


@torch.no_grad()
def compute_prefix(engine: Any, head: Sequence[int], vectors: torch.Tensor) -> KvPrefix:
    """Run the beginning of a prompt.

    Args:
        engine: on transformers.
        head: ids in front of the context.
        vectors: all of the beginning, the head's included, in the place of embeddings [positions, hidden].

    Raises:
        ValueError: a model whose cache holds anything but keys and values of every position.
    """
    model = engine.model
    cache = model.get_decoder()(inputs_embeds=vectors[None], use_cache=True).past_key_values
    layers: list[Any] = list(getattr(cache, "layers", []))
    if not layers or not all(isinstance(layer, DynamicLayer) and not layer.is_sliding for layer in layers):
        raise ValueError(
            f"the cache of {engine.name} holds more or less than the keys and values of every position (sliding "
            "windows, recurrent states), so it cannot be stored: store the compressed context without it."
        )
    return KvPrefix(tuple(head), tuple((layer.keys, layer.values) for layer in layers), engine.fingerprint)


def batch_cache(prefixes: Sequence[KvPrefix | None], lengths: Sequence[int], config: Any) -> DynamicCache | None:
    """A cache for left-padded prompts of which some have a stored beginning.

    A row's prefix must end where the columns begin that are computed anew, and these are the same for all rows: of a
    row with a shorter rest the end of the prefix is computed again.

    Args:
        prefixes: per row; None: nothing is known.
        lengths: positions of each whole prompt.
        config: of the model.

    Returns:
        The cache (a copy), which holds the first columns of the batch; None where no column is known for all rows.
    """
    width = max(lengths)
    # of every row the columns up to here are padding or known
    known = min(width - length + (p.positions if p else 0) for p, length in zip(prefixes, lengths, strict=True))
    known = min(known, width - 1)  # something is computed: the logits of the next token come from it
    real = [known - (width - length) for length in lengths]  # positions of each row among them
    if max(real) <= 0:
        return None
    template = next(p for p in prefixes if p is not None)
    cache = DynamicCache(config=config)
    for index, (keys, values) in enumerate(template.layers):
        stored = []
        for which, like in enumerate((keys, values)):
            rows = like.new_zeros(len(lengths), like.shape[1], known, like.shape[3])
            for row, (prefix, count) in enumerate(zip(prefixes, real, strict=True)):
                if count > 0:
                    assert prefix is not None
                    rows[row, :, known - count :] = prefix.layers[index][which][0, :, :count].to(like.device)
            stored.append(rows)
        cache.update(stored[0], stored[1], index)
    return cache
