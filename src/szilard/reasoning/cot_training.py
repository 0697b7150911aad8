"""`szilard train cot`: a model that thinks in words first, where trainings of latent reasoning begin."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from szilard.engines.engine import Engine
from szilard.reasoning.examples import read_reasoning, reasoning_digest
from szilard.reasoning.supervised import Chains, train_supervised
from szilard.reasoning.supervised_config import SupervisedConfig
from szilard.training.course import split
from szilard.training.loop import uses_fsdp
from szilard.training.model_folder import write_model
from szilard.training.run_folder import check_ours, own_run
from szilard.training.target import Target

_MADE_FOR = "# szilard cot for"
_FOLDERS = ("stages",)
_FILES = ("training.yaml", "config.json", "model.safetensors")


def train_cot(
    engine: Engine,
    data: Path,
    config: SupervisedConfig,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Tune a model on chains of thought and answers, and write it to a folder; a stopped run goes on.

    Args:
        engine: the model; its weights are tuned in place.
        data: problems with chains and answers, as `read_reasoning` takes them.
        config: the settings.
        folder: gets the model, its tokenizer, `training.yaml`, and under `stages` metrics and evaluations.
        cache, progress: not used; nothing is computed beforehand.
        limit: only the first so many problems.
        restart: forget an earlier run in the folder.

    Returns:
        On held-out problems: "accuracy" and "steps" (tokens of the chain). Empty where nothing is held out.

    Raises:
        ValueError: unusable data, another engine, or a folder with another run.
    """
    if uses_fsdp():
        raise ValueError("this tunes weights inside the model, which FSDP would take apart: train it with DDP.")
    base = Target(engine).base
    problems = read_reasoning(data, limit)
    learned, kept = split(range(len(problems)), config.held_out, config.seed)
    model: Any = engine.model  # type: ignore[attr-defined]
    # what it refuses is refused before the folder is touched
    chains = Chains([problems[index] for index in learned], engine.tokenizer, config)
    check_ours(folder, _MADE_FOR, (*_FOLDERS, *_FILES))
    text = f"{_MADE_FOR} {base['name']} ({base['fingerprint']})\n# data: {reasoning_digest(problems)}\n"
    other = "settings or data, or of another model"
    with (
        own_run(
            folder,
            text + config.to_yaml(),
            folders=_FOLDERS,
            files=_FILES,
            restart=restart,
            other=other,
            device=engine.device.type,
        ) as processes,
        contextlib.ExitStack() as opened,
    ):
        model.requires_grad_(True)
        opened.callback(model.requires_grad_, False)
        result = train_supervised(
            model,
            engine.tokenizer,
            chains,
            [problems[index] for index in kept],
            config,
            folder / "stages",
            device=engine.device.type,
        )
        if not processes.is_main_process:
            return {}
        write_model(model, engine.tokenizer, folder)
    best = max(result.evaluations, key=lambda row: row["accuracy"], default=None)
    return {} if best is None else {name: best[name] for name in ("accuracy", "steps")}
