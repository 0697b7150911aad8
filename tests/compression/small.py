"""Every compressor with settings and small random checkpoints that act on texts of a few words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import szilard
from szilard.registry import make_compressor
from szilard.training.target import Target


def _mean_pool(engine) -> Any:
    from szilard.compression.mean_pool.modules import MeanPoolProjector

    torch.manual_seed(1)
    return szilard.MeanPool(MeanPoolProjector(Target(engine).base, layer=2, ratio=4, scale=0.4))


SMALL: dict[str, Callable[[Any], Any]] = {"mean-pool": _mean_pool}


def small_compressor(slug: str, engine) -> Any:
    """The compressor of a slug for the tiny engine."""
    return SMALL[slug](engine) if slug in SMALL else make_compressor(slug)
