"""A single decoder layer of a base model's architecture, as drafters use it: fresh weights, explicit masks, a cache.

In a batch, rows of a text grow by different amounts. The cache then keeps *holes*: slots that no query ever sees.
Positions are given, so a hole shifts nothing.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, DynamicCache

_FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
# What sizes a layer; the rest of a configuration (token ids, names of files, ...) is nobody's business here.
_NOT_KEPT = {"_name_or_path", "architectures", "torch_dtype", "dtype", "transformers_version", "layer_types"}


def layer_settings(config: Any) -> dict[str, Any]:
    """Of a model's text configuration, what `one_layer_model` needs; plain JSON."""
    return {name: value for name, value in config.to_dict().items() if name not in _NOT_KEPT}


def one_layer_model(settings: dict[str, Any]) -> nn.Module:
    """A model of one full-attention layer without embeddings and final norm, freshly initialised.

    Raises:
        ValueError: an architecture that transformers does not know, or without a final norm by a usual name.
    """
    settings = dict(settings)
    kind = settings.pop("model_type", None)
    settings |= {"num_hidden_layers": 1, "n_layer": 1, "vocab_size": 1}
    settings |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    try:
        config = AutoConfig.for_model(kind, **settings)
    except (KeyError, ValueError) as error:
        raise ValueError(f"transformers knows no architecture {kind!r} to build the drafter's layer from.") from error
    with contextlib.suppress(AttributeError):
        config.layer_types = ["full_attention"]
    config._attn_implementation = "sdpa"
    model: Any = AutoModel.from_config(config)
    found = [name for name in _FINAL_NORMS if hasattr(model, name)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no final norm by a usual name, so its layer cannot be taken out.")
    setattr(model, found[0], nn.Identity())
    model.set_input_embeddings(nn.Identity())
    return model.float()


class _Nothing(nn.Module):
    """A sub-layer that adds nothing."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden)


def attention_alone(model: nn.Module) -> None:
    """Strip the layer of a `one_layer_model` to x + attention(x): no norms, no MLP.

    Raises:
        ValueError: an architecture whose layer has no sub-layer called mlp.
    """
    layers: Any = getattr(model, "layers", None) or model.h
    layer = layers[0]
    names = [name for name, _ in layer.named_children()]
    if "mlp" not in names:
        raise ValueError(
            f"the layer of {type(model).__name__} has no MLP by the usual name, so it cannot be taken out."
        )
    for name in names:
        if "norm" in name or name.startswith("ln_"):
            setattr(layer, name, nn.Identity())
    layer.mlp = _Nothing()


def encode(
    model: nn.Module, slots: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, cache: DynamicCache | None
) -> torch.Tensor:
    """Run new slots through a one-layer model.

    Args:
        slots: [batch, new, d].
        positions: of each slot, int64 [batch, new].
        visible: what each new slot sees, bool [batch, new, cached + new]; at least itself.
        cache: gets their keys and values; None: nothing is kept.

    Returns:
        [batch, new, d].
    """
    config: Any = model.config
    known = getattr(config, "max_position_embeddings", None)
    if known:  # drafts behind the context's end are dropped later; a learned table must not be read there
        positions = positions.clamp(max=known - 1)
    mask = torch.zeros(visible.shape, dtype=slots.dtype, device=slots.device)
    mask = mask.masked_fill_(~visible, torch.finfo(slots.dtype).min)[:, None]
    return model(
        inputs_embeds=slots,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state


def growing(seen: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """What new slots of a text see: the text before them, and themselves.

    Args:
        seen: which cached slots are text, bool [batch, cached].
        real: which new slots are, bool [batch, new].

    Returns:
        bool [batch, new, cached + new].
    """
    count = real.shape[1]
    order = torch.arange(count, device=real.device)
    among = ((order[:, None] >= order) & real[:, None]) | (order[:, None] == order)
    return torch.cat([seen[:, None].expand(-1, count, -1), among], dim=2)
