"""The one training loop of the project: Hugging Face's Trainer with checkpoints that survive a kill at any moment.

Mixed precision, accumulation, several processes (DDP, FSDP) are Accelerate's: start the command with
`accelerate launch` or `torchrun`. With FSDP the first process has the trained weights at the end. Metrics go to
`metrics.jsonl` and, where it is installed, to TensorBoard.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_tensorboard_available

from szilard.training.config import TrainingConfig
from szilard.training.learned import learned_state, load_learned
from szilard.training.optimizers import plain_name, regrouped

_WHOLE = "whole"  # lies in a checkpoint that was written to its end
NOTHING = "there is nothing to train on: no text is long enough or has an answer."
Batch = dict[str, Any]  # tensors, or lists of them


def fit(
    objective: nn.Module,
    data: Dataset[Any],
    config: TrainingConfig,
    folder: Path,
    *,
    collate: Callable[[list[Any]], Batch],
    resume: bool = True,
    device: torch.device | str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Train what in `objective` wants gradients, and leave the trained weights in it.

    Args:
        objective: a module whose `forward(**batch)` gives {"loss": a scalar, and metrics: scalars}. With an attribute
            `skips_parameters` that is true, a batch may leave some of its parameters out. With a method
            `clips(name) -> bool`, `max_grad_value` cuts the gradients of those parameters alone. Own rates, decays and
            optimisers: see `optimizers.py`. Checkpoints hold what wants gradients, and buffers.
        data: examples by index.
        config: the settings.
        folder: where checkpoints, `metrics.jsonl` and TensorBoard's files go.
        collate: examples -> batch.
        resume: go on from the last whole checkpoint in the folder, exactly; False: start anew.
        device: "cpu" keeps a GPU out of it; None: what there is.
        callbacks: further ones of transformers: what is measured on the way.

    Returns:
        The logged metrics, a row per `log_every` steps: "step", "loss", "learning_rate", ...

    Raises:
        ValueError: no data, or a loss that is not a number.
    """
    count = len(data)  # type: ignore[arg-type]
    if count == 0:
        raise ValueError(NOTHING)
    checkpoints = folder / "checkpoints"
    if not resume and int(os.environ.get("RANK", 0)) == 0:
        shutil.rmtree(checkpoints, ignore_errors=True)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    last = last_checkpoint(checkpoints)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    steps = planned_steps(count, config)
    if last is not None and int(last.name.rpartition("-")[2]) >= steps:  # Trainer would take one step more
        load_learned(objective, last / "model.safetensors")
        _check_finite(objective)
        return read_metrics(folder / "metrics.jsonl")
    sharded = uses_fsdp()
    if sharded:
        os.environ["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"  # a checkpoint holds all weights
    if is_tensorboard_available():
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(config.schedule, config.schedule),
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        adam_beta2=config.beta_2,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bfloat16",
        fp16=config.precision == "float16",
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        save_steps=config.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        report_to=["tensorboard"] if is_tensorboard_available() else [],
        use_cpu=str(device) == "cpu",
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=bool(getattr(objective, "skips_parameters", False)),
        disable_tqdm=True,
    )
    if processes == 1:
        arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs in one process: the frozen model is on one of them
    journal = _Journal(folder / "metrics.jsonl", config.max_grad_value, getattr(objective, "clips", None))
    learner = copy.deepcopy(objective) if sharded else objective  # FSDP takes a module apart for good
    trainer = _Loop(
        model=learner, args=arguments, train_dataset=data, data_collator=collate, callbacks=[journal, *callbacks]
    )
    trainer.remove_callback(PrinterCallback)
    bar = _Bar()
    trainer.add_callback(bar)
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    finally:
        bar.close()
    if sharded:  # whole on the first process, nothing on the others
        objective.load_state_dict(trainer.accelerator.get_state_dict(trainer.model_wrapped) or objective.state_dict())
    _check_finite(objective)
    return read_metrics(folder / "metrics.jsonl")


def planned_steps(examples: int, config: TrainingConfig) -> int:
    """Optimiser steps of a training on so many examples."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    per_epoch = max(1, math.ceil(examples / (config.batch_size * config.gradient_accumulation * processes)))
    return config.steps or max(1, round(config.epochs * per_epoch))


def _check_finite(objective: nn.Module) -> None:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in objective.parameters()):
        raise ValueError(
            "the weights are no numbers any more: lower learning_rate, or take precision float32, with --restart."
        )


def uses_fsdp() -> bool:
    """Whether this process was started to train with FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; a half-written or damaged one is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found:
        newest = found.pop()
        if (newest / _WHOLE).is_file() and _readable(newest):
            return newest
        shutil.rmtree(newest, ignore_errors=True)
    return None


def _readable(checkpoint: Path) -> bool:
    """Whether the files of a checkpoint that was written to its end are still what they were."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for weights in checkpoint.glob("*.safetensors"):
            with safe_open(weights, "pt"):
                pass
        return all(zipfile.is_zipfile(path) for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth", ".bin"))
    except (OSError, ValueError, SafetensorError):
        return False


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`; a last line that a kill cut off is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class _Loop(Trainer):
    """Trainer that averages what an objective measures beside its loss over the steps of a log line."""

    model: nn.Module  # the objective

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.model_accepts_loss_kwargs = False
        self._sums: dict[str, torch.Tensor] = {}
        self._batches = 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        first = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if first:
            learner: Any = self.model if model is None else model
            self.optimizer = optimizer = regrouped(optimizer, learner, self.model)
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, learned_state(self.model) if state_dict is None else state_dict)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A checkpoint without the frozen parts is how they are."""
        if missing := sorted(set(load_result.missing_keys) & set(learned_state(self.model))):
            raise ValueError(f"the checkpoint is of another training: it has no {missing[0]!r}; start anew.")

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        outputs = model(**inputs)
        for name, value in outputs.items():
            if name != "loss":
                self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._batches += 1
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise ValueError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}: lower learning_rate, or take "
                    "precision float32; the last checkpoint is whole."
                )
            means = {name: total / self._batches for name, total in self._sums.items()}
            if means and self.args.world_size > 1:
                gathered = self.accelerator.reduce(torch.stack(list(means.values())), reduction="mean")
                means = dict(zip(means, gathered, strict=True))
            logs |= {name: float(value) for name, value in means.items()}
            self._sums, self._batches = {}, 0
        super().log(logs, *arguments, **options)


class _Bar(TrainerCallback):
    """Steps done, time left and the newest metrics, on stderr."""

    bar: Progress | None = None

    def close(self) -> None:
        """Give the terminal back, whatever happened."""
        if self.bar is not None:
            self.bar.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        shown = TextColumn("{task.fields[metrics]}")
        hidden = not state.is_world_process_zero
        self.bar = Progress(*columns, shown, console=Console(stderr=True), disable=hidden)
        self.line = self.bar.add_task("", total=state.max_steps, completed=state.global_step, metrics="")
        self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.line, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        shown = {name: logs[name] for name in ("loss", "tokens_per_pass") if name in (logs or {})}
        if shown and self.bar is not None:
            text = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
            self.bar.update(self.line, metrics=text)


class _Journal(TrainerCallback):
    """Writes a line per log, marks checkpoints as whole, and cuts gradients number by number where asked."""

    def __init__(self, file: Path, max_grad_value: float, clips: Callable[[str], bool] | None) -> None:
        self.file, self.max_grad_value, self.clips = file, max_grad_value, clips

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:  # lines behind the checkpoint are written again
            rows = [row for row in read_metrics(self.file) if row["step"] <= state.global_step]
            scratch = self.file.with_suffix(".tmp")
            scratch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            os.replace(scratch, self.file)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if self.max_grad_value:
            named = things["model"].named_parameters()
            chosen = [weight for name, weight in named if self.clips is None or self.clips(plain_name(name))]
            nn.utils.clip_grad_value_(chosen, self.max_grad_value)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            row = {"step": state.global_step} | {name: value for name, value in logs.items() if name != "epoch"}
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # every process has written its part
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            for path in folder.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            (folder / _WHOLE).touch()
