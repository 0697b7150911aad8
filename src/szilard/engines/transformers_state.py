"""The decoding state on a PyTorch model of transformers.

The prompt runs through the model's own `_prefill` and every later step through its own
`prepare_inputs_for_generation`, so whatever a model does with positions, token types or images stays its business.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache

from szilard.decoding.state import DecodingState
from szilard.engines import cache_rows
from szilard.engines.growing_layer import GrowingLayer, grow_in_place
from szilard.engines.mixing import embedding_scale, mix_rows
from szilard.engines.model_parts import additive, model_size, unembed
from szilard.engines.visual_names import BORDER_FIELDS, PLACEHOLDER_FIELDS

if TYPE_CHECKING:
    from szilard.engines.compiled_step import CompiledStep
    from szilard.speculative.tree import DraftTree


class TransformersState(DecodingState):
    """A batch on a decoder-only or image-text model. Built from what `generate` hands to its decoding function.

    Args:
        model: the model.
        prompt: input ids [batch, prompt], left-padded (width 0 when the prompt came as `inputs_embeds`).
        generation_config: the prepared configuration of the run.
        model_kwargs: the prepared forward arguments (mask, positions, cache, pixel values, ...).
        base: arguments of `DecodingState`.
    """

    def __init__(
        self,
        model: Any,
        prompt: torch.Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        **base: Any,
    ) -> None:
        pad = generation_config._pad_token_tensor
        super().__init__(
            prompt,
            do_sample=bool(generation_config.do_sample),
            pad_token_id=int(pad.flatten()[0]) if pad is not None else 0,
            **base,
        )
        self.model = model
        self.generation_config = generation_config
        self.model_kwargs = model_kwargs
        mask = model_kwargs.get("attention_mask")
        self._prompt_mask = torch.ones_like(prompt) if mask is None else mask[:, : prompt.shape[1]]
        self.hidden: torch.Tensor | None = None
        self.visual_names: list[int] = []  # visual special tokens that the config does not name
        self.attentions: list[Any] | None = [] if generation_config.output_attentions else None
        self.hidden_states: list[Any] | None = [] if generation_config.output_hidden_states else None
        self._cached = prompt.new_zeros(self.batch_size)
        self._fed = 0  # nodes of a tree that waits for `keep`
        self._slots = 0  # cache slots per row, padding included
        self.size = model_size(model)
        self.compiled: CompiledStep | None = None

    # ---- what a method may ask -------------------------------------------------------------------------------

    @property
    def context_window(self) -> int | None:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def embedding_matrix(self) -> torch.Tensor:
        return self.model.get_input_embeddings().weight

    @property
    def cached(self) -> torch.Tensor:
        return self._cached

    @property
    def prompt_mask(self) -> torch.Tensor:
        return self._prompt_mask

    @property
    def can_rewind(self) -> bool:
        return bool(self.cache.is_croppable)

    @property
    def keeps_layers(self) -> bool:
        """Whether every layer's attention or hidden states are kept for the caller."""
        return self.attentions is not None or self.hidden_states is not None

    @property
    def cache(self) -> Cache:
        """The model's key-value cache."""
        return self.model_kwargs["past_key_values"]

    def visual_tokens(self, *, placeholder_only: bool = False) -> list[int]:
        config = self.model.config
        fields = PLACEHOLDER_FIELDS if placeholder_only else PLACEHOLDER_FIELDS + BORDER_FIELDS
        found = [getattr(config, name, None) for name in fields]
        if not placeholder_only:
            found += self.visual_names
        rows = self.embedding_matrix.shape[0]
        return list(dict.fromkeys(token for token in found if isinstance(token, int) and 0 <= token < rows))

    # ---- the verbs -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prefill(self, then: torch.Tensor | None = None, *, hidden_states: bool = False) -> torch.Tensor:
        self.cost.start()
        ids = self.tokens
        if then is not None:
            ids = torch.cat([ids, then], dim=1)
            update = self.model._update_model_kwargs_for_generation
            self.model_kwargs = update({}, self.model_kwargs, False, then.shape[1])
        past = self.model_kwargs.get("past_key_values")
        grow_in_place(past)
        known = int(past.get_seq_length()) if past is not None else 0  # a conversation that goes on
        mask = self.model_kwargs.get("attention_mask")
        wanted = {"output_hidden_states": True} if hidden_states else {}
        outputs = self.model._prefill(ids, self.generation_config, self.model_kwargs | wanted)
        if getattr(outputs, "past_key_values", None) is None:
            raise ValueError(
                f"{type(self.model).__name__} returned no key-value cache, which the decoding state needs: "
                "only models with `past_key_values` and use_cache=True are supported."
            )
        self._slots = int(outputs.past_key_values.get_seq_length())
        padding = 0 if mask is None else mask.shape[1] - mask.sum(1)
        self._cached = self._cached + self._slots - padding
        self.cost.add_forward(self.size, rows=self.batch_size, new=self._slots - known, cached=known)
        self.hidden = outputs.hidden_states[-1] if hidden_states else None
        return self._after(outputs, 1)[:, -1]

    @torch.no_grad()
    def feed(
        self,
        tokens: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        *,
        tree: DraftTree | None = None,
        seen: torch.Tensor | None = None,
        hidden_states: bool = False,
        rewindable: bool = False,
        only_last: bool = False,
    ) -> torch.Tensor:
        if sum(given is not None for given in (tokens, embeddings, tree)) != 1:
            raise ValueError("feed takes either tokens or embeddings or a tree.")
        masked: dict[str, Any] = {}
        if tree is not None:
            tokens, rewindable = tree.tokens, True
            if tree.tokens.shape[1] > 1:  # a root alone sees what any next token sees: no mask of its own
                masked = self._masked_inputs(tree.ancestors, tree.depth)
        if embeddings is not None:
            embeddings = embeddings[:, None] if embeddings.dim() == 2 else embeddings
            ids = self._buffer.new_zeros(embeddings.shape[:2])  # only its shape matters below
        else:
            assert tokens is not None
            ids = tokens[:, None] if tokens.dim() == 1 else tokens
        new = ids.shape[1]
        if seen is not None and tree is None:
            masked = self._masked_inputs(seen.expand(len(ids), new, new), torch.arange(new).expand(len(ids), new))
        if rewindable:
            self._keep_the_past()
        if new > 1:  # mask and positions are always one column ahead, as in `generate`
            self.model_kwargs = self.model._update_model_kwargs_for_generation({}, self.model_kwargs, False, new - 1)
        inputs = self.model.prepare_inputs_for_generation(ids, **self.model_kwargs)
        if embeddings is not None:
            inputs.pop("input_ids", None)
            inputs["inputs_embeds"] = embeddings
        if new > 1 and "logits_to_keep" in inputs:
            inputs["logits_to_keep"] = 1 if only_last else new
        inputs |= masked
        if tree is not None:
            self._fed = tree.tokens.shape[1]
        if hidden_states:
            inputs["output_hidden_states"] = True
        outputs: Any = None if self.compiled is None else self.compiled(inputs, self._slots)
        if outputs is None:
            outputs = self.model(**inputs, return_dict=True)
        self.cost.add_forward(self.size, rows=self.batch_size, new=new, cached=self._slots)
        self._slots += new
        self._cached = self._cached + new
        self.hidden = outputs.hidden_states[-1] if hidden_states else None
        return self._after(outputs, 1 if only_last else new)

    def _masked_inputs(self, among: torch.Tensor, depth: torch.Tensor) -> dict[str, Any]:
        """Masks and positions under which new slots see the text, and of each other what they are to see.

        Args:
            among: bool [batch, nodes, nodes] (query, key).
            depth: of every slot, its position behind the text, int64 [batch, nodes].
        """
        batch, nodes = depth.shape
        depth = depth.to(self.device)
        seen = self.model_kwargs.get("attention_mask")
        if seen is None:
            seen = torch.ones(batch, self._slots, dtype=torch.long, device=self.device)
        text = seen[:, : self._slots].bool()[:, None].expand(batch, nodes, self._slots)
        mask = torch.cat([text, among.to(self.device)], dim=2)[:, None]  # [batch, 1, nodes, slots + nodes]
        layers: list[Any] = self.cache.layers
        windows = {layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)}
        masks = {}
        if not all(getattr(layer, "is_sliding", False) for layer in layers):
            masks["full_attention"] = additive(mask, self.model.dtype)
        if windows:
            (window,) = windows
            slots = torch.arange(self._slots, device=self.device)
            at = torch.cat([slots.expand(batch, -1), self._slots + depth], dim=1)
            near = at[:, None, self._slots :, None] - at[:, None, None] < window  # in positions, not in slots
            visible = min(self._slots, window - 1) + nodes  # what such a layer's cache hands out
            masks["sliding_attention"] = additive((mask & near)[..., -visible:], self.model.dtype)
        inputs: dict[str, Any] = {"attention_mask": masks if len(masks) > 1 else next(iter(masks.values()))}
        positions = self.model_kwargs.get("position_ids")
        if positions is None:
            positions = self._cached[:, None]
        inputs["position_ids"] = positions[..., -1:] + depth
        return inputs

    def keep(self, path: torch.Tensor, counts: torch.Tensor) -> None:
        nodes, self._fed = self._fed, 0
        path, counts = path.to(self.device)[:, :nodes], counts.to(self.device)
        width = path.shape[1]
        moved = path != torch.arange(width, device=self.device)
        if bool((moved & (torch.arange(width, device=self.device) < counts[:, None])).any()):
            cache_rows.gather_tail(self.cache, path, nodes)
        self.rewind(self._cached - nodes + counts)

    def _after(self, outputs: Any, new: int) -> torch.Tensor:
        self.model_kwargs = self.model._update_model_kwargs_for_generation(outputs, self.model_kwargs, False, 1)
        if self.attentions is not None:
            self.attentions.append(outputs.attentions)
        if self.hidden_states is not None:
            self.hidden_states.append(outputs.hidden_states)
        return outputs.logits[:, -new:].to(self.device)

    def rewind(self, lengths: torch.Tensor) -> None:
        lengths = lengths.to(self._cached.device)
        drop = self._cached - lengths
        if bool(((drop < 0) | (lengths < 0)).any()):
            raise ValueError(
                f"rewind can only shorten: rows hold {self._cached.tolist()} entries, asked for {lengths.tolist()}."
            )
        common = int(drop.min())
        shift = drop - common
        if bool(shift.any()):
            self._roll_right(shift)
        try:
            self.cache.crop(-common)
        except (RuntimeError, AttributeError) as error:
            raise ValueError(
                f"{type(self.model).__name__} cannot forget these cache entries: feed them with rewindable=True."
            ) from error
        if common:
            for name in ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"):
                if self.model_kwargs.get(name) is not None:
                    self.model_kwargs[name] = self.model_kwargs[name][..., :-common]
        self._slots -= common
        self._cached = self._cached - drop

    def _keep_the_past(self) -> None:
        """Make sliding-window layers hold on to what a `rewind` may want back."""
        if not self.cache.is_croppable:
            raise ValueError(
                f"{type(self.model).__name__} keeps a state that cannot be rewound (recurrent or static cache, or "
                "slots evicted while generating), which this method needs."
            )
        self.cache.activate_past_recording()

    def _roll_right(self, shift: torch.Tensor) -> None:
        """Move row b's cache `shift[b]` slots to the right, so that after a common crop all rows end together."""
        cache_rows.roll_right(self.cache, shift)
        ahead = self._slots + 1
        mask = self.model_kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones(self.batch_size, ahead, dtype=torch.long, device=self.device)
        source = torch.arange(ahead, device=self.device)[None] - shift[:, None]  # [batch, slots + 1]
        index = source.clamp(min=0)
        self.model_kwargs["attention_mask"] = torch.where(source >= 0, torch.gather(mask, 1, index), 0)
        positions = self.model_kwargs.get("position_ids")
        if positions is not None:  # [batch, n] or [axes, batch, n]; n may be all slots or only the newest
            columns = positions.shape[-1]
            source = torch.arange(columns, device=positions.device)[None] - shift.to(positions.device)[:, None]
            rows = positions.expand(*positions.shape[:-2], self.batch_size, columns)
            self.model_kwargs["position_ids"] = torch.gather(rows, -1, source.clamp(min=0).expand_as(rows))

    def fork(self, copies: int, rows: torch.Tensor | None = None) -> TransformersState:
        if copies < 1:
            raise ValueError(f"fork takes at least 1 copy, not {copies!r}.")
        twin = copy.copy(self)
        twin.streamer = twin.trace = twin.scores = twin.raw_logits = twin.attentions = twin.hidden_states = None
        twin.model_kwargs = dict(self.model_kwargs)
        twin.model_kwargs["past_key_values"] = cache_rows.copied(self.cache)
        if rows is None:
            rows = torch.arange(self.batch_size, device=self.device)
        twin.select(rows.to(self.device).repeat_interleave(copies))
        return twin

    def select(self, rows: torch.Tensor) -> None:
        rows = rows.to(self.device)
        if self._slots:
            self.cache.batch_select_indices(rows)
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            if self.model_kwargs.get(name) is not None:
                self.model_kwargs[name] = self.model_kwargs[name][rows]
        positions = self.model_kwargs.get("position_ids")
        if positions is not None and positions.shape[-2] == self.batch_size:
            self.model_kwargs["position_ids"] = positions[..., rows, :]
        self._cached, self._prompt_mask = self._cached[rows], self._prompt_mask[rows]
        self._select_text(rows)

    def adopt(self, other: DecodingState) -> None:
        assert isinstance(other, TransformersState) and other.batch_size == self.batch_size
        self.model_kwargs, self._cached, self._slots = other.model_kwargs, other._cached, other._slots

    def join(self, other: DecodingState) -> None:
        assert isinstance(other, TransformersState) and other.prompt_width == self.prompt_width
        self._stack(other)
        self._prompt_mask = torch.cat([self._prompt_mask, other._prompt_mask])
        self._join_text(other)

    @property
    def can_extend(self) -> bool:
        """Whether every layer of the cache keeps every token (and nothing else)."""
        layers: Any = [] if self.model_kwargs.get("past_key_values") is None else self.cache.layers
        return bool(layers) and all(type(layer) is GrowingLayer for layer in layers)

    def extend(self, other: DecodingState) -> None:
        if not isinstance(other, TransformersState) or not (self.can_extend and other.can_extend):
            raise ValueError(f"{self.model_name} takes no further rows while it decodes: its cache drops tokens.")
        self._stack(other)
        masks = self._prompt_mask, other._prompt_mask
        self._prompt_mask = cache_rows.stacked(*masks, axis=-1)
        self._extend_text(other)

    def trim(self, least: int = 64) -> None:
        """Give back the slots that are padding in every row, where there are at least so many."""
        lead = self._slots - int(self._cached.max())
        if lead < least or not self.can_extend:
            return
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys[..., lead:, :], layer.values[..., lead:, :]
        for name in ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"):
            kept = self.model_kwargs.get(name)
            if kept is not None and kept.shape[-1] > self._slots - lead:
                self.model_kwargs[name] = kept[..., lead:]
        self._slots -= lead

    def _stack(self, other: TransformersState) -> None:
        """Caches, masks and positions of both, right-aligned."""
        slots = max(self._slots, other._slots)
        cache_rows.stack(self.cache, other.cache, self.model)
        for name in ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"):
            both = [state.model_kwargs.get(name) for state in (self, other)]
            if name == "attention_mask":
                both = [
                    torch.ones(state.batch_size, state._slots + 1, dtype=torch.long, device=self.device)
                    if mask is None
                    else mask
                    for state, mask in zip((self, other), both, strict=True)
                ]
            if both[0] is not None and both[1] is not None:
                self.model_kwargs[name] = cache_rows.stacked(both[0], both[1], axis=-1, rows=-2)
        self._slots = slots
        self._cached = torch.cat([self._cached, other._cached])

    # ---- embeddings ------------------------------------------------------------------------------------------

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.get_input_embeddings()(tokens)

    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        self.cost.add_product(self.vocab_size * hidden.shape[-1], hidden.numel() // hidden.shape[-1])
        return unembed(self.model, hidden)

    def mix(self, probabilities: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        weight = self.embedding_matrix
        scale = self._embedding_scale
        self.cost.extra_flops += 2 * probabilities.numel() * weight.shape[1]
        if tokens is not None:
            vectors = weight[tokens].to(torch.promote_types(weight.dtype, torch.float32))  # [batch, k, hidden]
            mixed = torch.einsum("bk,bkh->bh", probabilities.to(vectors.dtype), vectors)
        else:
            mixed = mix_rows(probabilities, weight)
        return (mixed * scale).to(weight.dtype)

    @cached_property
    def _embedding_scale(self) -> float:
        return embedding_scale(self.model)
