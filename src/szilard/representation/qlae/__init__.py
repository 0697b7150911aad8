"""QLAE: disentangled latents by quantisation and strong weight decay (Hsu et al. 2023), and its baselines."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Imported on first use: settings alone (for `szilard train --help`) load no training.
_LAZY = {
    "InfoGanConfig": "szilard.representation.qlae.config",
    "QlaeConfig": "szilard.representation.qlae.config",
    "train_infogan": "szilard.representation.qlae.infogan",
    "LatentAutoencoder": "szilard.representation.qlae.model",
    "QLAE": "szilard.representation.qlae.model",
    "measure": "szilard.representation.qlae.objective",
    "LatentQuantizer": "szilard.representation.qlae.quantizer",
    "Quantized": "szilard.representation.qlae.quantizer",
    "QlaeResult": "szilard.representation.qlae.training",
    "train_qlae": "szilard.representation.qlae.training",
    "traversal_page": "szilard.representation.qlae.traversals",
    "write_traversals": "szilard.representation.qlae.traversals",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
