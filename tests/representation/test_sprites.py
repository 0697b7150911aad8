"""Sprites: pictures whose factors are known."""

from __future__ import annotations

import pytest
import torch

from szilard.representation.sprites import COLOURS, SHAPES, SpriteGrid, Sprites, render


def one(**changes: float) -> dict[str, torch.Tensor]:
    values = {"shape": 0, "scale": 0.25, "rotation": 0.0, "x": 0.5, "y": 0.5} | changes
    fields = {name: torch.tensor([[value]]) for name, value in values.items()}
    return fields | {"colour": torch.ones(1, 1, 3)}


@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize("share", [1 / 8, 1 / 4, 1 / 3, 1 / 2])
def test_no_shape_looks_the_same_after_a_part_of_a_turn(shape: int, share: float) -> None:
    still = render(**one(shape=shape), size=32)
    turned = render(**one(shape=shape, rotation=2 * torch.pi * share), size=32)
    assert (still - turned).abs().sum() > 0.1 * still.sum()


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_a_whole_turn_changes_nothing(shape: int) -> None:
    still, turned = (render(**one(shape=shape, rotation=angle)) for angle in (0.0, 2 * torch.pi))
    assert torch.allclose(still, turned, atol=1e-4)


def test_an_object_moves_right_with_x_and_down_with_y() -> None:
    base = render(**one(), size=32)
    assert torch.allclose(render(**one(x=0.5 + 4 / 32), size=32), base.roll(4, -1), atol=1e-5)
    assert torch.allclose(render(**one(y=0.5 + 4 / 32), size=32), base.roll(4, -2), atol=1e-5)


def test_the_area_grows_with_the_square_of_the_scale() -> None:
    small, large = (float(render(**one(scale=scale), size=128).sum()) for scale in (0.15, 0.3))
    assert large / small == pytest.approx(4, rel=0.02)


def test_later_objects_lie_over_earlier_ones_and_minus_one_is_none() -> None:
    both = {name: value.expand(1, 2, *value.shape[2:]).clone() for name, value in one().items()}
    both["colour"] = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])
    picture = render(**both)
    assert picture[0, 1, 32, 32] == 1
    both["shape"][0, 1] = -1
    assert render(**both)[0, 0, 32, 32] == 1
    assert render(**both)[0, 1].max() == 0


def test_every_combination_is_one_picture_and_factors_are_read_back() -> None:
    grid = SpriteGrid(shapes=2, colours=2, scales=2, rotations=3, columns=2, rows=3)
    sprites = Sprites(24, grid)
    factors = sprites.factors(torch.arange(len(sprites)))
    assert len(sprites) == 2 * 2 * 2 * 3 * 2 * 3
    assert len({tuple(row) for row in factors.tolist()}) == len(sprites)
    assert factors.max(0).values.tolist() == [count - 1 for count in grid.counts]
    pictures = sprites.pictures(torch.arange(len(sprites))).flatten(1)
    assert torch.cdist(pictures, pictures).fill_diagonal_(9).min() > 0.3
    picture, row = sprites[17]
    assert torch.equal(picture.flatten(), pictures[17]) and torch.equal(row, factors[17])


def test_tensors_are_drawn_without_return_and_alike_for_a_seed() -> None:
    sprites = Sprites(16, SpriteGrid(scales=1, rotations=2, columns=2, rows=2))
    pictures, factors = sprites.tensors(50, seed=3)
    again, _ = sprites.tensors(50, seed=3)
    assert pictures.dtype == torch.uint8 and pictures.shape == (50, 3, 16, 16)
    assert torch.equal(pictures, again) and len({tuple(row) for row in factors.tolist()}) == 50
    assert len(sprites.tensors()[0]) == len(sprites)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: SpriteGrid(shapes=9), "shapes"),
        (lambda: SpriteGrid(colours=len(COLOURS) + 1), "colours"),
        (lambda: SpriteGrid(smallest=0.3, largest=0.2), "largest"),
        (lambda: Sprites(4), "size"),
        (lambda: render(**(one() | {"x": torch.zeros(2, 1)})), "x \\(2, 1\\)"),
        (lambda: render(**one(shape=7)), "numbered"),
        (lambda: Sprites(16).tensors(10**9), "limit"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()
