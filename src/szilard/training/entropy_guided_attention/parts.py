"""Where the decoders that can be simplified keep their norms, projections and feed-forward networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

Part = tuple[nn.Module, tuple[slice, ...]]  # a linear layer, and which of its outputs are one matrix each


@dataclass(frozen=True)
class Parts:
    """Names in a family of decoders.

    Attributes:
        blocks: of the list of blocks, in the decoder.
        norms: of a block, in front of attention and in front of the feed-forward network.
        final_norm: of the decoder.
        attention, feed_forward: of a block.
        queries: the projection that makes queries, in the attention.
        linears: of the feed-forward network, from its input to its output.
        activation: of the feed-forward network.
        activation_setting: of the model's config.
        gated: whether the activated part is multiplied with another one.
    """

    blocks: str
    norms: tuple[str, str]
    final_norm: str
    attention: str
    feed_forward: str
    queries: str
    linears: tuple[str, ...]
    activation: str
    activation_setting: str
    gated: bool

    def of_blocks(self, model: Any) -> list[Any]:
        """The blocks of a model."""
        return list(getattr(model.get_decoder(), self.blocks))

    def projections(self, block: Any, words: str) -> list[Part]:
        """Linear layers of a block by letters (q, k, v, o) or "ffn"."""
        attention, network = getattr(block, self.attention), getattr(block, self.feed_forward)
        if words == "ffn":
            names = ("fused",) if hasattr(network, "fused") else self.linears
            return [(getattr(network, name), (slice(None),)) for name in names]
        if self.gated:
            return [(getattr(attention, f"{letter}_proj"), (slice(None),)) for letter in words]
        width = attention.embed_dim
        joint = tuple(slice(at * width, (at + 1) * width) for at, letter in enumerate("qkv") if letter in words)
        return [(attention.c_attn, joint)] + ([(attention.c_proj, (slice(None),))] if "o" in words else [])


_GPT2 = Parts(
    blocks="h",
    norms=("ln_1", "ln_2"),
    final_norm="ln_f",
    attention="attn",
    feed_forward="mlp",
    queries="c_attn",
    linears=("c_fc", "c_proj"),
    activation="act",
    activation_setting="activation_function",
    gated=False,
)
_LLAMA = Parts(
    blocks="layers",
    norms=("input_layernorm", "post_attention_layernorm"),
    final_norm="norm",
    attention="self_attn",
    feed_forward="mlp",
    queries="q_proj",
    linears=("gate_proj", "up_proj", "down_proj"),
    activation="act_fn",
    activation_setting="hidden_act",
    gated=True,
)
_FAMILIES = {"gpt2": _GPT2, "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA}


def parts_of(config: Any) -> Parts:
    """The names in the decoders of a config.

    Raises:
        ValueError: a kind of model that is not known here.
    """
    kind = getattr(config, "model_type", None)
    if kind not in _FAMILIES or getattr(config, "add_cross_attention", False):
        raise ValueError(
            f"decoders of the kinds {', '.join(_FAMILIES)} can be simplified, not {kind!r}"
            f"{' with cross-attention' if kind in _FAMILIES else ''}: their blocks are a norm and attention, a norm "
            "and a feed-forward network."
        )
    return _FAMILIES[kind]


def outputs_first(module: nn.Module) -> bool:
    """Whether a layer's weight is [outputs, inputs], as in nn.Linear; GPT-2 has [inputs, outputs]."""
    return isinstance(module, nn.Linear)
