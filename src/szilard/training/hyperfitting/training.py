"""`szilard train hyperfitting`: a hyperfitted model in a folder that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from szilard.engines.engine import Engine
from szilard.training.corpus import Example, read_corpus
from szilard.training.course import Course
from szilard.training.hyperfitting.config import HyperfitConfig
from szilard.training.hyperfitting.data import build_hyperfit_dataset, save_sequences
from szilard.training.hyperfitting.recipe import hyperfit
from szilard.training.model_folder import write_model
from szilard.whole_folder import write_whole

ORDER = "order.json"
_SHOWN = ("val_loss", "val_entropy", "top1_prob", "ttr", "repeated_bigrams", "loops")


def train_hyperfitting(
    engine: Engine,
    data: Path,
    config: HyperfitConfig,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Hyperfit a model and write it to a folder that transformers loads; a stopped run goes on.

    Args:
        engine: the model, on transformers; it is tuned in place.
        data: texts, as `read_corpus` takes them.
        config: the settings.
        folder: gets the model, its tokenizer, `trained-on.safetensors` (the sequences), `order.json` (seed, batches),
            `history.jsonl` (a row per look, with texts), `training.yaml`, `metrics.jsonl`, `held-out.yaml` and
            checkpoints.
        cache, progress: not used; no hidden states are computed beforehand.
        limit: only the first so many texts.
        restart: forget an earlier run in the folder.

    Returns:
        The last look at the held-out sequences: "val_loss", "val_entropy" (nats), "top1_prob", "ttr", ...

    Raises:
        ValueError: unusable or too little data, or other settings than the folder's unfinished run's.
    """
    examples: list[Example] = []

    def read() -> Iterator[Sequence[int]]:
        for example in read_corpus(data, engine, limit=limit):
            if example.images:
                raise ValueError("hyperfitting learns from texts: leave out the records with pictures.")
            examples.append(example)
            yield example.ids

    sequences = build_hyperfit_dataset(read(), engine.tokenizer, config)  # as many as it needs of a large file
    with Course(engine, data, config, folder, restart=restart, examples=examples):
        model: Any = engine.model  # type: ignore[attr-defined]
        found = hyperfit(model, engine.tokenizer, sequences, config, folder=folder, resume=not restart)
        order = {"seed": found.seed, "data": sequences.digest, "batches": found.order}
        write_whole(folder / ORDER, json.dumps(order))
        save_sequences(sequences.train, folder)
        metrics = {name: float(found.history[-1][name]) for name in _SHOWN if name in found.history[-1]}
        write_whole(folder / "held-out.yaml", yaml.safe_dump(metrics))
        write_model(model, engine.tokenizer, folder)
    return metrics
