"""Training of mean pooling's MLP through the frozen model, by the text that follows a context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from szilard.compression.continuation import ContinuationObjective, measure_continuation
from szilard.compression.mean_pool.config import MeanPoolConfig
from szilard.compression.mean_pool.modules import MeanPoolProjector, hidden_states
from szilard.compression.passages import Passages, check_fits
from szilard.engines.engine import Engine
from szilard.training.course import Course
from szilard.training.target import Target


class MeanPoolObjective(ContinuationObjective):
    """See `ContinuationObjective`."""

    def __init__(self, projector: MeanPoolProjector, target: Target) -> None:
        super().__init__(target)
        self.projector = projector

    def vectors(self, contexts: list[torch.Tensor]) -> list[torch.Tensor]:
        states = hidden_states(self.target.model, contexts, self.projector.layer)
        return [self.projector(row).to(self.target.model.dtype) for row in states]


def train_mean_pool(
    engine: Engine,
    data: Path,
    config: MeanPoolConfig,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Train the MLP and write the add-on; see `Course`.

    Returns:
        Nats per token of held-out text behind the vectors, behind the whole context and behind nothing.

    Raises:
        ValueError: unusable data, or a layer that the model lacks.
    """
    check_fits(engine, config.context, config.target)
    with Course(engine, data, config, folder, limit=limit, restart=restart) as course:
        target = course.target
        layers = int(target.config.num_hidden_layers)
        layer = layers // 2 if config.layer is None else config.layer
        if layer > layers:
            raise ValueError(f"layer must be at most {layers} for {engine.name}, not {layer}.")
        scale = float(target.model.get_input_embeddings().weight.float().pow(2).mean().sqrt())
        projector = MeanPoolProjector(target.base, layer, config.ratio, scale).to(engine.device)
        objective = MeanPoolObjective(projector, target)
        held = course.train(objective, Passages(course.tokens(), config.context, config.target), Passages.collate)
        metrics = measure_continuation(objective, held, batch_size=config.batch_size)
        if course.leads:
            course.finish(projector, metrics)
    return metrics
