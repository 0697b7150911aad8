"""Simplified models as folders, and their trained extras in the weights.

A folder is the one of `save_pretrained`: config.json with "entropy_guided_attention", safetensors. `read_simplified`
(and `szilard.load`) builds the stock model, changes it as the entry says, and fills in the weights; no code comes with
them.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from szilard.engines.weights import weight_files
from szilard.options import nearest
from szilard.training.entropy_guided_attention.feed_forward import FusedFeedForward, ScaledFeedForward
from szilard.training.entropy_guided_attention.parts import parts_of
from szilard.training.entropy_guided_attention.simplified import KEY, Simplification, restructured
from szilard.training.entropy_guided_attention.temperature import Temperature


def simplification_of(config: Any) -> Simplification | None:
    """What was changed in a model, by its config; None: it is a stock model.

    Raises:
        ValueError: an entry that holds something else.
    """
    entry = getattr(config, KEY, None)
    if entry is None:
        return None
    names = [field.name for field in dataclasses.fields(Simplification)]
    if not isinstance(entry, dict):
        raise ValueError(f"{KEY!r} in config.json must hold settings, as {{'layernorm': false}}, not {entry!r}.")
    for name in entry:
        if name not in names:
            raise ValueError(f"{KEY!r} in config.json has no setting {name!r}{nearest(name, names)}")
    return Simplification(**entry)


def read_simplified(folder: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Read a simplified model from a folder, in eval mode.

    Args:
        folder: as `save_pretrained` of such a model writes it.
        dtype: of the weights; None: as stored.

    Raises:
        ValueError: no such folder, a stock model, or weights that are damaged, pickled, missing or not expected.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"the folder {str(folder)!r} holds no model (no config.json).")
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"no usable config in {str(folder)!r}: {' '.join(str(error).split())[:300]}") from error
    wanted = simplification_of(config)
    if wanted is None:
        raise ValueError(f"{str(folder)!r} holds a stock model (no {KEY!r} in its config.json): load it as any other.")
    weights: dict[str, torch.Tensor] = {}
    try:
        for file in weight_files(folder):
            weights |= load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the weights in {str(folder)!r} are damaged ({error}).") from error
    model = _empty(config, wanted)
    _fill(model, weights, repr(str(folder)))
    return model.to(dtype or config.dtype or torch.float32).eval()


def fold_for_inference(model: Any) -> PreTrainedModel:
    """The same function with fewer parts: a new model, in eval mode.

    Weight and spectral norms become plain weights, temperatures per head go into W_Q (its outputs are divided by t),
    and 1/alpha into the last matrix of the feed-forward network; a linear network of two matrices becomes one (GPT-2).
    Temperatures per position stay, and so does beta, which no weight can hold: it scales the residual connection.

    Raises:
        ValueError: no simplified model.
    """
    wanted = simplification_of(model.config)
    if wanted is None:
        raise ValueError("only a model of `simplify_gpt2` has parts to fold.")
    if wanted.folded:
        return copy.deepcopy(model).eval()
    parts = parts_of(model.config)
    fuses = wanted.linear and not wanted.fuse_ffn and not parts.gated
    plain = dataclasses.replace(wanted, ffn_norm="scale" if wanted.ffn_norm == "scale" else None)
    source = _empty(model.config, plain).to(dtype=model.dtype, device=model.device)
    _fill(source, _plain_weights(model), "the model")
    folded = dataclasses.replace(
        plain,
        folded=True,
        fuse_ffn=wanted.fuse_ffn or fuses,
        attn_temperature=None if wanted.attn_temperature == "head" else wanted.attn_temperature,
    )
    with torch.no_grad():
        for block in parts.of_blocks(source):
            attention, network = getattr(block, parts.attention), getattr(block, parts.feed_forward)
            if wanted.attn_temperature == "head":
                _divide_queries(getattr(attention, parts.queries), attention.temperature)
                del attention.temperature
            if isinstance(network, ScaledFeedForward):
                last = network.network.fused if wanted.fuse_ffn else getattr(network.network, parts.linears[-1])
                _scale_outputs(last, network.scale)
                network.alpha = None
            if fuses:
                inner: Any = network.network if isinstance(network, ScaledFeedForward) else network
                fused = FusedFeedForward(model.config.hidden_size, model.config.resid_pdrop).to(model.dtype)
                fused.take(inner.c_fc, inner.c_proj)
                if isinstance(network, ScaledFeedForward):
                    network.network = fused
                else:
                    setattr(block, parts.feed_forward, fused)
    made = _empty(model.config, folded).to(dtype=model.dtype, device=model.device)
    _fill(made, source.state_dict(), "the model")
    made.generation_config = copy.deepcopy(model.generation_config)
    return made.eval()


@torch.no_grad()
def _plain_weights(model: Any) -> dict[str, torch.Tensor]:
    """The state of a model with normalised weights as they are, not as they are made."""
    # Not by `remove_parametrizations` on a copy: a copied module shares its class, which that would change for both.
    state = model.state_dict()
    training = model.training
    model.eval()  # power iteration stands still
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            state = {own: weight for own, weight in state.items() if not own.startswith(f"{name}.parametrizations.")}
            state[f"{name}.weight"] = module.weight.detach()
    model.train(training)
    return state


def _divide_queries(projection: Any, temperature: Temperature) -> None:
    """1/t into the outputs that are queries, weight and bias."""
    t = temperature.t.repeat_interleave(temperature.query_width // len(temperature.t))
    scale = torch.ones(projection.weight.shape[0 if isinstance(projection, torch.nn.Linear) else 1])
    scale = scale.to(projection.weight)
    scale[: temperature.query_width] = 1 / t.to(scale.dtype)
    _scale_outputs(projection, scale)


def _scale_outputs(layer: Any, scale: torch.Tensor) -> None:
    """Every output of a linear layer times a number, or each times its own [outputs]."""
    rows = isinstance(layer, torch.nn.Linear) and scale.dim() == 1
    layer.weight.mul_(scale[:, None] if rows else scale)
    if layer.bias is not None:
        layer.bias.mul_(scale)


def _empty(config: Any, wanted: Simplification) -> Any:
    """A model of this structure whose weights are still to come; nothing is drawn from the caller's random numbers."""
    config = copy.deepcopy(config)
    if hasattr(config, KEY):
        delattr(config, KEY)
    with torch.random.fork_rng(devices=[]):
        return restructured(AutoModelForCausalLM.from_config(config), wanted, fresh=True)


def _fill(model: Any, weights: dict[str, torch.Tensor], where: str) -> None:
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    for what, names in (("lack", sorted(set(missing) - tied)), ("have in excess", sorted(unexpected))):
        if names:
            raise ValueError(
                f"the weights of {where} do not fit its config.json: they {what} {names[0]} and {len(names) - 1} more."
            )
    model.tie_weights()
