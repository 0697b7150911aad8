"""The official checkpoints of masked diffusion models, said in the words of stock transformers architectures.

LLaDA (Nie et al. 2025, arXiv 2502.09992) is a Llama without a causal mask, written down with OLMo's names; Dream (Ye et
al. 2025, arXiv 2508.15487) is a Qwen2 without one. So neither needs code that comes with its weights. What a Llama or a
Qwen2 cannot compute is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

_BLOCK = {  # within a block: LLaDA's name -> Llama's
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_AROUND = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}
_ONLY = {  # settings of LLaDA's code that a Llama has no words for, and the one value that it computes
    "block_type": "llama",
    "block_group_size": 1,
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "clip_qkv": None,
    "multi_query_attention": False,
}


@dataclass(frozen=True)
class Layout:
    """How one family writes its checkpoints.

    Attributes:
        family: its name, for sentences.
        shift_logits: whether the hidden state at i - 1 predicts token i.
        end_of_turn: the token that ends a turn of a chat, where the tokenizer has it.
        config: config.json -> the stock architecture's.
        stock_name: a weight's name in the files -> the stock architecture's; None: it is none of the family's.
    """

    family: str
    shift_logits: bool
    end_of_turn: str
    config: Callable[[Mapping[str, Any]], PretrainedConfig]
    stock_name: Callable[[str], str | None]


def layout_of(config: Mapping[str, Any]) -> Layout | None:
    """The layout that a config.json names; None: it is of another kind."""
    return _LAYOUTS.get(str(config.get("model_type", "")).lower())


def _llada_config(config: Mapping[str, Any]) -> LlamaConfig:
    for name, value in _ONLY.items():  # a setting that is left out has the released models' value (inferred)
        given = config.get(name, value)
        if (given or None) != (value or None):
            raise ValueError(
                f"this LLaDA checkpoint has {name}={given!r}, but the Llama architecture computes {value!r} only: it "
                "cannot be loaded."
            )
    width, heads, rows = _whole(config, "d_model"), _whole(config, "n_heads"), embedding_rows(config)
    shared = _whole(config, "n_kv_heads") if config.get("n_kv_heads") is not None else heads
    if width % heads or heads % shared:
        raise ValueError(
            f"d_model={width}, n_heads={heads} and n_kv_heads={shared} of this LLaDA checkpoint do not divide: its "
            "config.json is damaged."
        )
    if config.get("mlp_hidden_size") is not None:
        inner = _whole(config, "mlp_hidden_size")
    else:
        inner = _whole(config, "mlp_ratio") * width
    return LlamaConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=_whole(config, "n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=shared,
        hidden_act="silu",
        max_position_embeddings=_whole(config, "max_sequence_length"),
        rms_norm_eps=float(_number(config, "rms_norm_eps")),
        rope_parameters={"rope_type": "default", "rope_theta": float(_number(config, "rope_theta"))},
        tie_word_embeddings=bool(config.get("weight_tying", False)),
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=None,
        eos_token_id=config.get("eos_token_id"),
        pad_token_id=config.get("pad_token_id"),
    )


def embedding_rows(config: Mapping[str, Any]) -> int:
    """Rows of the token embeddings: `embedding_size`, which may be `vocab_size` rounded up.

    The rows behind the vocabulary stay, as in the official code: their logits are part of its softmax.
    """
    words = _whole(config, "vocab_size")
    if config.get("embedding_size") is None:
        return words
    rows = _whole(config, "embedding_size")
    if rows < words:
        raise ValueError(
            f"embedding_size={rows} of this checkpoint is less than vocab_size={words}, so that some tokens have no "
            "embedding: its config.json is damaged."
        )
    return rows


def _llada_name(name: str) -> str | None:
    block = re.fullmatch(r"model\.transformer\.blocks\.(\d+)\.(\w+)\.weight", name)
    if block is None:
        return _AROUND.get(name)
    part = _BLOCK.get(block[2])
    return None if part is None else f"model.layers.{block[1]}.{part}.weight"


def _dream_config(config: Mapping[str, Any]) -> Qwen2Config:
    given: tuple[tuple[str, Any], ...] = (("use_mrope", False), ("hidden_act", "silu"), ("use_sliding_window", False))
    for name, value in given:
        if config.get(name, value) != value:
            raise ValueError(
                f"this Dream checkpoint has {name}={config[name]!r}, but released ones have {value!r}, and nothing "
                "else is known to be computed rightly: it cannot be loaded."
            )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    kind = rope.get("rope_type", rope.get("type", "default"))
    return Qwen2Config(
        vocab_size=_whole(config, "vocab_size"),
        hidden_size=_whole(config, "hidden_size"),
        intermediate_size=_whole(config, "intermediate_size"),
        num_hidden_layers=_whole(config, "num_hidden_layers"),
        num_attention_heads=_whole(config, "num_attention_heads"),
        num_key_value_heads=_whole(config, "num_key_value_heads"),
        max_position_embeddings=_whole(config, "max_position_embeddings"),
        rms_norm_eps=float(_number(config, "rms_norm_eps")),
        rope_parameters={**rope, "rope_type": kind, "rope_theta": float(_number({"rope_theta": theta}, "rope_theta"))},
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        bos_token_id=config.get("bos_token_id"),
        eos_token_id=config.get("eos_token_id"),
        pad_token_id=config.get("pad_token_id"),
    )


def _number(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"config.json must give {name} as a positive number, not {value!r}.")
    return value


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = _number(config, name)
    if value != int(value):
        raise ValueError(f"config.json must give {name} as a whole number, not {value!r}.")
    return int(value)


_LAYOUTS = {
    "llada": Layout("LLaDA", False, "<|eot_id|>", _llada_config, _llada_name),
    "dream": Layout("Dream", True, "<|im_end|>", _dream_config, lambda name: name),
}
