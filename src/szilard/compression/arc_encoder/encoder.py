"""The encoder: a causal language model without its last layers, its head, its final norm and its causal mask.

ARC-Encoder (Pilchen, Grave, Perez 2025, arXiv 2510.20535). Only the last remaining layer pools. With h its input:

    hbar = P h                                 means of groups of hidden states, before the layer's norm     [m, d_e]
    q from norm(hbar), rotated at 0..m-1;  k, v from norm(h), not pooled, rotated at 0..n-1
    y = hbar + W_o softmax(q k^T) v            every query sees every key of its document
    out = y + FFN(norm(y))                                                                                  [m, d_e]

The layers are the model's own modules. A pooling layer is called on hbar with a stand-in for its key-value cache,
which gives it the keys and values of h; so whatever an architecture does around its attention it does here.
"""

from __future__ import annotations

import copy
import inspect
import json
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from szilard.compression.arc_encoder.groups import Layout, Pooling, last_places, means, visible


class PooledEncoder(nn.Module):
    """Layers of a decoder that read documents both ways, the last ones pooling.

    Args:
        config: of the model as transformers writes it, "num_hidden_layers" those that are used.
        attention: "full": every token sees its whole document; "causal": those up to itself (ablation).
        queries: "mean": a group's query is the mean of its hidden states; "last": the last of them (ablation).
    """

    def __init__(self, config: dict[str, Any], attention: str = "full", queries: str = "mean") -> None:
        super().__init__()
        settings = AutoConfig.for_model(**config)
        capped = getattr(settings, "attn_logit_softcapping", None) is not None  # which only "eager" knows
        self.additive = capped
        with no_init_weights(), torch.random.fork_rng(devices=[]):
            model = AutoModel.from_config(
                settings, attn_implementation="eager" if capped else "sdpa", dtype=torch.float32
            )
        self.config: Any = model.config
        self.attention, self.queries = attention, queries
        self.embed_tokens = model.embed_tokens
        self.layers = model.layers
        self.rotary = model.rotary_emb
        types = getattr(self.config, "layer_types", None)
        by_type = "layer_type" in inspect.signature(type(self.rotary).forward).parameters
        self.rotary_types: list[str | None] = list(types) if by_type and types else [None] * len(self.layers)

    @property
    def hidden_size(self) -> int:
        """d_e."""
        return int(self.config.hidden_size)

    @property
    def context_window(self) -> int:
        """Longest piece that is encoded at once, in tokens."""
        return int(self.config.max_position_embeddings)

    def forward(self, ids: Tensor, layout: Layout, pooling: Pooling) -> tuple[Tensor, Layout]:
        """Encode documents.

        Args:
            ids: int64 [batch, width], laid out as `layout` says.
            layout: where the documents lie.
            pooling: of the last layers.

        Returns:
            States of the groups [batch, groups, d_e], and where they lie.

        Raises:
            ValueError: more pooling layers than layers.
        """
        if pooling.layers > len(self.layers):
            raise ValueError(f"{pooling.layers} layers cannot pool in an encoder of {len(self.layers)}.")
        hidden = self.embed_tokens(ids)
        plain = len(self.layers) - pooling.layers
        seen = self._mask(layout, layout, layout.position, hidden)
        for index, layer in enumerate(self.layers[:plain]):
            hidden = self._layer(layer, index, hidden, layout, seen)
        for step, layer in enumerate(self.layers[plain:]):
            hidden, layout = self._pooling_layer(layer, plain + step, hidden, layout, pooling, step)
        return hidden, layout

    def _pooling_layer(
        self, layer: Any, index: int, hidden: Tensor, layout: Layout, pooling: Pooling, step: int
    ) -> tuple[Tensor, Layout]:
        groups, place = layout.pooled(pooling, step)
        last = last_places(place, groups.width)  # [batch, groups]
        if self.queries == "mean":
            queries = means(hidden, place, groups.width)
        else:
            queries = hidden.gather(1, last[..., None].expand(-1, -1, hidden.shape[-1]))
        keys = _KeysOfAll()
        norm = getattr(layer, "input_layernorm", None)  # some architectures norm behind the attention only
        layer.self_attn(
            hidden_states=hidden if norm is None else norm(hidden),
            position_embeddings=self._rotation(index, hidden, layout),
            attention_mask=None,
            past_key_values=keys,
        )
        # (inferred) a causal encoder's query sees as far as the last token of its group.
        seen = self._mask(groups, layout, layout.position.gather(1, last), hidden)
        return self._layer(layer, index, queries, groups, seen, keys), groups

    def _layer(
        self, layer: Any, index: int, hidden: Tensor, layout: Layout, seen: Tensor, keys: _KeysOfAll | None = None
    ) -> Tensor:
        out = layer(
            hidden,
            attention_mask=seen,
            position_embeddings=self._rotation(index, hidden, layout),
            position_ids=layout.position,
            past_key_values=keys,
        )
        return out[0] if isinstance(out, tuple) else out

    def _rotation(self, index: int, hidden: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Cosines and sines at each place's position in its own document."""
        kind = self.rotary_types[index]
        return self.rotary(hidden, layout.position, *([] if kind is None else [kind]))

    def _mask(self, queries: Layout, keys: Layout, until: Tensor, hidden: Tensor) -> Tensor:
        seen = visible(queries, keys, until if self.attention == "causal" else None)
        if not self.additive:
            return seen
        none = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
        return none.masked_fill(~seen, torch.finfo(hidden.dtype).min)


class _KeysOfAll:
    """Stands in for a cache: keeps the first keys and values that a layer makes, and gives them to it ever after."""

    held: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.held is None:
            self.held = keys, values
            return keys[:, :, :1], values[:, :, :1]  # what is attended to here is thrown away, so it may be little
        return self.held


def encoder_config(model: Any, truncate_layers: int) -> dict[str, Any]:
    """The configuration of a model without its last layers, as JSON holds it.

    Raises:
        ValueError: no layer would be left, or a model whose layers are not called as Llama's are.
    """
    config = copy.deepcopy(model.config.get_text_config())
    layers = int(config.num_hidden_layers)
    if not 0 <= truncate_layers < layers:
        raise ValueError(f"truncate_layers must be between 0 and {layers - 1} for {layers} layers: {truncate_layers}.")
    inner = model.get_decoder()
    parts = ("embed_tokens", "layers", "rotary_emb", "norm")
    if not all(hasattr(inner, part) for part in parts) or not hasattr(inner.layers[0], "self_attn"):
        raise ValueError(
            f"{type(model).__name__} cannot become the encoder: it takes decoders with rotary positions whose "
            "layers are laid out as Llama's (Llama, Mistral, Qwen, Gemma, OLMo, SmolLM)."
        )
    config.num_hidden_layers = layers - truncate_layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[: config.num_hidden_layers]
    return as_json(config)


def as_json(config: Any) -> dict[str, Any]:
    """A configuration of transformers in plain numbers, texts and lists."""
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return found


@torch.no_grad()
def copied(model: Any, truncate_layers: int, attention: str = "full", queries: str = "mean") -> PooledEncoder:
    """The encoder with a causal language model's weights, in float32 (float64 stays).

    Raises:
        ValueError: see `encoder_config`; or layers that compute otherwise than the encoder calls them.
    """
    made = PooledEncoder(encoder_config(model, truncate_layers), attention, queries)
    take_weights(made, model)
    return made


@torch.no_grad()
def take_weights(encoder: PooledEncoder, model: Any) -> None:
    """Give an encoder the weights of a causal language model, in float32 (float64 stays).

    Raises:
        ValueError: layers that compute otherwise than the encoder calls them.
    """
    encoder.to(torch.promote_types(model.dtype, torch.float32))
    inner = model.get_decoder()
    for layer, own in zip(encoder.layers, inner.layers, strict=False):
        layer.load_state_dict(own.state_dict())
    encoder.embed_tokens.load_state_dict(inner.embed_tokens.state_dict())
    _check_same(encoder.eval(), inner)


def _check_same(made: PooledEncoder, inner: Any) -> None:
    """The copied layers under a causal mask are the model's own, as far as both go."""
    ids = torch.arange(3, 9)[None] % made.config.vocab_size
    layout = Layout.of([[ids.shape[1]]])
    causal = copy.copy(made)  # the same modules, another mask
    causal.attention = "causal"
    ours, _ = causal.eval()(ids, layout, Pooling((1,)))
    taken = len(made.layers)
    states: list[Tensor] = []
    # what the layer behind gets, or, where none is left, the final norm
    module = inner.layers[taken] if taken < len(inner.layers) else inner.norm
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        device = next(inner.parameters()).device
        inner(input_ids=ids.to(device), use_cache=False)
    finally:
        hook.remove()
    theirs = states[0].to(ours.dtype).cpu()
    loose = inner.dtype in (torch.float16, torch.bfloat16)
    if not torch.allclose(
        ours, theirs, rtol=0.1 if loose else 1e-3, atol=float(theirs.std()) * (0.1 if loose else 1e-3)
    ):
        raise ValueError(
            f"{type(inner).__name__} cannot become the encoder: its layers want more than hidden states, a mask and "
            "rotary positions."
        )
