"""Decoders without layer normalisation and activation, for private inference.

Jha and Reagen 2025, "Entropy-Guided Attention for Private LLMs", arXiv 2501.03489. The block of GPT-2

    X_SA  = X + MHA(LN1(X))
    X_out = X_SA + FFN(LN2(X_SA))

loses its norms (LN = identity), its activation (FFN linear, so one matrix: FuFFN), and gets what keeps it trainable:
static norms of weights, or scales alpha and beta, and softmax temperatures. What is made is the stock class of
transformers with parts replaced, so that `generate`, caches and attention kernels are the stock ones; a stock config
says the rest (`activation_function="relu"`).

    SM+LN+G  baseline          SM+G  no norms           SM          softmax alone, d -> 4d -> d
    SM+LN+R  ReLU              SM+R  ReLU, no norms     FuFFN       softmax alone, d -> d
    SM+LN    no activation                              ScFuFFN     and alpha, beta
                                                        SM(t)+ScFuFFN   and temperatures
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from szilard.options import check_bool, check_choice, check_number, nearest
from szilard.training.entropy_guided_attention.feed_forward import FusedFeedForward, ScaledFeedForward
from szilard.training.entropy_guided_attention.parts import Parts, parts_of
from szilard.training.entropy_guided_attention.temperature import Temperature
from szilard.training.entropy_guided_attention.weight_norms import normalise

KEY = "entropy_guided_attention"  # in config.json
NORM_OF = ("ffn", "qk", "qk+ffn", "qkv+ffn", "qkvo+ffn")


@dataclass(frozen=True)
class Simplification:
    """What is changed in a decoder; it stands in the config of the model under "entropy_guided_attention".

    Attributes:
        layernorm: keep the norms of the blocks.
        final_layernorm: keep the one behind the last block; None: as `layernorm`.
        activation: of the feed-forward network, a name of transformers ("gelu_new", "relu"); None: identity.
        fuse_ffn: one matrix d x d in the place of the two of a feed-forward network; without activation only.
        ffn_norm: "weight" or "spectral" normalisation of the weights, "scale" (alpha, beta), or None.
        norm_of: which weights "weight" and "spectral" normalise: "ffn" (the paper's best), "qk", "qk+ffn", "qkv+ffn",
            "qkvo+ffn".
        attn_temperature: "head": t in R^H per layer (ours); "head_pos": t in R^(H x T), as in the paper, which caps the
            text at T positions; None: none.
        temperature_init: of t. 1e-2 and 1e-1 in the paper, for models without norms, whose scores are near 0; 1 changes
            nothing.
        folded: what can be in the weights is: see `fold_for_inference`.
    """

    layernorm: bool = False
    final_layernorm: bool | None = None
    activation: str | None = None
    fuse_ffn: bool = True
    ffn_norm: str | None = None
    norm_of: str = "ffn"
    attn_temperature: str | None = None
    temperature_init: float = 1e-2
    folded: bool = False

    def __post_init__(self) -> None:
        for name in ("layernorm", "fuse_ffn", "folded"):
            check_bool(name, getattr(self, name))
        if self.final_layernorm is not None:
            check_bool("final_layernorm", self.final_layernorm)
        if self.activation is not None and self.activation not in ACT2FN:
            raise ValueError(
                f"activation must be None or a name of transformers, not {self.activation!r}"
                f"{nearest(str(self.activation), ACT2FN)}"
            )
        if self.ffn_norm is not None:
            check_choice("ffn_norm", self.ffn_norm, ("weight", "spectral", "scale"))
        check_choice("norm_of", self.norm_of, NORM_OF)
        if self.attn_temperature is not None:
            check_choice("attn_temperature", self.attn_temperature, ("head", "head_pos"))
        check_number("temperature_init", self.temperature_init, low=1e-6, high=1e6)
        if self.fuse_ffn and not self.linear:
            raise ValueError(
                f"fuse_ffn=True multiplies the two matrices of a feed-forward network, between which "
                f"{self.activation!r} stands: set activation=None, or fuse_ffn=False."
            )
        if self.ffn_norm == "scale" and self.layernorm:
            raise ValueError(
                "ffn_norm='scale' scales the residual connection in the place of layer normalisation: set "
                "layernorm=False, or ffn_norm=None."
            )

    @property
    def linear(self) -> bool:
        """Whether the feed-forward network has no activation."""
        return self.activation in (None, "linear")

    @property
    def keeps_final_norm(self) -> bool:
        """Whether the norm behind the last block stays."""
        return self.layernorm if self.final_layernorm is None else self.final_layernorm


_BASE = Simplification(fuse_ffn=False)
ARCHITECTURES: dict[str, Simplification] = {
    "SM+LN+G": dataclasses.replace(_BASE, layernorm=True, activation="gelu_new"),
    "SM+LN+R": dataclasses.replace(_BASE, layernorm=True, activation="relu"),
    "SM+LN": dataclasses.replace(_BASE, layernorm=True),
    "SM+G": dataclasses.replace(_BASE, activation="gelu_new"),
    "SM+R": dataclasses.replace(_BASE, activation="relu"),
    "SM": _BASE,
    "FuFFN": Simplification(),
    "ScFuFFN": Simplification(ffn_norm="scale"),
    "SM(t)+ScFuFFN": Simplification(ffn_norm="scale", attn_temperature="head_pos"),
}


def simplify_gpt2(
    config_or_model: PretrainedConfig | PreTrainedModel,
    layernorm: bool = False,
    activation: str | None = None,
    fuse_ffn: bool = True,
    ffn_norm: str | None = None,
    attn_temperature: str | None = None,
    temperature_init: float = 1e-2,
    *,
    norm_of: str = "ffn",
    final_layernorm: bool | None = None,
) -> PreTrainedModel:
    """A GPT-2 without what is expensive in private inference; Llama, Mistral and Qwen2 too, but for fused networks.

    Args:
        config_or_model: a config (new weights are drawn) or a model (a copy is changed and keeps its weights; fused
            networks are the products of its matrices, which is exact where there was no activation).
        layernorm, activation, fuse_ffn, ffn_norm, attn_temperature, temperature_init, norm_of, final_layernorm: see
            `Simplification`.

    Returns:
        A model of the stock class, in the mode and precision of what was given.

    Raises:
        ValueError: another kind of model, or settings that do not go together.
        TypeError: neither a config nor a model.
    """
    wanted = Simplification(
        layernorm=layernorm,
        activation=activation,
        fuse_ffn=fuse_ffn,
        ffn_norm=ffn_norm,
        attn_temperature=attn_temperature,
        temperature_init=temperature_init,
        norm_of=norm_of,
        final_layernorm=final_layernorm,
    )
    return simplified(config_or_model, wanted)


def simplified(config_or_model: Any, wanted: Simplification) -> PreTrainedModel:
    """See `simplify_gpt2`; with the settings in one object, as `ARCHITECTURES` has them."""
    given = config_or_model
    if not isinstance(given, (PretrainedConfig, PreTrainedModel)):
        raise TypeError(f"simplify a config or a model of transformers, not a {type(given).__name__}.")
    config = given if isinstance(given, PretrainedConfig) else given.config
    parts = parts_of(config)
    if getattr(config, KEY, None):
        raise ValueError("this model is simplified already: give the one that it was made of, or a stock config.")
    if wanted.fuse_ffn and parts.gated:
        raise ValueError(
            f"fuse_ffn=True needs a feed-forward network of two matrices; that of {config.model_type} multiplies a "
            "gate in, which is not linear even without activation: set fuse_ffn=False."
        )
    if isinstance(given, PretrainedConfig):
        config = copy.deepcopy(config)
        setattr(config, parts.activation_setting, wanted.activation or "linear")
        return restructured(AutoModelForCausalLM.from_config(config), wanted, fresh=True)
    return restructured(copy.deepcopy(given), wanted)


def restructured(model: Any, wanted: Simplification, *, fresh: bool = False) -> PreTrainedModel:
    """The model itself, changed.

    Args:
        model: a stock model.
        wanted: what to change.
        fresh: fused networks draw weights, as the second matrix of a stock network does, instead of multiplying two.
    """
    config = model.config
    parts = parts_of(config)
    setattr(config, parts.activation_setting, wanted.activation or "linear")
    if not wanted.keeps_final_norm:
        setattr(model.get_decoder(), parts.final_norm, torch.nn.Identity())
    for block in parts.of_blocks(model):
        _restructure(block, parts, wanted, config, fresh)
    setattr(config, KEY, dataclasses.asdict(wanted))
    return model.to(dtype=model.dtype, device=model.device).train(model.training)


def _restructure(block: Any, parts: Parts, wanted: Simplification, config: Any, fresh: bool) -> None:
    if not wanted.layernorm:
        for name in parts.norms:
            setattr(block, name, torch.nn.Identity())
    network = getattr(block, parts.feed_forward)
    setattr(network, parts.activation, ACT2FN[wanted.activation or "linear"])
    if wanted.fuse_ffn:
        fused = FusedFeedForward(config.hidden_size, config.resid_pdrop)
        fused.to(dtype=network.c_fc.weight.dtype, device=network.c_fc.weight.device)
        if fresh:
            spread = config.initializer_range / (2 * config.num_hidden_layers) ** 0.5
            torch.nn.init.normal_(fused.fused.weight, std=spread)
        else:
            fused.take(network.c_fc, network.c_proj)
        setattr(block, parts.feed_forward, fused)
    if wanted.ffn_norm in ("weight", "spectral") and not wanted.folded:
        for words in wanted.norm_of.split("+"):
            for layer, rows in parts.projections(block, words):
                normalise(layer, rows, wanted.ffn_norm)
    if wanted.ffn_norm == "scale":
        setattr(block, parts.feed_forward, ScaledFeedForward(getattr(block, parts.feed_forward), wanted.folded))
    if wanted.attn_temperature == "head_pos" or (wanted.attn_temperature and not wanted.folded):
        attention = getattr(block, parts.attention)
        length = config.max_position_embeddings if wanted.attn_temperature == "head_pos" else None
        attention.temperature = Temperature(config.num_attention_heads, length, wanted.temperature_init)
        attention.temperature.install(attention, getattr(attention, parts.queries))
