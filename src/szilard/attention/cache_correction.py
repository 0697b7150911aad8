"""What a decoder read since its cache was last that of full attention, so that it can be run again as one block."""

from __future__ import annotations

from typing import Any

import torch


class Uncorrected:
    """The inputs of the forwards since the last correction.

    Attributes:
        tokens: per row, so far.
        sparse: whether any of them was read sparsely.
    """

    def __init__(self) -> None:
        self.tokens, self.sparse = 0, False
        self._cache: Any = None
        self._length = 0  # slots that the cache holds if nothing but these forwards happened to it
        self._ids: list[torch.Tensor | None] = []  # of every forward: [batch, new], or None and
        self._embeddings: list[torch.Tensor | None] = []  # [batch, new, hidden]
        self._positions: list[torch.Tensor] = []  # [..., 1 or batch, new]

    def follows(self, cache: Any, layer: Any) -> bool:
        """Whether a forward on this cache goes on from the recorded ones: no rewind, fork, beam step in between.

        Args:
            cache: that the forward gets.
            layer: its first layer of ours.
        """
        return cache is self._cache and layer.untouched and layer.get_seq_length() == self._length

    def start(self, cache: Any, length: int) -> None:
        """Nothing is to be corrected of a cache with so many slots."""
        self.__init__()  # type: ignore[misc]
        self._cache, self._length = cache, length

    def add(self, inputs: dict[str, Any]) -> None:
        """Record a forward: its "input_ids" or "inputs_embeds", and "position_ids" where there are some."""
        ids, embeddings = inputs.get("input_ids"), inputs.get("inputs_embeds")
        given: Any = ids if embeddings is None else embeddings
        new = given.shape[1]
        positions = inputs.get("position_ids")
        if positions is None:
            positions = torch.arange(self._length, self._length + new, device=given.device)[None]
        self._ids.append(ids if embeddings is None else None)
        self._embeddings.append(embeddings)
        self._positions.append(positions)
        self._length += new
        self.tokens += new

    def block(self, embed: Any) -> dict[str, torch.Tensor]:
        """All of it as the inputs of one forward.

        Args:
            embed: the decoder's input embedding, for ids among embeddings.
        """
        batch = max(part.shape[-2] for part in self._positions)
        positions = [part.expand(*part.shape[:-2], batch, part.shape[-1]) for part in self._positions]
        found = {"position_ids": torch.cat(positions, dim=-1)}
        ids = [part for part in self._ids if part is not None]
        if len(ids) == len(self._ids):
            return found | {"input_ids": torch.cat(ids, dim=1)}
        pairs = zip(self._ids, self._embeddings, strict=True)
        return found | {"inputs_embeds": torch.cat([embed(a) if b is None else b for a, b in pairs], dim=1)}
