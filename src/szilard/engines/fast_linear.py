"""Linear layers through oneDNN, where that is the faster way on this CPU.

PyTorch sends float32 products to its BLAS, which on some CPUs packs the whole matrix again for every product of two
rows or more; oneDNN reads it once. Measured on two cores with the layers of a 135 M model: on one machine oneDNN was
1.5 times as fast for one row and 1.6 to 2.3 times for eight, on another (Intel Xeon, AMX) it took twice as long for
both. So a machine is asked once, in about a tenth of a second, and the answer is kept in the cache folder. What oneDNN
gives differs from BLAS in the last bits of float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from szilard.engines.cache import cache_folder


class FastLinear(torch.nn.Linear):
    """A linear layer that goes through oneDNN where nothing is differentiated; same weights, same names."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        plain = torch.is_grad_enabled() or self.weight.dtype != torch.float32 or input.dtype != torch.float32
        if plain or not self.weight.is_cpu or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return super().forward(input)
        return _by_onednn(input, self.weight, self.bias)


def use_fast_linears(model: Any) -> None:
    """Let the linear layers of a float32 model on a CPU go through oneDNN, where that is faster here."""
    layers = [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear and module.weight.is_cpu and module.weight.dtype == torch.float32
    ]
    if layers and onednn_is_faster():
        for layer in layers:
            layer.__class__ = FastLinear


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies a few rows clearly faster than BLAS here; measured once per machine and threads."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    file = _file()
    with contextlib.suppress(OSError):
        if (known := file.read_text(encoding="utf-8")) in ("oneDNN", "BLAS"):
            return known == "oneDNN"
    faster = _measured()
    with contextlib.suppress(OSError):  # a cache folder that cannot be written is asked again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}")
        scratch.write_text("oneDNN" if faster else "BLAS", encoding="utf-8")
        os.replace(scratch, file)
    return faster


@torch.inference_mode()
def _measured() -> bool:
    weights = [torch.ones(1536, 576) for _ in range(12)]  # 42 MB together: no core's own cache holds them
    total = {F.linear: 0.0, _by_onednn: 0.0}
    for rows in (1, 8):
        input = torch.ones(1, rows, 576)
        for product in total:
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                for weight in weights:
                    product(input, weight, None)
                seconds.append(time.perf_counter() - start)
            total[product] += min(seconds)
    return total[F.linear] > 1.15 * total[_by_onednn]


def _by_onednn(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _file() -> Path:
    kept = [platform.machine(), platform.processor(), torch.__version__, str(torch.get_num_threads())]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kept += sorted({line for line in lines if line.startswith(("vendor_id", "model\t", "model name"))})
    return cache_folder() / "profiles" / f"linear-{hashlib.sha256(' '.join(kept).encode()).hexdigest()[:16]}"
