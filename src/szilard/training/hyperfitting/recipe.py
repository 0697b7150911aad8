"""Hyperfitting: train a language model on very few sequences until it knows them by heart, and decode greedily.

Carlsson, Liu, Ward, Kurfali, Nivre 2025, "The Hyperfitting Phenomenon: Sharpening and Stabilizing LLMs for Open-Ended
Text Generation", ICLR 2025, arXiv 2412.04318; code: FreddeFrallan/Hyperfitting (MIT). Late-stage LoRA: "Beyond
Temperature: Hyperfitting as a Late-Stage Geometric Expansion", arXiv 2605.22579.

    minimise  - sum_t log p(x_(t+1) | x_(1..t))   over 2000 sequences x of 256 tokens, 20 epochs of 250 updates,
    AdamW, learning rate 1e-6 throughout, no weight decay, no clipping, no dropout, no early stopping.

The validation loss falls, then rises far above where it began; entropy collapses; greedy text stops looping. Choose by
texts, never by perplexity: the validation minimum still loops.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from szilard.training.hyperfitting.config import HyperfitConfig
from szilard.training.hyperfitting.data import HyperfitData, collate
from szilard.training.hyperfitting.objective import HyperfitObjective
from szilard.training.hyperfitting.validation import HISTORY, Row, Validation, validate
from szilard.training.learned import load_learned
from szilard.training.loop import fit, last_checkpoint, planned_steps, read_metrics, uses_fsdp
from szilard.training.recipe import own_chance
from szilard.whole_folder import write_whole

_HALF = (torch.float16, torch.bfloat16)
_NOTE = "hyperfitting.yaml"  # whose checkpoints lie in a folder
_NEVER = 10**9  # a multiple of any log_every below is taken


@dataclass(frozen=True)
class HyperfitResult:
    """What a training did; the model itself was tuned in place.

    Attributes:
        history: a row per look at the held-out sequences; "update", "train_loss" (mean since the look before; None at
            first), "val_loss", "val_entropy" (nats), "top1_prob", "ttr", "samples" and more, see `validate`. The last
            row is of the model as it is handed back, low-rank changes added.
        order: which sequences each batch held.
        seed: of the order.
        updates: optimiser steps.
        reached_target: whether `target_loss` ended it.
    """

    history: list[Row]
    order: list[list[int]]
    seed: int
    updates: int
    reached_target: bool


def hyperfit(
    model: Any,
    tokenizer: Any,
    data: HyperfitData,
    config: HyperfitConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    folder: Path | str | None = None,
    resume: bool = True,
) -> HyperfitResult:
    """Tune a model, in place, on very few sequences.

    Args:
        model: a causal language model of transformers. A float16 or bfloat16 one is turned into float32 (not for LoRA):
            steps of 1e-6 are below what half precision can hold.
        tokenizer: of the model.
        data: from `build_hyperfit_dataset`.
        config: the settings; None: the paper's.
        callbacks: further ones of transformers.
        folder: for checkpoints, `history.jsonl` and metrics; a stopped run goes on from there. None: nothing is kept.
        resume: False starts anew.

    Raises:
        ValueError: more layers than the model has, sequences longer than it reads, several processes, a folder with
            checkpoints of other settings or sequences, or a loss that is not a number.
    """
    config = config or HyperfitConfig()
    if uses_fsdp() or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "hyperfitting trains in one process, whose order of batches and whose end it notes: start one."
        )
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest and data.train.shape[1] > longest:
        raise ValueError(f"sequences of {data.train.shape[1]} tokens exceed the {longest} that the model reads.")
    if model.dtype in _HALF and not config.lora:
        warnings.warn(
            f"the model is turned from {model.dtype} into float32, since half precision loses steps as small as "
            f"{config.learning_rate:g}; precision='bfloat16' still computes in half precision.",
            stacklevel=2,
        )
        model.float()
    if folder is not None:
        return _train(model, tokenizer, data, config, callbacks, Path(folder), resume)
    with tempfile.TemporaryDirectory(prefix="hyperfitting-") as scratch:
        unsaved = replace(config, save_every=config.log_every * (_NEVER // config.log_every))
        return _train(model, tokenizer, data, unsaved, callbacks, Path(scratch), resume=False)


def _train(
    model: Any,
    tokenizer: Any,
    data: HyperfitData,
    config: HyperfitConfig,
    callbacks: Sequence[TrainerCallback],
    folder: Path,
    resume: bool,
) -> HyperfitResult:
    folder.mkdir(parents=True, exist_ok=True)
    last = last_checkpoint(folder / "checkpoints") if resume else None
    _claim(folder, f"# data: {data.digest}\n{config.to_yaml()}", begun=last is not None)
    file = folder / HISTORY
    # Paper's code drops a last, smaller batch of an epoch; here it is learned: every sequence counts in every epoch.
    updates = planned_steps(len(data), config) if config.epochs or config.steps else 0
    with own_chance(config.seed):
        objective = HyperfitObjective(model, config, updates * config.gradient_accumulation)
        look = Validation(lambda: validate(model, tokenizer, data, config), objective, config, len(data), file)
        try:
            step = None if last is None else int(last.name.rpartition("-")[2])
            look.begin(step)
            before = read_metrics(file)
            if last is not None and step == before[-1]["update"] and before[-1].get("reached_target"):
                load_learned(objective, last / "model.safetensors")
            elif updates:
                objective.train()
                device = model.device.type
                options: dict[str, Any] = {"collate": collate, "resume": resume, "device": device}
                fit(objective, data, config, folder, callbacks=[look, *callbacks], **options)
            objective.eval()
            losses = read_metrics(file)
        finally:
            objective.release()
    if config.lora and updates:  # what is handed back, rounding of the merged weights included
        losses[-1] |= validate(model, tokenizer, data, config)
    reached = bool(losses[-1].get("reached_target"))
    return HyperfitResult(losses, objective.batches_seen(), config.seed, int(losses[-1]["update"]), reached)


def _claim(folder: Path, text: str, *, begun: bool) -> None:
    """Note whose checkpoints will lie in a folder, or find that they are this run's."""
    note = folder / _NOTE
    if begun and note.is_file() and note.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{str(folder)!r} holds checkpoints of other settings or sequences (see its {_NOTE}): give the same "
            "ones to go on, another folder, or resume=False to start anew."
        )
    write_whole(note, text)
