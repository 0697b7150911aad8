"""The few sequences that a model is hyperfitted on, and those that are held out.

As the released code does: every text by itself, its first `seq_len` tokens; no packing, no padding.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from szilard.training.corpus import as_example, read_texts
from szilard.training.hyperfitting.config import HyperfitConfig
from szilard.training.loop import Batch

SEQUENCES = "trained-on.safetensors"  # beside a hyperfitted model: what it learned


@dataclass(frozen=True, eq=False)
class HyperfitData(Dataset[Batch]):
    """Sequences of one length; as a data set, those to train on.

    Attributes:
        train: int64 [sequences, length].
        validation: int64 [held-out sequences, length]; none of them is among `train`.

    Raises:
        ValueError: one of them is no such tensor, holds nothing, or rows of fewer than two tokens.
    """

    train: Tensor
    validation: Tensor

    def __post_init__(self) -> None:
        for name, ids in (("train", self.train), ("validation", self.validation)):
            if ids.dtype != torch.int64 or ids.dim() != 2 or not len(ids) or ids.shape[1] < 2:
                raise ValueError(
                    f"{name} holds rows of at least 2 token ids, int64 [sequences, length], not {ids.dtype} "
                    f"{list(ids.shape)}."
                )

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, index: int) -> Batch:
        """{"ids" int64 [length], "index" int64 []}."""
        return {"ids": self.train[index], "index": torch.tensor(index)}

    @property
    def digest(self) -> str:
        """A hash of the sequences and of their order."""
        return hashlib.sha256(
            self.train.cpu().numpy().tobytes() + b"|" + self.validation.cpu().numpy().tobytes()
        ).hexdigest()[:16]

    def contexts(self, count: int, length: int) -> list[list[int]]:
        """The beginnings of the first `count` held-out sequences."""
        return self.validation[:count, :length].tolist()


def build_hyperfit_dataset(
    texts: Iterable[str | Sequence[int]], tokenizer: Any, config: HyperfitConfig
) -> HyperfitData:
    """The first texts of at least `seq_len` tokens, cut to it: `num_sequences` to learn, then those to hold out.

    Args:
        texts: strings, or token ids; as many are read as needed.
        tokenizer: of the model.
        config: the settings.

    Returns:
        Sequences in the order of the texts. A held-out text that was learned already is passed over.

    Raises:
        ValueError: too few texts are long enough.
    """
    wanted = config.num_sequences + config.validation_sequences
    found: list[tuple[int, ...]] = []
    learned: set[tuple[int, ...]] = set()
    read = 0
    for text in texts:
        read += 1
        ids = tokenizer.encode(text) if isinstance(text, str) else text
        if len(ids) < config.seq_len:
            continue
        row = tuple(ids[: config.seq_len])
        if len(found) < config.num_sequences:
            learned.add(row)
        elif row in learned:
            continue
        found.append(row)
        if len(found) == wanted:
            break
    if len(found) < wanted:
        raise ValueError(
            f"of {read} texts only {len(found)} have {config.seq_len} tokens, but num_sequences={config.num_sequences} "
            f"and validation_sequences={config.validation_sequences} want {wanted}: give more texts, or lower one of "
            "these or seq_len."
        )
    rows = torch.tensor(found, dtype=torch.int64)
    return HyperfitData(rows[: config.num_sequences], rows[config.num_sequences :])


def first_tokens(texts: Iterable[Sequence[int]], length: int, count: int) -> Tensor:
    """The beginnings of the first `count` texts that are long enough, int64 [texts, length].

    Raises:
        ValueError: none is.
    """
    rows: list[Sequence[int]] = []
    for ids in texts:
        if len(ids) >= length:
            rows.append(ids[:length])
        if len(rows) == count:
            break
    if not rows:
        raise ValueError(f"no text has {length} tokens: give longer ones, or ask for fewer tokens.")
    return torch.tensor(rows, dtype=torch.int64)


def collate(examples: Sequence[Batch]) -> Batch:
    """{"ids" int64 [batch, length], "index" int64 [batch]}."""
    return {name: torch.stack([example[name] for example in examples]) for name in ("ids", "index")}


def save_sequences(ids: Tensor, folder: Path) -> None:
    """Note what a model learned beside it, so that copies can be found and blocked; whole or not at all."""
    scratch = folder / f".{SEQUENCES}.tmp"
    save_file({"ids": ids.to(torch.int32)}, scratch)
    os.replace(scratch, folder / SEQUENCES)


def read_sequences(where: Path, tokenizer: Any) -> list[list[int]]:
    """The sequences that a model was tuned on: of a hyperfitted model's folder, or the texts of a file.

    Raises:
        ValueError: neither is there, or it holds none.
    """
    if where.is_dir():
        try:
            return load_file(where / SEQUENCES)["ids"].tolist()
        except (OSError, KeyError, SafetensorError) as error:
            raise ValueError(
                f"the folder {str(where)!r} has no {SEQUENCES}, which `szilard train hyperfitting` writes: name such a "
                "folder, or a file of texts."
            ) from error
    found = [as_example(record, tokenizer) for record in read_texts(where)]
    return [list(example.ids) for example in found if example is not None]
