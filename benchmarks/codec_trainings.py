"""The trainings of benchmarks/codecs.py: one recipe for every codec, ours or CompressAI's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from codec_sets import CODECS, SMALL
from torch import nn

from szilard.codecs.mlicv2 import MLICv2
from szilard.codecs.photographs import Crops, packaged_photographs
from szilard.codecs.training import CodecConfig, RateDistortion
from szilard.training.loop import fit

FIRST = 0.013
LAMBDAS = (0.0018, 0.0067, 0.025, 0.0932)
BASE_STEPS, STEPS = 4000, 600
CONFIG = CodecConfig(
    crop=128,
    batch_size=4,
    halved=0.5,
    varied=0.5,
    learning_rate=1e-3,
    schedule="cosine",
    warmup=0.02,
    log_every=50,
    save_every=250,
)
OTHER_TRANSFORMS = {
    "mlicv2, residual blocks": replace(SMALL, transform="residual"),
    "mlicpp": replace(SMALL, transform="residual", hgcp="off", reweighting=False, rope=False),
}


def trained(codec: nn.Module, config: CodecConfig, folder: Path, objective: nn.Module | None = None) -> list[Any]:
    """Train on the packaged photographs, or go on with it, or read what was trained; the metrics."""
    steps = config.steps or 1
    count = steps * config.batch_size
    data = Crops(packaged_photographs(), config.crop, count, config.seed, config.halved, config.varied)
    folder.mkdir(parents=True, exist_ok=True)
    own = RateDistortion(codec, config) if objective is None else objective
    return fit(own.train(), data, config, folder, collate=Crops.collate, device="cpu")


def base(name: str, seed: int, work: Path) -> nn.Module:
    """A codec after its first stage."""
    torch.manual_seed(seed)
    codec = MLICv2(OTHER_TRANSFORMS[name]) if name in OTHER_TRANSFORMS else CODECS[name]()
    config = replace(CONFIG, steps=BASE_STEPS, lmbda=FIRST, seed=seed)
    trained(codec, config, work / f"{name.replace(', ', '-').replace(' ', '-')}-base-{seed}")
    return codec


def codec_of(name: str, lmbda: float, seed: int, work: Path) -> Any:
    """A codec of one lambda, with tables."""
    codec = base(name, seed, work)
    config = replace(CONFIG, steps=STEPS, lmbda=lmbda, seed=seed + 1000)
    trained(codec, config, work / f"{name}-{lmbda}-{seed}")
    codec.eval()
    codec.update(force=True, update_quantiles=True)  # type: ignore[operator]
    return codec
