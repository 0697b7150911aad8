"""Where blocks are thought: behind a decoding state's cache, or behind keys and values that gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from szilard.decoding.state import DecodingState
from szilard.reasoning.ladir.mask import as_attention_mask, padded_causal


class StateContext:
    """A decoding state whose prompt was read; see `Context`. Every look is fed and rewound."""

    def __init__(self, state: DecodingState) -> None:
        self.state = state

    def look(self, embeddings: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        before = self.state.cached.clone()
        hidden = self._feed(embeddings, seen)
        self.state.rewind(before)
        return hidden

    def keep(self, embeddings: torch.Tensor, seen: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        before = self.state.cached.clone()
        hidden = self._feed(embeddings, seen)
        if not bool(rows.all()):
            self.state.rewind(before + embeddings.shape[1] * rows.to(before))
        return hidden

    def _feed(self, embeddings: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        self.state.feed(
            embeddings=embeddings.to(self.state.embedding_matrix.dtype),
            seen=seen,
            hidden_states=True,
            rewindable=True,
            only_last=True,
        )
        assert self.state.hidden is not None
        return self.state.hidden

    def without_question(self, null: torch.Tensor) -> StateContext:
        """The same rows with `null` [d] in the place of their questions, all but the first token.

        Raises:
            ValueError: a model whose cache cannot forget the question.
        """
        state = self.state.fork(1)
        lengths = state.cached.clone()
        try:
            state.rewind(torch.ones_like(lengths))
        except ValueError as error:
            raise ValueError(
                f"guidance thinks without the question, which the cache of {state.model_name} cannot forget (a sliding "
                f"window shorter than its {int(lengths.max())} tokens, say): set cfg_scale=1."
            ) from error
        rest = int(lengths.max()) - 1
        if rest > 0:
            fed = null.to(state.embedding_matrix).expand(len(lengths), rest, -1)
            state.feed(embeddings=fed, rewindable=True, only_last=True)
            state.rewind(lengths)
        return StateContext(state)


class GraphContext:
    """Questions and blocks whose keys and values gradients flow through; see `Context`. All rows keep every block.

    Args:
        model: of transformers.
        embeddings: of the questions, [rows, width, d].
        real: where they are no padding, bool [rows, width].
    """

    def __init__(self, model: Any, embeddings: torch.Tensor, real: torch.Tensor) -> None:
        self.model = model
        self.real, self.lengths = real[:, :0], torch.zeros_like(real.sum(1))
        self.entries: list[tuple[torch.Tensor, torch.Tensor]] = []
        seen, place = padded_causal(real)
        self._take(self._run(embeddings, seen, place)[1], real)
        self.places = place

    def look(self, embeddings: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return self._behind(embeddings, seen)[0]

    def keep(self, embeddings: torch.Tensor, seen: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        hidden, entries, place = self._behind(embeddings, seen)
        self._take(entries, torch.ones_like(place, dtype=torch.bool))
        self.places = torch.cat([self.places, place], dim=1)
        return hidden

    def _take(self, entries: list[tuple[torch.Tensor, torch.Tensor]], real: torch.Tensor) -> None:
        self.entries = entries
        self.real = torch.cat([self.real, real], dim=1)
        self.lengths = self.lengths + real.sum(1)

    def _behind(
        self, embeddings: torch.Tensor, seen: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        rows, new = embeddings.shape[:2]
        place = self.lengths[:, None] + torch.arange(new, device=embeddings.device)
        before = self.real[:, None].expand(rows, new, -1)
        found = self._run(embeddings, torch.cat([before, seen.expand(rows, -1, -1)], dim=2), place)
        return *found, place

    def _run(
        self, embeddings: torch.Tensor, seen: torch.Tensor, place: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        cache = DynamicCache(self.entries)
        keys = torch.cat([self.places, place], dim=1) if self.entries else place
        hidden = self.model.get_decoder()(
            inputs_embeds=embeddings.to(self.model.dtype),
            attention_mask=as_attention_mask(self.model, seen, place, keys),
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        layers: list[Any] = cache.layers
        return hidden, [(layer.keys, layer.values) for layer in layers]
