"""`szilard train latent-sft`: stage 1 in three sub-steps, the labels, stage 2, and a model folder at the end.

Whatever kills it, the same call goes on: stages are read back or go on from their checkpoints, labels part by part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from szilard.engines.engine import Engine
from szilard.reasoning.examples import read_reasoning
from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.latent_sft.labels import forget_labels
from szilard.reasoning.latent_sft.method import CONFIG_ENTRY
from szilard.reasoning.latent_sft.samples import as_samples, samples_digest
from szilard.reasoning.latent_sft.stages import CHAIN, LatentTraining, best_row
from szilard.training.course import split
from szilard.training.loop import uses_fsdp
from szilard.training.model_folder import write_model
from szilard.training.run_folder import check_ours, own_run
from szilard.training.target import Target
from szilard.whole_folder import write_whole

_MADE_FOR = "# szilard latent-sft for"
_FOLDERS = ("stages", "labels")
_FILES = ("training.yaml", "held-out.yaml", "config.json", "model.safetensors")


def train_latent_sft(
    engine: Engine,
    data: Path,
    config: LatentSFTConfig,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Train a model to think in latent tokens and write it to a folder that transformers loads; a stopped run goes on.

    Args:
        engine: the model, best one that was tuned on the chains as text; it has its own weights again afterwards.
        data: problems with chains and answers, as `read_reasoning` takes them.
        config: the settings.
        folder: gets the model with "latent_sft" in its config, its tokenizer, `training.yaml`, `held-out.yaml`, and
            under `stages` metrics, evaluations and the best weights of each stage.
        cache: where the encoder's labels are kept; None: in the folder, until the end.
        limit: only the first so many problems.
        restart: forget an earlier run in the folder.
        progress: is told (done, total) of labelled problems.

    Returns:
        On held-out problems: "accuracy" and "latent_steps" of the model's own chains; "kl" and "ce", in nats, with the
        encoder's put in; and "taught", the accuracy from those at the end of stage 1. Empty where nothing is held out.

    Raises:
        ValueError: unusable data, another engine, or a folder with another run.
    """
    if uses_fsdp():
        raise ValueError("this tunes weights inside the model, which FSDP would take apart: train it with DDP.")
    base = Target(engine).base
    problems = read_reasoning(data, limit)
    learned, held = split(range(len(problems)), config.held_out, config.seed)
    model: Any = engine.model  # type: ignore[attr-defined]
    everything = samples_digest(as_samples(problems, engine.tokenizer, config))
    labels = cache if cache is not None else folder / "labels"
    with contextlib.ExitStack() as opened:
        training = opened.enter_context(  # what it refuses is refused before the folder is touched
            LatentTraining(
                model,
                engine.tokenizer,
                [problems[index] for index in learned],
                [problems[index] for index in held],
                config,
                labels=labels,
                device=engine.device.type,
                progress=progress,
            )
        )
        check_ours(folder, _MADE_FOR, (*_FOLDERS, *_FILES))
        processes = opened.enter_context(
            own_run(
                folder,
                f"{_MADE_FOR} {base['name']} ({base['fingerprint']})\n# data: {everything}\n{config.to_yaml()}",
                folders=_FOLDERS,
                files=_FILES,
                restart=restart,
                other="settings or data, or of another model",
                device=engine.device.type,
            )
        )
        results = training.run(folder / "stages")
        if not processes.is_main_process:
            return {}
        write_latent_model(model, engine.tokenizer, config, folder)
        metrics = {}
        if held:
            chain = best_row(results[CHAIN])
            metrics = {name: chain[name] for name in ("accuracy", "latent_steps", "kl", "ce")}
            metrics["taught"] = best_row(results["both"])["accuracy"]
            write_whole(folder / "held-out.yaml", yaml.safe_dump(metrics))
        if cache is None:
            forget_labels(labels)
        return metrics


def write_latent_model(model: Any, tokenizer: Any, config: LatentSFTConfig, folder: Path) -> None:
    """The model as transformers loads it, with what it was trained for in its config."""
    names = ("top_k", "feedback", "think_open", "think_close", "compression_rate")
    setattr(model.config, CONFIG_ENTRY, {name: getattr(config, name) for name in names})
    try:
        write_model(model, tokenizer, folder)
    finally:
        delattr(model.config, CONFIG_ENTRY)
