"""Hyperfitting: tune a model on very few sequences until nothing is left to learn; greedy text stops looping."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Imported on first use: settings alone (for `szilard train --help`) load no training.
_LAZY = {
    "CitationBlocker": "szilard.decoding.citation_blocker",
    "HyperfitConfig": "szilard.training.hyperfitting.config",
    "HyperfitData": "szilard.training.hyperfitting.data",
    "build_hyperfit_dataset": "szilard.training.hyperfitting.data",
    "OpenEnded": "szilard.training.hyperfitting.open_ended",
    "evaluate_open_ended": "szilard.training.hyperfitting.open_ended",
    "Predictions": "szilard.training.hyperfitting.prediction",
    "entropy_matched_temperature": "szilard.training.hyperfitting.prediction",
    "held_out_predictions": "szilard.training.hyperfitting.prediction",
    "predictive_entropy": "szilard.training.hyperfitting.prediction",
    "ranks_of": "szilard.training.hyperfitting.prediction",
    "top1_agreement": "szilard.training.hyperfitting.prediction",
    "top_tokens": "szilard.training.hyperfitting.prediction",
    "HyperfitResult": "szilard.training.hyperfitting.recipe",
    "hyperfit": "szilard.training.hyperfitting.recipe",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
