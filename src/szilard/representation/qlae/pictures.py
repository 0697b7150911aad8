"""Pictures to train on: sprites drawn on the spot, a folder of image files, or an array; with factors where known."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from szilard.options import check_number
from szilard.representation.sprites import SpriteGrid, Sprites

SPRITES = "sprites"  # in place of a file's name
KINDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class Pictures(Dataset[Tensor]):
    """Pictures of one size by index.

    Args:
        pixels: [N, C, s, s], bytes or numbers in [0, 1]; an array of numpy may lie on disk (`mmap_mode`).
        chosen: [n] which of them; None: all.

    Raises:
        TypeError, ValueError: no pictures.
    """

    def __init__(self, pixels: Tensor | np.ndarray, chosen: Tensor | None = None) -> None:
        if not isinstance(pixels, (Tensor, np.ndarray)):
            raise TypeError(f"pictures must be a tensor or an array [N, C, s, s], not a {type(pixels).__name__}.")
        if pixels.ndim != 4 or not len(pixels) or pixels.shape[2] != pixels.shape[3]:
            raise ValueError(f"pictures must be [N, C, s, s], N at least 1, not {list(pixels.shape)}.")
        kind = str(pixels.dtype).removeprefix("torch.")
        if kind not in ("uint8", "float16", "float32", "float64", "bfloat16"):
            raise ValueError(f"pictures must be bytes (uint8), or numbers from 0 to 1, not {kind}.")
        if kind != "uint8":
            low, high = float(pixels.min()), float(pixels.max())
            if not (low >= 0 and high <= 1):
                raise ValueError(f"numbers of pictures must be from 0 to 1, not from {low:g} to {high:g}.")
        self.pixels = pixels
        self.chosen = torch.arange(len(pixels)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Tensor:
        """[len(indices), C, s, s] at once."""
        places = self.chosen[indices]
        if isinstance(self.pixels, Tensor):
            return self.pixels[places]
        return torch.from_numpy(np.ascontiguousarray(self.pixels[places.numpy()]))

    @staticmethod
    def collate(rows: Any) -> dict[str, Tensor]:
        """{"pictures" [batch, C, s, s]} of what either of the above gave."""
        return {"pictures": rows if isinstance(rows, Tensor) else torch.stack(list(rows))}

    @property
    def digest(self) -> str:
        """A hash of the sizes and some of the pictures, to tell data apart."""
        some = torch.linspace(0, len(self) - 1, min(len(self), 64)).long().tolist()
        told = hashlib.sha256(f"{len(self)} {list(self.pixels.shape)}".encode())
        told.update(self.__getitems__(some).float().numpy().tobytes())
        return told.hexdigest()[:16]


def read_pictures(
    data: str | Path,
    *,
    image_size: int,
    factors: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    grid: SpriteGrid | None = None,
) -> tuple[Tensor | np.ndarray, Tensor | None]:
    """Pictures and, where known, their factors.

    Args:
        data: "sprites"; a folder of image files, searched through, which are cut to a square and scaled; or a .npy file
            of [N, C, s, s] or [N, s, s, C], bytes or numbers in [0, 1], which stays on disk.
        image_size: side of the pictures.
        factors: a .npy file [N, n_s] of the factors; sprites have theirs.
        limit: so many at most: sprites drawn at random, else the first.
        seed: of that draw.
        grid: of sprites.

    Returns:
        [N, C, s, s] and [N, n_s] or None.

    Raises:
        ValueError: no pictures there, pictures of another size, or factors of other pictures.
        ImportError: a folder of image files without Pillow.
    """
    check_number("limit", limit, low=1, integer=True, optional=True)
    if str(data) == SPRITES:
        if factors is not None:
            raise ValueError("sprites have factors of their own: leave out the file of factors.")
        sprites = Sprites(image_size, grid)
        return sprites.tensors(None if limit is None else min(limit, len(sprites)), seed=seed)
    where = Path(data)
    if where.is_dir():
        pixels: Tensor | np.ndarray = _image_files(where, image_size, limit)
    elif where.suffix == ".npy" and where.is_file():
        pixels = _array(where, image_size)[:limit]
    else:
        raise ValueError(f"there is no folder of pictures and no .npy file {str(data)!r}; {SPRITES!r} draws some.")
    if factors is None:
        return pixels, None
    try:
        labels = torch.from_numpy(np.load(factors, allow_pickle=False))[:limit]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"no factors can be read from {str(factors)!r} ({' '.join(str(error).split())}).") from error
    if labels.dim() != 2 or len(labels) != len(pixels):
        raise ValueError(f"factors must be [{len(pixels)}, n_s], a row per picture, not {list(labels.shape)}.")
    return pixels, labels


def _array(file: Path, image_size: int) -> np.ndarray:
    try:
        pixels = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(file)!r} is no array of numpy ({' '.join(str(error).split())}).") from error
    side = (image_size, image_size)
    if pixels.ndim == 4 and pixels.shape[2:] != side and pixels.shape[1:3] == side:
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[2:] != side:
        raise ValueError(
            f"{str(file)!r} is {list(pixels.shape)}, not [N, C, {image_size}, {image_size}]: set image_size."
        )
    return pixels


def _image_files(folder: Path, image_size: int, limit: int | None) -> Tensor:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS)[:limit]
    if not files:
        raise ValueError(f"the folder {str(folder)!r} holds no pictures ({', '.join(KINDS)}).")
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("reading image files needs Pillow: pip install 'szilard[vision]'") from error
    pixels = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)
    for place, file in enumerate(files):
        try:
            with Image.open(file) as image:
                square = ImageOps.fit(image.convert("RGB"), (image_size, image_size))
        except OSError as error:
            raise ValueError(f"{str(file)!r} cannot be read as a picture ({error}).") from error
        pixels[place] = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    return pixels
