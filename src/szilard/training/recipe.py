"""Recipes: several stages of training, one after the other, each through the one loop.

A stage has its own data, loss, settings and frozen parts. Stages hand over by sharing modules: when a stage ends, the
weights of its best evaluation are in them. What a stage reached lies in its folder, so that a recipe that was killed
reads its finished stages back and goes on inside the unfinished one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from szilard.training.config import TrainingConfig
from szilard.training.learned import load_learned, save_learned
from szilard.training.loop import Batch, fit, read_metrics, uses_fsdp
from szilard.training.run_folder import claim
from szilard.whole_folder import write_whole

_BEST, _DONE, _EVALUATIONS = "best.safetensors", "done.json", "evaluations.jsonl"
_FOLDERS = ("checkpoints", "tensorboard")


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of its folder.
        config: its settings.
        objective: makes what `fit` trains, when the stage begins, around modules that all stages share.
        data: makes its examples.
        collate: examples -> batch.
        learns: which of the objective's parameters learn, by name; None: those that want gradients already.
        evaluate: objective -> metrics; it may generate. It runs in evaluation mode and with random numbers of its own,
            before the first step, every `evaluate_every` steps, and at the end.
        evaluate_every: steps; None: only before and at the end.
        best: the metric whose best evaluation is handed on; None: the last weights are.
        higher_is_better: of that metric.
        callbacks: further ones of transformers.
    """

    name: str
    config: TrainingConfig
    objective: Callable[[], nn.Module]
    data: Callable[[], Dataset[Any]]
    collate: Callable[[list[Any]], Batch]
    learns: Callable[[str], bool] | None = None
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    evaluate_every: int | None = None
    best: str | None = None
    higher_is_better: bool = True
    callbacks: Sequence[TrainerCallback] = ()

    def __post_init__(self) -> None:
        if self.best is not None and self.evaluate is None:
            raise ValueError(f"stage {self.name!r} is to hand on its best {self.best}, but evaluates nothing.")


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        metrics: rows of the loop, "step", "loss", ...
        evaluations: rows of its evaluations, "step" and metrics.
        best_step: whose weights were handed on.
    """

    metrics: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    best_step: int


def run_recipe(
    stages: Sequence[Stage], folder: Path, *, resume: bool = True, device: torch.device | str | None = None
) -> dict[str, StageResult]:
    """Run stages in their order; a recipe that was stopped goes on where it was.

    Args:
        stages: with different names.
        folder: gets a folder per stage: `metrics.jsonl`, `evaluations.jsonl`, checkpoints while it runs, and
            `best.safetensors`, what was learned.
        resume: go on from what is there; False: forget it.
        device: "cpu" keeps a GPU out of it; None: what there is.

    Returns:
        What each stage did, by its name. The shared modules hold what the last one learned.

    Raises:
        ValueError: equal names, a folder with other settings, evaluations under FSDP, or what `fit` refuses.
    """
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ValueError(f"stages need different names, not {', '.join(names)}.")
    if uses_fsdp() and any(stage.evaluate is not None for stage in stages):
        raise ValueError("evaluations run the whole model, which FSDP takes apart: train with DDP.")
    processes = PartialState(**({"cpu": True} if str(device) == "cpu" else {}))
    if processes.is_main_process:
        for stage in stages:  # all of them, before the first one works
            _claim(stage, folder / stage.name, restart=not resume)
    processes.wait_for_everyone()
    return {stage.name: _run(stage, folder / stage.name, device, processes) for stage in stages}


def _claim(stage: Stage, folder: Path, *, restart: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    claim(
        folder,
        f"# stage {stage.name}\n{stage.config.to_yaml()}",
        folders=_FOLDERS,
        files=("metrics.jsonl", _EVALUATIONS, _BEST, _DONE),
        restart=restart,
        other="settings",
        result=_DONE,
    )


def _run(stage: Stage, folder: Path, device: torch.device | str | None, processes: PartialState) -> StageResult:
    objective = stage.objective()
    wanted = {name: parameter.requires_grad for name, parameter in objective.named_parameters()}
    if stage.learns is not None:
        learned = {name for name in wanted if stage.learns(name)}
        if not learned:
            raise ValueError(f"in stage {stage.name!r} nothing learns: no parameter is chosen.")
        for name, parameter in objective.named_parameters():
            parameter.requires_grad_(name in learned)
    done = folder / _DONE
    try:
        if not done.is_file():
            _train(stage, objective, folder, device, processes)
        load_learned(objective, folder / _BEST)
    finally:
        for name, parameter in objective.named_parameters():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None
    best_step = json.loads(done.read_text(encoding="utf-8"))["best_step"]
    return StageResult(read_metrics(folder / "metrics.jsonl"), read_metrics(folder / _EVALUATIONS), best_step)


def _train(
    stage: Stage, objective: nn.Module, folder: Path, device: torch.device | str | None, processes: PartialState
) -> None:
    watch = _Evaluations(stage, objective, folder, writes=processes.is_main_process)
    objective.train()
    callbacks = [*stage.callbacks, *([watch] if stage.evaluate is not None else [])]
    metrics = fit(
        objective,
        stage.data(),
        stage.config,
        folder,
        collate=stage.collate,
        device=device,
        callbacks=callbacks,
    )
    processes.wait_for_everyone()
    if processes.is_main_process:
        best = watch.best
        if best is None:
            last = int(metrics[-1]["step"]) if metrics else 0
            save_learned(objective, folder / _BEST, step=last)
        step = last if best is None else int(best["step"])
        write_whole(folder / _DONE, json.dumps({"best_step": step}))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    processes.wait_for_everyone()


class _Evaluations(TrainerCallback):
    """Evaluates on the way, keeps a row of each and the weights of the best."""

    def __init__(self, stage: Stage, objective: nn.Module, folder: Path, *, writes: bool) -> None:
        self.stage, self.objective, self.folder, self.writes = stage, objective, folder, writes
        self.rows = read_metrics(folder / _EVALUATIONS)

    @property
    def best(self) -> dict[str, float] | None:
        """The row of the best evaluation so far; None where the last weights count."""
        name = self.stage.best
        if name is None or not self.rows:
            return None
        chosen = max if self.stage.higher_is_better else min
        return chosen(self.rows, key=lambda row: row[name])  # the first of equal ones

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.rows = [row for row in self.rows if row["step"] <= state.global_step]  # later ones come again
        if not self.rows:
            self._evaluate(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every = self.stage.evaluate_every
        if (every and state.global_step % every == 0) or state.global_step >= state.max_steps:
            self._evaluate(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.rows[-1]["step"] < state.global_step:  # a callback stopped the training
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
        evaluate, objective = self.stage.evaluate, self.objective
        assert evaluate is not None
        with own_chance(self.stage.config.seed), torch.no_grad():
            objective.eval()
            row = {"step": step} | {name: float(value) for name, value in evaluate(objective).items()}
            objective.train()
        name = self.stage.best
        if name is not None and name not in row:
            raise ValueError(f"the evaluation of stage {self.stage.name!r} gives no {name!r} but {', '.join(row)}.")
        self.rows.append(row)
        if not self.writes:
            return
        if self.best is row:
            save_learned(objective, self.folder / _BEST, step=step)
        scratch = self.folder / f".{_EVALUATIONS}.tmp"
        scratch.write_text("".join(json.dumps(one) + "\n" for one in self.rows), encoding="utf-8")
        os.replace(scratch, self.folder / _EVALUATIONS)


@contextmanager
def own_chance(seed: int) -> Iterator[None]:
    """Random numbers that begin at `seed` inside the block and leave no trace behind it."""
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
