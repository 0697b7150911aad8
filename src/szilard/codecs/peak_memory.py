"""How much memory a piece of work took at its peak, beyond what was in use before it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Megabytes; None where the system does not tell (it is not Linux), or before the work ended."""

    megabytes: float | None = None


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Of this process inside the block: the GPU's memory where one is in use, otherwise resident memory.

    Memory that the process holds already does not count; what earlier work left to be used again is given back to the
    system before, where that is glibc.
    """
    found = Peak()
    device = torch.cuda.is_available() and torch.cuda.memory_allocated() > 0
    if device:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.megabytes = (torch.cuda.max_memory_allocated() - before) / 2**20
        return
    started = _reset()
    yield found
    peak = _read("VmHWM") if started is not None else None
    if started is not None and peak is not None:
        found.megabytes = max(0.0, peak - started)


def _reset() -> float | None:
    """Forget the process's peak; resident megabytes now."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return None
    return _read("VmRSS")


def _read(name: str) -> float | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return None
