"""Pictures of one's own with captions, or questions and answers: records of a file, pictures read when needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from szilard.records import read_objects
from szilard.representation.vl_jepa.scenes import Example


@dataclass(frozen=True)
class Pair:
    """A picture's file, a question ("": none) and an answer or caption."""

    image: Path
    query: str
    answer: str


def read_pairs(file: Path) -> list[Pair]:
    """The records of a .jsonl, .json, .csv or .parquet file: "image" (relative to it), "answer", and "prompt" or none.

    Raises:
        ValueError: no such file, a record without picture or answer, or a picture that is not there.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    found = []
    for number, record in enumerate(read_objects(file), start=1):
        image, query, answer = (record.get(name) for name in ("image", "prompt", "answer"))
        if not isinstance(image, str) or not isinstance(answer, str) or not answer.strip():
            raise ValueError(
                f'{str(file)!r}, record {number}: "image" (a file) and "answer" (a text) are wanted, "prompt" where '
                "it answers a question."
            )
        path = file.parent / image
        if not path.is_file():
            raise ValueError(f"{str(file)!r}, record {number}: there is no picture {str(path)!r}.")
        found.append(Pair(path, query if isinstance(query, str) else "", answer))
    if not found:
        raise ValueError(f"{str(file)!r} holds no record.")
    return found


def pairs_digest(pairs: Sequence[Pair]) -> str:
    """A hash of records and of the sizes of their pictures, by which a run knows its data."""
    found = hashlib.sha256()
    for pair in pairs:
        found.update("\0".join((pair.image.name, str(pair.image.stat().st_size), pair.query, pair.answer, "")).encode())
    return found.hexdigest()[:16]


class Pairs(Dataset[Example]):
    """Records as examples; pictures are brought to size x size pixels."""

    def __init__(self, pairs: Sequence[Pair], size: int) -> None:
        self.pairs, self.size = list(pairs), size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        pair = self.pairs[index]
        return Example(read_picture(pair.image, self.size), pair.query, pair.answer)


def read_picture(file: Path, size: int) -> Tensor:
    """uint8 [3, size, size].

    Raises:
        ValueError: no picture, or Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("pictures need Pillow: pip install 'szilard[vision]'") from None
    try:
        with Image.open(file) as picture:
            small = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    except OSError as error:
        raise ValueError(f"{str(file)!r} is no picture that can be read ({error}).") from error
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
