"""Low-rank changes of a model's weights: trained inside the model, kept beside it, applied while they are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

_LINEAR = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("c_attn", "c_proj", "c_fc"),
)


def inject(
    model: Any, rank: int, dropout: float = 0.0, *, beneath: tuple[str, ...] | None = None
) -> dict[str, nn.Parameter]:
    """Put low-rank adapters of scale 2 beside the linear layers of a text model; they begin as no change.

    Args:
        model: a causal language model.
        rank: of the adapters.
        dropout: share of an adapter's input that is left out in training.
        beneath: only layers whose names in the model begin with one of these; None: all.

    Returns:
        Their float32 parameters by name, which alone want gradients.

    Raises:
        ValueError: none of the model's linear layers has a usual name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    inner = model.get_decoder()  # the text's layers: a vision tower stays as it is
    prefix = next((f"{name}." for name, module in model.named_modules() if module is inner and name), "")
    found = [
        name
        for name, _ in inner.named_modules()
        if name.rpartition(".")[2] in _LINEAR and (beneath is None or f"{prefix}{name}".startswith(beneath))
    ]
    if not found:
        raise ValueError("none of the model's linear layers has a usual name, so low-rank changes find no place.")
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=found)
    inject_adapter_in_model(adapters, inner)
    tuned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in tuned.values():
        parameter.data = parameter.data.float()  # peft takes the model's dtype, in which small steps vanish
    return tuned


@torch.no_grad()
def merge(model: Any) -> None:
    """Fold the adapters into the model's weights, and give it its own layers back.

    Weights become new tensors: who shares the old ones keeps them.
    """
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.merge(safe_merge=True)
    remove(model)


def remove(model: Any) -> None:
    """Give the model its own layers back."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A"):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.base_layer)
    vars(model.get_decoder()).pop("peft_config", None)
    model.requires_grad_(False)


@contextlib.contextmanager
def swapped(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """While this is open the model has these weights; behind it its own again, bit for bit."""
    own = dict(model.named_parameters())
    before = {name: own[name].data for name in weights}
    try:
        for name, weight in weights.items():
            own[name].data = weight
        yield
    finally:
        for name, data in before.items():
            own[name].data = data


class LowRank(nn.Module):
    """Changes W + scale B A of weights, kept beside the model.

    Args:
        shapes: of every changed weight by name: [out, in, rank].
        scale: alpha / rank.
        transposed: names of weights that are stored [in, out] (GPT-2's).
    """

    def __init__(self, shapes: dict[str, list[int]], scale: float, transposed: list[str] | None = None) -> None:
        super().__init__()
        self.shapes = dict(sorted(shapes.items()))  # JSON's order is not ours
        self.scale, self.transposed = scale, set(transposed or ())
        self.down = nn.ParameterList(
            nn.Parameter(torch.zeros(rank, columns)) for _, columns, rank in self.shapes.values()
        )
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(rows, rank)) for rows, _, rank in self.shapes.values())

    @torch.no_grad()
    def applied(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """While this is open the model has the changed weights; behind it its own again.

        Raises:
            ValueError: a model without these weights.
        """
        own = dict(model.named_parameters())
        missing = [name for name in self.shapes if name not in own]
        if missing:
            raise ValueError(f"{type(model).__name__} has no weight {missing[0]!r} that this add-on changes.")
        changed = {}
        for name, down, up in zip(self.shapes, self.down, self.up, strict=True):
            weight = own[name].data
            change = up.to(weight.device) @ down.to(weight.device) * self.scale
            changed[name] = (weight + (change.T if name in self.transposed else change)).to(weight.dtype)
        return swapped(model, changed)

    @torch.no_grad()
    def take(self, tuned: Mapping[str, torch.Tensor]) -> None:
        """Copy what `inject` gave and training changed."""
        for name, down, up in zip(self.shapes, self.down, self.up, strict=True):
            module = name.removesuffix(".weight")
            down.copy_(tuned[f"{module}.lora_A.default.weight"])
            up.copy_(tuned[f"{module}.lora_B.default.weight"])


def described(model: Any, tuned: Mapping[str, torch.Tensor]) -> tuple[dict[str, list[int]], list[str]]:
    """Of adapters in a model: [out, in, rank] by the name of the changed weight, and which are stored [in, out]."""
    shapes, transposed = {}, []
    for name, down in tuned.items():
        module, marker, _ = name.partition(".lora_A.")
        if not marker:
            continue
        up = tuned[f"{module}.lora_B.default.weight"]
        shapes[f"{module}.weight"] = [up.shape[0], down.shape[1], down.shape[0]]
        if getattr(model.get_submodule(module), "fan_in_fan_out", False):
            transposed.append(f"{module}.weight")
    return shapes, transposed
