"""Training Learn2PD's filter on the rows of a folder.

    L = mean over rows and positions of BCE(sigmoid(z_i), [x0_i = y_i])

with z the filter's logits, x0 the model's predictions at a step, y its answer in one-token-per-step decoding. Filled
positions count like open ones.

# Paper: rows are shuffled and split 80/10/10; here: prompts are, because rows of one block resemble each other, and a
# filter would be measured on what it has learned.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn
from torch.utils.data import Dataset

from szilard.diffusion.learn2pd.config import FilterConfig
from szilard.diffusion.learn2pd.filter import BlockFilter
from szilard.diffusion.learn2pd.rows import BlockRows
from szilard.training.loop import Batch, fit
from szilard.training.run_folder import check_ours, claim
from szilard.whole_folder import check_folder, held, write_whole

MONITORED = 0.9  # the threshold of the paper's monitor, FP / (TP + FP)
PARTS = ("train", "validation", "test")
_MADE_FOR = "# szilard training of learn2pd for"
_FOLDERS = ("checkpoints", "tensorboard")
_FILES = ("training.yaml", "metrics.jsonl", "held-out.yaml", "config.json", "model.safetensors", "README.md")


class FilterObjective(nn.Module):
    """The filter's loss: {"loss" (nats per position), "false_share" (1 - precision at 0.9), "precision", "recall"}.

    Args:
        filter: to be trained.
        threshold: of "precision" and "recall".
    """

    def __init__(self, filter: BlockFilter, threshold: float) -> None:
        super().__init__()
        self.filter, self.threshold = filter, threshold

    def forward(self, confidence: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """A batch, float32 and bool [rows, block]."""
        logits = self.filter(confidence)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, label.to(logits))
        with torch.no_grad():
            chance = torch.sigmoid(logits)
            precision, recall = precision_and_recall(chance > self.threshold, label)
            monitored, _ = precision_and_recall(chance > MONITORED, label)
        return {"loss": loss, "false_share": 1 - monitored, "precision": precision, "recall": recall}


def precision_and_recall(accepted: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of the accepted that are final, and of the final that are accepted; of none: 1. Both are bool."""
    right = (accepted & label).sum().double()
    predicted, final = accepted.sum().double(), label.sum().double()
    one = torch.ones_like(right)
    return (
        torch.where(predicted > 0, right / predicted.clamp(min=1), one),
        torch.where(final > 0, right / final.clamp(min=1), one),
    )


def label_entropy(label: torch.Tensor) -> float:
    """Entropy of "is final" without looking at confidences, nats per position: what a filter has to beat."""
    share = float(label.double().mean())
    return sum(-p * math.log(p) for p in (share, 1 - share) if p > 0)


def split_prompts(prompts: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Rows for training, validation and test: 80, 10 and 10 % of the prompts, at least one each.

    Args:
        prompts: of each row, [rows].
        seed: of the choice.

    Returns:
        Numbers of rows, in order, by part.

    Raises:
        ValueError: fewer than three prompts.
    """
    among = np.unique(prompts)
    if len(among) < 3:
        raise ValueError(
            f"the rows are of {len(among)} prompts, but at least 3 are needed (to learn, to validate, to test): "
            "collect more."
        )
    order = among[torch.randperm(len(among), generator=torch.Generator().manual_seed(seed)).numpy()]
    tenth = max(1, round(len(among) / 10))
    chosen = {"test": order[:tenth], "validation": order[tenth : 2 * tenth], "train": order[2 * tenth :]}
    return {part: np.flatnonzero(np.isin(prompts, chosen[part])) for part in PARTS}


class Steps(Dataset[Batch]):
    """What every step looks at: all rows, or so many of them that are shuffled once.

    Args:
        rows: all of them, {"confidence" [rows, block], "label" [rows, block]}.
        count: steps.
        rows_per_step: None: all.
        seed: of the order.
    """

    def __init__(self, rows: Batch, count: int, rows_per_step: int | None, seed: int) -> None:
        self.count, total = count, len(rows["label"])
        self.size = min(rows_per_step or total, total)
        if self.size < total:
            order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
            rows = {name: values[order] for name, values in rows.items()}
        self.batches = [
            {name: values[first : first + self.size] for name, values in rows.items()}
            for first in range(0, total - self.size + 1, self.size)
        ]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index % len(self.batches)]


def train_filter(
    rows: BlockRows, config: FilterConfig, folder: Path, *, restart: bool = False, device: str | None = None
) -> dict[str, float]:
    """Train a filter on collected rows and write it to a folder; a stopped run goes on where it was.

    Args:
        rows: of one model, mask id and block length, which the filter remembers.
        config: the settings.
        folder: gets the add-on, its card, `training.yaml`, `metrics.jsonl`, `held-out.yaml` and checkpoints.
        restart: forget an earlier run in the folder.
        device: "cpu" keeps a GPU out of it; None: what there is.

    Returns:
        For each part P of "train", "validation", "test": "P_loss" (nats per position), "P_label_entropy" (the loss
        that a constant reaches), "P_precision" and "P_recall" at `config.threshold`, "P_false_share" (1 - precision at
        0.9), "P_rows" and "P_prompts".

    Raises:
        ValueError: fewer than three prompts, a folder with another run, or several processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("a filter of a few thousand numbers is trained in one process: start it without a launcher.")
    header = rows.header
    parts = split_prompts(rows.prompt, config.seed)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock", f"the folder {str(folder)!r}"):
        _claim(rows, config, folder, restart)
        torch.manual_seed(config.seed)
        made = BlockFilter(
            header["base"], header["mask_token_id"], rows.block_length, hidden=config.hidden, layers=config.layers
        )
        objective = FilterObjective(made, config.threshold)
        # Numbers of batches are shuffled in every epoch, and there is one epoch: steps take the batches in turn.
        steps = Steps(rows[parts["train"]], _batches(config), config.rows_per_step, config.seed)
        objective.train()
        fit(objective, steps, config, folder, collate=lambda batches: batches[0], device=device)
        metrics: dict[str, float] = {}
        for part, numbers in parts.items():
            measured = measure(objective, rows[numbers])
            measured |= {"rows": len(numbers), "prompts": len(np.unique(rows.prompt[numbers]))}
            metrics |= {f"{part}_{name}": value for name, value in measured.items()}
        write_whole(folder / "held-out.yaml", yaml.safe_dump(metrics))
        made.cpu().save_pretrained(folder)
    return metrics


def _batches(config: FilterConfig) -> int:
    """Batches of the whole training."""
    assert config.steps is not None
    return config.steps * config.gradient_accumulation


@torch.no_grad()
def measure(objective: FilterObjective, rows: Batch, *, at_once: int = 65536) -> dict[str, float]:
    """Loss, label entropy, precision, recall and false share over rows [rows, block]."""
    objective.eval()
    logits = torch.cat([objective.filter(part).cpu() for part in rows["confidence"].split(at_once)])
    label, chance = rows["label"], torch.sigmoid(logits)
    precision, recall = precision_and_recall(chance > objective.threshold, label)
    monitored, _ = precision_and_recall(chance > MONITORED, label)
    return {
        "loss": float(nn.functional.binary_cross_entropy_with_logits(logits, label.to(logits))),
        "label_entropy": label_entropy(label),
        "precision": float(precision),
        "recall": float(recall),
        "false_share": 1 - float(monitored),
    }


def _claim(rows: BlockRows, config: FilterConfig, folder: Path, restart: bool) -> None:
    """Take the folder for this run, or find that it is this run's."""
    base = rows.header["base"]
    data = hashlib.sha256(repr(rows.header).encode())
    for array in (rows.confidence, rows.label, rows.prompt):
        data.update(np.ascontiguousarray(array).tobytes())
    text = f"{_MADE_FOR} {base.get('name')} ({base.get('fingerprint')})\n# data: {data.hexdigest()[:16]}\n"
    text += config.to_yaml()
    check_ours(folder, _MADE_FOR, (*_FOLDERS, *_FILES))
    other = "settings or rows, or for another model"
    claim(folder, text, folders=_FOLDERS, files=_FILES, restart=restart, other=other)
