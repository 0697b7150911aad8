"""Pictures of simple shapes whose factors are known, drawn on the spot: no download, every size, any number of objects.

In the manner of dSprites (Matthey et al. 2017) and Shapes3D (Burgess and Kim 2018). No shape looks the same after a
turn of less than a whole circle, so a rotation can always be told from the picture; with dSprites' square it cannot.

    render(...)                       any factors -> pictures, K objects each
    Sprites(size=32)                  all combinations of a grid of factors, by index: (picture, factors)

Pixels are covered by shapes in part at their edges: coverage = clamp(1/2 - distance / pixel, 0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from szilard.options import check_number

COLOURS = {
    "red": (0.90, 0.16, 0.20),
    "green": (0.20, 0.75, 0.25),
    "blue": (0.20, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.65, 0.25, 0.85),
    "cyan": (0.15, 0.80, 0.85),
    "orange": (0.98, 0.55, 0.10),
    "white": (0.97, 0.97, 0.97),
}
FACTORS = ("shape", "colour", "scale", "rotation", "x", "y")


def _half_disc(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(u, v + 0.4) - 1.0, -(v + 0.4))


def _triangle(u: Tensor, v: Tensor) -> Tensor:  # isosceles, the tip up
    slope = math.hypot(2.0, 0.75)
    return torch.maximum((2.0 * u.abs() + 0.75 * (v - 1.0)) / slope, -v - 0.8)


def _heart(u: Tensor, v: Tensor) -> Tensor:  # a square on its corner under two discs
    lobes = torch.hypot(u.abs() - 0.42, v - 0.35) - 0.58
    point = (u.abs() + (0.02 - v).abs() * 0.9 - 0.92) / math.hypot(1.0, 0.9)
    below = torch.maximum(point, v - 0.35)
    return torch.minimum(lobes, below)


def _corner(u: Tensor, v: Tensor) -> Tensor:  # the letter L
    upright = torch.maximum((u + 0.36).abs() - 0.28, v.abs() - 0.8)
    foot = torch.maximum((u - 0.06).abs() - 0.7, (v + 0.52).abs() - 0.28)
    return torch.minimum(upright, foot)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "half-disc": _half_disc,
    "triangle": _triangle,
    "heart": _heart,
    "corner": _corner,
}


def render(
    shape: Tensor,
    colour: Tensor,
    scale: Tensor,
    rotation: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    size: int = 64,
    background: Sequence[float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Draw pictures of K objects each; later objects lie over earlier ones.

    Args:
        shape: [B, K] places in `SHAPES`; -1: no object here.
        colour: [B, K, 3] red, green, blue in [0, 1].
        scale: [B, K] half the extent of an object, as a share of the picture's side.
        rotation: [B, K] radians, counter-clockwise.
        x, y: [B, K] the centre, as a share of the side, from the left and from the top.
        size: side of the picture, in pixels.
        background: red, green, blue.

    Returns:
        [B, 3, size, size], float32 in [0, 1].

    Raises:
        ValueError: shapes of tensors that do not belong together, or a shape's number out of range.
    """
    check_number("size", size, low=8, integer=True)
    batch, objects = shape.shape if shape.dim() == 2 else (-1, -1)
    fields = {"scale": scale, "rotation": rotation, "x": x, "y": y}
    wrong = [name for name, value in fields.items() if value.shape != shape.shape]
    if batch < 0 or wrong or colour.shape != (batch, objects, 3):
        raise ValueError(
            "shape, scale, rotation, x and y must be [pictures, objects] and colour [pictures, objects, 3], not "
            + ", ".join(f"{name} {tuple(value.shape)}" for name, value in (("shape", shape), *fields.items()))
            + f", colour {tuple(colour.shape)}."
        )
    if shape.numel() and not (int(shape.min()) >= -1 and int(shape.max()) < len(SHAPES)):
        raise ValueError(f"shapes are numbered from 0 to {len(SHAPES) - 1} ({', '.join(SHAPES)}); -1 is none.")
    middle = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    picture = torch.tensor(background, dtype=torch.float32).view(1, 3, 1, 1).expand(batch, 3, size, size)
    for place in range(objects):
        right = middle.view(1, 1, -1) - x[:, place].float().view(-1, 1, 1)
        up = y[:, place].float().view(-1, 1, 1) - middle.view(1, -1, 1)
        angle = rotation[:, place].float().view(-1, 1, 1)
        half = scale[:, place].float().view(-1, 1, 1).clamp(min=1e-6)
        u = (right * angle.cos() + up * angle.sin()) / half
        v = (up * angle.cos() - right * angle.sin()) / half
        number = shape[:, place]
        distance = torch.full_like(u, math.inf)
        for kind, outline in enumerate(SHAPES.values()):
            rows = number == kind
            if bool(rows.any()):
                distance[rows] = outline(u[rows], v[rows])
        cover = (0.5 - distance * half * size).clamp(0, 1).unsqueeze(1)
        picture = picture + cover * (colour[:, place].float().view(batch, 3, 1, 1) - picture)
    return picture.contiguous()


@dataclass(frozen=True)
class SpriteGrid:
    """How many values each factor has; all combinations are pictures.

    Attributes:
        shapes, colours: the first so many of `SHAPES` and `COLOURS`.
        scales: sizes, from `smallest` to `largest`.
        rotations: steps of a whole circle.
        columns, rows: places of the centre.
        smallest, largest: half the extent of an object, as a share of the side.
    """

    shapes: int = 3
    colours: int = 4
    scales: int = 4
    rotations: int = 8
    columns: int = 8
    rows: int = 8
    smallest: float = 0.12
    largest: float = 0.24

    def __post_init__(self) -> None:
        for name, most in (("shapes", len(SHAPES)), ("colours", len(COLOURS))):
            check_number(name, getattr(self, name), low=1, high=most, integer=True)
        for name in ("scales", "rotations", "columns", "rows"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("smallest", self.smallest, low=0.01, high=0.5)
        check_number("largest", self.largest, low=self.smallest, high=0.5)

    @property
    def counts(self) -> tuple[int, ...]:
        """Values of each of `FACTORS`."""
        return self.shapes, self.colours, self.scales, self.rotations, self.columns, self.rows


class Sprites(Dataset[tuple[Tensor, Tensor]]):
    """All combinations of a grid of factors, one object each: index -> (picture [3, size, size], factors [6]).

    Args:
        size: side of the pictures, in pixels.
        grid: the factors' values; by default 24,576 pictures.
    """

    factor_names = FACTORS

    def __init__(self, size: int = 64, grid: SpriteGrid | None = None) -> None:
        check_number("size", size, low=8, integer=True)
        self.size, self.grid = size, SpriteGrid() if grid is None else grid

    def __len__(self) -> int:
        return math.prod(self.grid.counts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        place = torch.tensor([range(len(self))[index]])
        return self.pictures(place)[0], self.factors(place)[0]

    def factors(self, indices: Tensor) -> Tensor:
        """[N] indices -> [N, 6] whole numbers from 0, in the order of `FACTORS`; ValueError for others."""
        if indices.is_floating_point() or bool(((indices < 0) | (indices >= len(self))).any()):
            raise ValueError(f"indices must be whole numbers from 0 to {len(self) - 1}.")
        columns = []
        for count in reversed(self.grid.counts):
            columns.append(indices % count)
            indices = torch.div(indices, count, rounding_mode="floor")
        return torch.stack(columns[::-1], dim=-1)

    def pictures(self, indices: Tensor) -> Tensor:
        """[N] indices -> [N, 3, size, size]."""
        return self.draw(self.factors(indices))

    def draw(self, factors: Tensor) -> Tensor:
        """[N, 6] factors, as `factors` gives them -> [N, 3, size, size]; ValueError for others."""
        grid = self.grid
        if factors.dim() != 2 or factors.shape[1] != len(FACTORS):
            raise ValueError(f"factors must be [N, {len(FACTORS)}] ({', '.join(FACTORS)}), not {list(factors.shape)}.")
        if not bool(((factors >= 0) & (factors < torch.tensor(grid.counts))).all()):
            raise ValueError(f"factors must be whole numbers from 0, below {grid.counts}.")
        shape, colour, scale, rotation, x, y = factors.long().unbind(-1)
        reach = 1 - 2 * grid.largest  # an object of the largest scale stays inside

        def between(value: Tensor, count: int, low: float, width: float) -> Tensor:
            return low + width * value / max(count - 1, 1) if count > 1 else torch.full(value.shape, low + width / 2)

        return render(
            shape[:, None],
            torch.tensor(list(COLOURS.values()))[colour][:, None],
            between(scale, grid.scales, grid.smallest, grid.largest - grid.smallest)[:, None],
            (rotation * (2 * math.pi / grid.rotations))[:, None],
            between(x, grid.columns, grid.largest, reach)[:, None],
            between(y, grid.rows, grid.largest, reach)[:, None],
            size=self.size,
        )

    def tensors(self, limit: int | None = None, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Pictures as bytes [N, 3, size, size] uint8 and factors [N, 6]: all of them, or `limit` drawn without return.

        A grid of 24,576 pictures of 32 pixels takes 75 MB.
        """
        chosen = torch.arange(len(self))
        if limit is not None:
            check_number("limit", limit, low=1, high=len(self), integer=True)
            chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:limit]
        drawn = [self.pictures(part).mul(255).round().to(torch.uint8) for part in chosen.split(1024)]
        return torch.cat(drawn), self.factors(chosen)
