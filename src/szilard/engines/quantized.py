"""Weights in eight or four bits by torchao, for `szilard.load(..., quantize=...)`; what is computed stays bfloat16."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from torch.nn import functional as F

FORMATS = ("int8", "int4")
GROUP = 32  # weights that share a scale in int4; in int8 a row does
_FEW_ROWS = 24  # up to so many the product with bytes is the faster one


class Int8Linear(torch.nn.Linear):
    """A linear layer on a CPU with torchao's `Int8Tensor` for a weight; few rows are multiplied with its bytes.

    torchao itself first writes the whole weight out in the activations' precision, which costs more than it saves.
    """

    row_scale: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight: Any = self.weight
        rows = input.reshape(-1, input.shape[-1])
        if rows.shape[0] <= _FEW_ROWS:
            found = torch.ops.aten._weight_int8pack_mm(rows, weight.qdata, self.row_scale)
        else:
            found = F.linear(rows, weight.qdata.to(rows.dtype) * self.row_scale[:, None])
        if self.bias is not None:
            found = found + self.bias
        return found.view(*input.shape[:-1], found.shape[-1])


def check_quantize(format: str | None, engine: str, dtype: Any) -> None:
    """Refuse a format before weights are read.

    Raises:
        ValueError: it is unknown, torchao is missing, the engine has formats of its own, or another precision is asked.
    """
    if format is None:
        return
    if format not in FORMATS:
        raise ValueError(f"quantize must be int8 or int4, not {format!r}.")
    if engine == "llama.cpp":
        raise ValueError("quantize is an option of the transformers engine; llama.cpp runs a file as it is quantised.")
    if dtype not in ("auto", "bfloat16", torch.bfloat16):
        raise ValueError(f"quantize={format!r} computes in bfloat16: leave dtype out, not {str(dtype)!r}.")
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(f"quantize={format!r} needs the package torchao: pip install 'szilard[quantize]'")


def quantize(model: Any, format: str) -> None:
    """Turn the weights of a model's linear layers into `format`, in place; the input embedding stays as it is.

    Layers whose shape the format cannot hold stay as they are too: int4 needs inputs in multiples of 32, outputs of 16.

    Args:
        model: in bfloat16.
        format: "int8" (symmetric, a scale per row) or "int4" (a scale and zero point per 32 weights).
    """
    log = logging.getLogger("torchao")
    before, log.level = log.level, logging.ERROR  # it warns of kernels for GPUs that are not here
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    finally:
        log.level = before
    on_cpu = model.device.type == "cpu"
    config: Any
    if format == "int8":
        config = Int8WeightOnlyConfig(set_inductor_config=False)
    elif on_cpu:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        config = PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False)
    else:
        config = Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")

    def fits(module: torch.nn.Module, name: str) -> bool:
        if not isinstance(module, torch.nn.Linear):
            return False
        return format == "int8" or (module.in_features % GROUP == 0 and module.out_features % 16 == 0)

    quantize_(model, config, filter_fn=fits)
    if on_cpu and format == "int8":
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and hasattr(module.weight, "qdata"):
                module.__class__ = Int8Linear
                weight: Any = module.weight
                module.register_buffer("row_scale", weight.scale.flatten().to(model.dtype), persistent=False)
