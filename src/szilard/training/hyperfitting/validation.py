"""What hyperfitting does on the way: held-out loss, entropy, and how varied the greedy continuations are."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from szilard.training.hyperfitting.config import HyperfitConfig
from szilard.training.hyperfitting.data import HyperfitData
from szilard.training.hyperfitting.objective import HyperfitObjective
from szilard.training.hyperfitting.open_ended import evaluate_open_ended
from szilard.training.hyperfitting.prediction import held_out_predictions
from szilard.training.loop import read_metrics

HISTORY = "history.jsonl"
Row = dict[str, Any]


def validate(model: Any, tokenizer: Any, data: HyperfitData, config: HyperfitConfig) -> Row:
    """A look at the held-out sequences.

    Returns:
        "val_loss", "val_perplexity" and "val_entropy" (nats), "top1_prob", "top3_prob", "top5_prob", and of greedy
        continuations "tokens", "ttr", "repeated_bigrams", "loops" (means; a text without tokens has no ratio) and
        "samples": [{"context", "continuation"}].
    """
    found = held_out_predictions(model, data.validation, batch_size=config.batch_size)
    row: Row = {
        "val_loss": found.loss,
        "val_perplexity": found.perplexity,
        "val_entropy": found.entropy,
        **{f"top{k}_prob": asdict(found)[f"top_{k}"] for k in (1, 3, 5)},
    }
    contexts = data.contexts(config.validation_generations, config.context_length)
    if not contexts:
        return row
    # Paper's code ends a row at its end token and takes what was written; so does this.
    written = evaluate_open_ended(
        model, tokenizer, contexts, config.new_tokens, window=config.window, bleu=False, batch_size=config.batch_size
    )
    row |= {name: value for name, value in written.summary.items() if not math.isnan(value)}
    row["samples"] = [
        {"context": tokenizer.decode(context), "continuation": text}
        for context, text in zip(contexts, written.texts, strict=True)
    ]
    return row


class Validation(TrainerCallback):
    """Writes a row of history every so many updates and at the end, and stops where the training loss is low enough.

    Args:
        look: measures the model.
        objective: notes the training loss.
        config: the settings.
        examples: sequences of an epoch.
        file: `history.jsonl`; rows behind the checkpoint that a run goes on from are written again.
    """

    def __init__(
        self,
        look: Callable[[], Row],
        objective: HyperfitObjective,
        config: HyperfitConfig,
        examples: int,
        file: Path,
    ) -> None:
        self.look, self.objective, self.config = look, objective, config
        self.batches = math.ceil(examples / config.batch_size)  # of an epoch
        self.per_epoch, self.file = math.ceil(self.batches / config.gradient_accumulation), file

    def begin(self, step: int | None) -> None:
        """Keep the rows up to the checkpoint; without one begin anew, with a row of the untrained model."""
        rows = [] if step is None else [row for row in read_metrics(self.file) if row["update"] <= step]
        scratch = self.file.with_suffix(".tmp")
        scratch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(scratch, self.file)
        if not rows:
            self.write(0, None)

    def write(self, update: int, train_loss: float | None, **others: Any) -> None:
        """Measure, and append the row."""
        row = {"update": update, "train_loss": train_loss, **self.look(), **others}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, every = state.global_step, self.config.validation_freq
        target, epoch_loss = self.config.target_loss, None
        if target is not None and step % self.per_epoch == 0:
            epoch_loss = self.objective.mean_loss(self.batches)
        reached = target is not None and epoch_loss is not None and epoch_loss < target
        if reached:
            control.should_training_stop = control.should_save = True
        # Paper's code looks at (update + 1) % 250 == 0 with updates from 0: after 250, 500, ... as here.
        if step % every == 0 or step == state.max_steps or reached:
            before = step - (step % every or every)  # the look before this one
            loss = epoch_loss if reached else self.objective.mean_loss(self.seen(step) - self.seen(before))
            self.write(step, loss, **({"reached_target": True} if reached else {}))

    def seen(self, step: int) -> int:
        """Batches before this update's end; the last update of an epoch may take fewer."""
        epochs, rest = divmod(step, self.per_epoch)
        return epochs * self.batches + rest * self.config.gradient_accumulation
