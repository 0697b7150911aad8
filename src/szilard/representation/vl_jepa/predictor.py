"""The predictor: visual tokens and a query to the embedding of the answer.

Chen et al., "VL-JEPA", arXiv:2512.10942, section 3: the last layers of a causal language model, without their causal
mask, on [P_v S_V, E[X_Q]], the query behind the visual tokens. Step by step, n visual and m query positions:

    H = layers([h_V; h_Q])     mask[b, i, j] = valid[b, j]: no triangle; rotary positions 0 .. n + m - 1
    pooled = sum_j valid_j H_j / sum_j valid_j          over visual and query positions, without padding
    s^ = P_out pooled                                   [B, D]; the model brings it to length 1
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from szilard.options import check_bool, check_number
from szilard.representation.vl_jepa.stock_parts import stock_model


class VLJEPAPredictor(nn.Module):
    """Layers of a Llama-like decoder between two linear maps.

    Args:
        decoder: a decoder of transformers without its head: `layers`, a final norm and rotary positions.
        visual_width: d_v, of the visual tokens.
        embed_dim: D, of the embeddings.
        bidirectional: False keeps the causal mask (an ablation).
        train_embeddings: let the token embeddings learn. The published 490M trainable weights are eight layers and the
            maps, so the embeddings seem to be frozen (inferred).

    Raises:
        ValueError: a model of another kind, or with flash attention, which takes no such mask.
    """

    def __init__(
        self,
        decoder: Any,
        *,
        visual_width: int,
        embed_dim: int = 1536,
        bidirectional: bool = True,
        train_embeddings: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("visual_width", visual_width), ("embed_dim", embed_dim)):
            check_number(name, value, low=1, integer=True)
        check_bool("bidirectional", bidirectional)
        check_bool("train_embeddings", train_embeddings)
        check_kind(decoder)
        kernel = getattr(decoder.config, "_attn_implementation", None)
        if kernel not in (None, "sdpa", "eager"):
            raise ValueError(f"{kernel} takes no mask of one's own: load the model with attn_implementation='sdpa'.")
        self.decoder, self.bidirectional, self.train_embeddings = decoder, bidirectional, train_embeddings
        self.width, self.visual_width, self.embed_dim = int(decoder.config.hidden_size), visual_width, embed_dim
        self.visual_map = nn.Linear(visual_width, self.width)  # P_v
        self.output_map = nn.Linear(self.width, embed_dim)  # P_out
        decoder.get_input_embeddings().weight.requires_grad_(train_embeddings)

    @classmethod
    def from_causal_lm(
        cls,
        model: Any,
        *,
        visual_width: int,
        layers: slice = slice(8, 16),
        embed_dim: int = 1536,
        bidirectional: bool = True,
        train_embeddings: bool = False,
    ) -> VLJEPAPredictor:
        """Layers, token embeddings and final norm (inferred: the paper does not name the norm) of a language model.

        Args:
            model: hub id, folder, or a causal language model of transformers, which stays as it is.
            layers: which; the published ones are the last half of Llama-3.2-1B.
            visual_width, embed_dim, bidirectional, train_embeddings: see the class.

        Raises:
            ValueError: no such layers, or what the class refuses.
        """
        if isinstance(model, str):
            from transformers import AutoModelForCausalLM

            decoder: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).get_decoder()
        else:
            decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
        check_kind(decoder)
        check_layers(decoder, layers)
        decoder = _with_layers(decoder, layers, copied=not isinstance(model, str))
        return cls(
            decoder,
            visual_width=visual_width,
            embed_dim=embed_dim,
            bidirectional=bidirectional,
            train_embeddings=train_embeddings,
        )

    @classmethod
    def from_scratch(
        cls,
        vocab_size: int,
        pad_id: int,
        *,
        visual_width: int,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        embed_dim: int = 128,
        bidirectional: bool = True,
    ) -> VLJEPAPredictor:
        """A small Llama with new weights, all of which learn."""
        return cls(
            small_llama(vocab_size, pad_id, width=width, layers=layers, heads=heads),
            visual_width=visual_width,
            embed_dim=embed_dim,
            bidirectional=bidirectional,
            train_embeddings=True,
        )

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> VLJEPAPredictor:
        """As its `settings` say, with new weights."""
        rest = dict(settings)
        return cls(stock_model(rest.pop("config")), **rest)

    @property
    def settings(self) -> dict[str, Any]:
        """What it is built anew from; weights apart."""
        names = ("visual_width", "embed_dim", "bidirectional", "train_embeddings")
        return {"config": self.decoder.config.to_dict()} | {name: getattr(self, name) for name in names}

    def forward(self, visual: Tensor, query_ids: Tensor | None = None, query_mask: Tensor | None = None) -> Tensor:
        """The answer's embedding, not yet of length 1.

        Args:
            visual: S_V [B, n, d_v].
            query_ids: int64 [B, m], padded on the right; None: no query.
            query_mask: [B, m], true or 1 on tokens; None: all are.

        Returns:
            [B, D].

        Raises:
            ValueError: shapes that do not belong together.
        """
        states, valid = self.states(visual, query_ids, query_mask)
        weights = valid.to(states.dtype).unsqueeze(-1)
        return self.output_map((states * weights).sum(1) / weights.sum(1))

    def states(
        self, visual: Tensor, query_ids: Tensor | None = None, query_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states H [B, n + m, width] and which positions are no padding, bool [B, n + m]."""
        if visual.dim() != 3 or visual.shape[-1] != self.visual_width:
            raise ValueError(f"visual tokens must be [batch, n, {self.visual_width}], not {tuple(visual.shape)}.")
        inputs, valid = self.visual_map(visual), visual.new_ones(visual.shape[:2], dtype=torch.bool)
        if query_ids is not None:
            mask = torch.ones_like(query_ids, dtype=torch.bool) if query_mask is None else query_mask.bool()
            if query_ids.dim() != 2 or len(query_ids) != len(visual) or mask.shape != query_ids.shape:
                raise ValueError(
                    f"query_ids and query_mask must be [{len(visual)}, tokens], not {tuple(query_ids.shape)} and "
                    f"{tuple(mask.shape)}."
                )
            embedded = self.decoder.get_input_embeddings()(query_ids).to(inputs.dtype)
            inputs, valid = torch.cat([inputs, embedded], dim=1), torch.cat([valid, mask], dim=1)
        # A mask of four dimensions is taken as it is. Without one transformers would put its causal mask back.
        mask = attention_mask(valid, inputs.dtype, causal=not self.bidirectional)
        return self.decoder(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state, valid


def attention_mask(valid: Tensor, dtype: torch.dtype, *, causal: bool) -> Tensor:
    """bool [B, L] -> what is added to scores, [B, 1, L, L]: 0 where position i may see j, else the lowest number."""
    length = valid.shape[1]
    seen = valid[:, None, None, :].expand(-1, 1, length, -1)
    if causal:
        seen = seen & torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=valid.device).masked_fill(~seen, torch.finfo(dtype).min)


def small_llama(vocab_size: int, pad_id: int, *, width: int, layers: int, heads: int) -> Any:
    """A Llama without its head, new weights; spread as a width below 768 needs."""
    from transformers import LlamaModel

    return LlamaModel(small_llama_config(vocab_size, pad_id, width=width, layers=layers, heads=heads))


def small_llama_config(vocab_size: int, pad_id: int, *, width: int, layers: int, heads: int) -> Any:
    """The config of a small Llama.

    Raises:
        ValueError: heads that do not divide the width, or are of odd width.
    """
    from transformers import LlamaConfig

    for name, value in (("vocab_size", vocab_size), ("width", width), ("layers", layers), ("heads", heads)):
        check_number(name, value, low=1, integer=True)
    if width % heads or width // heads % 2:
        raise ValueError(f"heads={heads} must divide width={width} into even parts, which rotary positions turn.")
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=4 * width * 2 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        initializer_range=0.02 * (768 / width) ** 0.5,
        pad_token_id=pad_id,
        bos_token_id=None,
        eos_token_id=None,
    )


def check_kind(decoder: Any) -> None:
    """Refuse what has no layers to take.

    Raises:
        ValueError: it is not Llama-like.
    """
    if not hasattr(decoder, "layers") or not hasattr(decoder, "rotary_emb"):
        raise ValueError(
            f"a {type(decoder).__name__} has no layers with rotary positions to predict with: take a Llama-like "
            "model (Llama, Qwen, Mistral, Gemma, SmolLM, ...)."
        )


def check_layers(decoder: Any, layers: slice) -> None:
    """Refuse a slice without layers.

    Raises:
        ValueError: the model has none of these.
    """
    count = len(decoder.layers)
    wanted = slice(layers.start or 0, layers.stop, layers.step)
    if not range(count)[layers] or (wanted.stop is not None and wanted.stop > count):
        raise ValueError(
            f"layers {wanted.start}:{'' if wanted.stop is None else wanted.stop} are asked for, but the model has "
            f"{count}: take some of 0:{count}."
        )


def _with_layers(decoder: Any, layers: slice, *, copied: bool) -> Any:
    """The decoder with these layers only, in its config as well."""
    every = decoder.layers
    decoder.layers = every[layers]
    if copied:
        original = decoder
        try:
            decoder = copy.deepcopy(original)
        finally:
            original.layers = every
    config = decoder.config
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[layers]
    config.num_hidden_layers = len(decoder.layers)
    for index, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = index
    return decoder
