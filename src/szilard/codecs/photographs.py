"""Photographs to train on: crops of files, and those that scikit-image, scikit-learn and matplotlib ship."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from szilard.codecs.images import FORMATS, picture_size, read_picture
from szilard.options import check_number

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_KEPT = 256  # decoded files in memory
_OF_SKIMAGE = ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field", "immunohistochemistry", "retina")
_GREY_OF_SKIMAGE = ("camera", "brick", "grass", "gravel")


def files_of(folder: Path) -> list[Path]:
    """The pictures in a folder and below, by name.

    Raises:
        ValueError: there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} with pictures.")
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.is_dir())
    if not found:
        raise ValueError(f"{str(folder)!r} holds no pictures ({', '.join(FORMATS)}).")
    return found


def packaged_photographs() -> dict[str, np.ndarray]:
    """uint8 [H, W, 3] by name, of the packages that are installed; none of them is in Kodak's set.

    Raises:
        ValueError: neither scikit-image nor scikit-learn is installed.
    """
    found: dict[str, np.ndarray] = {}
    try:
        from skimage import data

        for name in _OF_SKIMAGE:
            found[name] = np.ascontiguousarray(getattr(data, name)()[..., :3])
        found["motorcycle"] = np.ascontiguousarray(data.stereo_motorcycle()[0])
        for name in _GREY_OF_SKIMAGE:
            found[name] = np.repeat(getattr(data, name)()[..., None], 3, axis=2)
    except ModuleNotFoundError:
        pass
    try:
        from sklearn.datasets import load_sample_image

        for name in ("china", "flower"):
            found[name] = np.ascontiguousarray(load_sample_image(f"{name}.jpg"))
    except ModuleNotFoundError:
        pass
    try:
        from matplotlib.cbook import get_sample_data

        file = str(get_sample_data("grace_hopper.jpg", asfileobj=False))
        found["grace_hopper"] = np.ascontiguousarray(read_picture(file).samples)
    except ModuleNotFoundError:
        pass
    if not found:
        raise ValueError(
            "packaged photographs need scikit-image or scikit-learn: pip install scikit-image scikit-learn"
        )
    return found


class Crops(Dataset[Tensor]):
    """Random crops, of every picture equally many: which one belongs to an index is the same in every run.

    Args:
        pictures: uint8 arrays [H, W, 3] by name, or files.
        size: side of a crop; smaller pictures are refused.
        count: how many crops there are.
        seed: of the draws.
        halved: share of the crops that are cut twice as large and halved, where the picture allows it.
        varied: share of the crops that are also turned and get other colours and contrast; for few pictures.

    Attributes:
        digest: of names and sizes, by which a run knows its pictures.
    """

    def __init__(
        self,
        pictures: Mapping[str, np.ndarray] | Sequence[Path],
        size: int,
        count: int,
        seed: int = 0,
        halved: float = 0.3,
        varied: float = 0.0,
    ) -> None:
        check_number("size", size, low=16, integer=True)
        check_number("count", count, low=1, integer=True)
        self.size, self.count, self.seed, self.halved, self.varied = size, count, seed, halved, varied
        self._arrays = dict(pictures) if isinstance(pictures, Mapping) else None
        self._names: list[str] = list(pictures) if isinstance(pictures, Mapping) else [str(file) for file in pictures]
        if not self._names:
            raise ValueError("there are no pictures to cut crops of.")
        sizes = [self._size(name) for name in self._names]
        for name, (height, width) in zip(self._names, sizes, strict=True):
            if min(height, width) < size:
                raise ValueError(f"{name!r} has {width} x {height} pixels, too few for crops of {size}.")
        told = [(Path(name).name, *own) for name, own in zip(self._names, sizes, strict=True)]
        self.digest = hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def _size(self, name: str) -> tuple[int, int]:
        if self._arrays is not None:
            samples = self._arrays[name]
            if samples.ndim != 3 or samples.shape[2] != 3 or samples.dtype not in (np.uint8, np.uint16):
                raise ValueError(
                    f"{name!r} must be an array [H, W, 3] of uint8 or uint16, not {list(samples.shape)} of "
                    f"{samples.dtype}."
                )
            return samples.shape[0], samples.shape[1]
        return picture_size(name)

    def _picture(self, name: str) -> np.ndarray:
        return self._arrays[name] if self._arrays is not None else _read(name)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        place = int(torch.randint(len(self._names), (), generator=draw))
        samples = self._picture(self._names[place])
        height, width = samples.shape[:2]
        double = float(torch.rand((), generator=draw)) < self.halved and min(height, width) >= 2 * self.size
        side = 2 * self.size if double else self.size
        top = int(torch.randint(height - side + 1, (), generator=draw))
        left = int(torch.randint(width - side + 1, (), generator=draw))
        largest = 65535 if samples.dtype == np.uint16 else 255
        crop = (
            torch.from_numpy(samples[top : top + side, left : left + side].astype(np.float32)).permute(2, 0, 1)
            / largest
        )
        if double:
            crop = F.avg_pool2d(crop[None], 2)[0]
        if float(torch.rand((), generator=draw)) < 0.5:
            crop = crop.flip(-1)
        return varied(crop, draw) if float(torch.rand((), generator=draw)) < self.varied else crop

    @staticmethod
    def collate(examples: list[Tensor]) -> dict[str, Tensor]:
        """{"pixels": [B, 3, size, size]}."""
        return {"pixels": torch.stack(examples)}


def varied(crop: Tensor, draw: torch.Generator) -> Tensor:
    """A crop [3, size, size] in [0, 1], turned, with its channels exchanged, and of another saturation and contrast."""
    turns = int(torch.randint(4, (), generator=draw))
    crop = crop.rot90(turns, (1, 2))[torch.randperm(3, generator=draw)]
    saturation, contrast, light = torch.rand(3, generator=draw).tolist()
    grey = crop.mean(0, keepdim=True)
    crop = grey + (0.3 + 1.2 * saturation) * (crop - grey)
    mean = crop.mean()
    return (mean + (0.6 + 0.7 * contrast) * (crop - mean) + 0.3 * (light - 0.5)).clamp(0, 1)


@lru_cache(maxsize=_KEPT)
def _read(name: str) -> np.ndarray:
    return read_picture(name, alpha="drop").samples
