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

from szilard.engines.model_parts import weights_fingerprint
from szilard.training.hyperfitting.config import HyperfitConfig, last_layers
from szilard.training.hyperfitting.continuations import longest_text
from szilard.training.hyperfitting.data import HyperfitData, collate
from szilard.training.hyperfitting.objective import HyperfitObjective, last_prefixes
from szilard.training.hyperfitting.validation import HISTORY, Row, Validation, validate
from szilard.training.learned import load_learned
from szilard.training.loop import fit, last_checkpoint, planned_steps, read_metrics, uses_fsdp
from szilard.training.recipe import own_chance
from szilard.training.run_folder import check_ours, claim
from szilard.whole_folder import check_folder

_HALF = (torch.float16, torch.bfloat16)
_NOTE = "hyperfitting.yaml"  # whose checkpoints lie in a folder
_MADE_FOR = "# hyperfitting of"
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
        folder: for checkpoints, `history.jsonl` and metrics; a stopped run goes on from there, with the model loaded
            anew. None: nothing is kept.
        resume: False starts anew.

    Raises:
        ValueError: more layers than the model has, sequences or continuations longer than it reads, tokens that it
            does not know, several processes, a folder of something else or of other settings, sequences or weights, or
            a loss that is not a number.
    """
    config = config or HyperfitConfig()
    if uses_fsdp() or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "hyperfitting trains in one process, whose order of batches and whose end it notes: start one."
        )
    _check(model, data, config)
    base = weights_fingerprint(model)
    if model.dtype in _HALF and not config.lora:
        warnings.warn(
            f"the model is turned from {model.dtype} into float32, since half precision loses steps as small as "
            f"{config.learning_rate:g}; precision='bfloat16' still computes in half precision.",
            stacklevel=2,
        )
        model.float()
    if folder is not None:
        where = Path(folder)
        check_folder(where)
        _claim(where, f"{_MADE_FOR} {base}\n# data: {data.digest}\n{config.to_yaml()}", restart=not resume)
        return _train(model, tokenizer, data, config, callbacks, where)
    with tempfile.TemporaryDirectory(prefix="hyperfitting-") as scratch:
        unsaved = replace(config, save_every=config.log_every * (_NEVER // config.log_every))
        return _train(model, tokenizer, data, unsaved, callbacks, Path(scratch))


def _train(
    model: Any,
    tokenizer: Any,
    data: HyperfitData,
    config: HyperfitConfig,
    callbacks: Sequence[TrainerCallback],
    folder: Path,
) -> HyperfitResult:
    last = last_checkpoint(folder / "checkpoints")
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
                fit(objective, data, config, folder, collate=collate, device=device, callbacks=[look, *callbacks])
            objective.eval()
            losses = read_metrics(file)
        finally:
            objective.release()
    if config.lora and updates:  # what is handed back, rounding of the merged weights included
        losses[-1] |= validate(model, tokenizer, data, config)
    reached = bool(losses[-1].get("reached_target"))
    return HyperfitResult(losses, objective.batches_seen(), config.seed, int(losses[-1]["update"]), reached)


def _check(model: Any, data: HyperfitData, config: HyperfitConfig) -> None:
    """Refuse what would fail on the way."""
    longest, length = longest_text(model), data.train.shape[1]
    if longest and length > longest:
        raise ValueError(f"sequences of {length} tokens exceed the {longest} that the model reads.")
    if longest and config.validation_generations and config.context_length + config.new_tokens > longest:
        raise ValueError(
            f"context_length={config.context_length} and {config.new_tokens} new tokens exceed the {longest} that the "
            "model reads: lower max_new_tokens."
        )
    known, highest = int(model.config.get_text_config().vocab_size), int(max(data.train.max(), data.validation.max()))
    if highest >= known:
        raise ValueError(f"the sequences hold token {highest}, but the model knows {known}: are they of its tokenizer?")
    last_prefixes(model, last_layers(config.layers))


def _claim(folder: Path, text: str, *, restart: bool) -> None:
    """Note whose checkpoints will lie in a folder, or find that they are this run's.

    Raises:
        ValueError: they are another's.
    """
    folders, files = ("checkpoints", "tensorboard"), ("metrics.jsonl", HISTORY)
    check_ours(folder, _MADE_FOR, (*folders, *files), note=_NOTE)
    folder.mkdir(parents=True, exist_ok=True)
    other = "settings or sequences, or of a model with other weights"
    claim(folder, text, folders=folders, files=files, restart=restart, other=other, note=_NOTE)
