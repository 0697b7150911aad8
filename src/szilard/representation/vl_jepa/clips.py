"""Clips of a moving shape whose colour or movement changes at known times, with a caption of every stretch.

A clip is a stream for selective decoding: what its windows show is the same between two changes, and every stretch has
an annotation (time, caption).

    clip = Clips(1, windows=64, seed=0)[0]
    clip.windows        uint8 [64, frames, 3, size, size]
    clip.annotations    [(time of a stretch's middle, caption)], clip.changes the first window of each stretch
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from szilard.options import check_number
from szilard.representation.sprites import COLOURS, render
from szilard.representation.vl_jepa.scenes import MOST_WORDINGS, NAMES, SHADES, Example

MOVES = ("left", "right", "up", "down", "not")
_STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "not": (0, 0)}
_MOVING = (
    "a {colour} {shape} moves {move}",
    "the {shape} , {colour} , goes {move}",
    "one sees a {colour} {shape} on its way {move}",
    "a {shape} of {colour} colour moves {move}",
    "a {colour} {shape} is going {move}",
)
_RESTING = (
    "a {colour} {shape} does not move",
    "the {shape} , {colour} , stands still",
    "one sees a {colour} {shape} at rest",
    "a {shape} of {colour} colour stays where it is",
    "a {colour} {shape} is resting",
)
CLIP_TEXTS = (*_MOVING, *_RESTING, *MOVES)
_SPEED = 0.06  # of the side, a frame
_EXTENT = 0.16


@dataclass(frozen=True)
class Clip:
    """A clip, window by window.

    Attributes:
        windows: uint8 [T, frames, 3, size, size]; a second has one window.
        changes: the first window of each stretch; the first is 0.
        annotations: (time of the stretch's middle, caption in its first wording).
        states: (shape, colour, move) of each window.
    """

    windows: Tensor
    changes: list[int]
    annotations: list[tuple[float, str]]
    states: list[tuple[int, int, int]]


class Clips:
    """Clips of one shape each, drawn on the spot.

    Args:
        count: of clips.
        windows: of a clip, T.
        frames: of a window.
        seed: of the draws.
        size: side of the pictures, in pixels.
        mean_stretch: windows between changes, on average; a stretch has two at least.

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(
        self,
        count: int,
        *,
        windows: int = 64,
        frames: int = 4,
        seed: int = 0,
        size: int = 32,
        mean_stretch: float = 8.0,
    ) -> None:
        for name, value, low in (("count", count, 1), ("windows", windows, 1), ("frames", frames, 2)):
            check_number(name, value, low=low, integer=True)
        check_number("mean_stretch", mean_stretch, low=2)
        self.count, self.windows, self.frames = count, windows, frames
        self.seed, self.size, self.mean_stretch = seed, size, mean_stretch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Clip:
        chance = random.Random(f"clips {self.seed} {range(self.count)[index]}")
        state = (chance.randrange(len(NAMES)), chance.randrange(len(SHADES)), chance.randrange(len(MOVES)))
        states: list[tuple[int, int, int]] = []
        changes: list[int] = []
        while len(states) < self.windows:
            changes.append(len(states))
            stretch = 2 + round(chance.expovariate(1 / max(self.mean_stretch - 2, 1e-6)))
            states += [state] * min(stretch, self.windows - len(states))
            state = _changed(state, chance)
        ends = [*changes[1:], self.windows]
        annotations = [
            ((start + end - 1) / 2, clip_caption(states[start], 0)) for start, end in zip(changes, ends, strict=True)
        ]
        return Clip(_film(states, self.frames, self.size, chance), changes, annotations, states)


def _changed(state: tuple[int, int, int], chance: random.Random) -> tuple[int, int, int]:
    """Another colour or another movement."""
    shape, colour, move = state
    if chance.random() < 0.5:
        return shape, (colour + chance.randrange(1, len(SHADES))) % len(SHADES), move
    return shape, colour, (move + chance.randrange(1, len(MOVES))) % len(MOVES)


def clip_caption(state: tuple[int, int, int], wording: int) -> str:
    """What a window shows, in one of five wordings."""
    shape, colour, move = state
    texts = _RESTING if MOVES[move] == "not" else _MOVING
    return texts[wording].format(colour=SHADES[colour], shape=NAMES[shape], move=MOVES[move])


def _film(states: Sequence[tuple[int, int, int]], frames: int, size: int, chance: random.Random) -> Tensor:
    """uint8 [T, frames, 3, size, size]: the shape walks on from window to window and comes back in opposite."""
    steps = torch.tensor([_STEPS[MOVES[move]] for _, _, move in states], dtype=torch.float32)
    walked = steps.repeat_interleave(frames, dim=0).mul(_SPEED).cumsum(0)  # [T frames, 2]
    start = torch.tensor([chance.random(), chance.random()])
    at = (walked + start) % 1.0
    shape, colour, _ = torch.tensor(list(states)).repeat_interleave(frames, dim=0).unbind(-1)
    # One more at the other side of each edge, so that what leaves comes in there.
    around = torch.tensor([[0.0, 0.0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [1, -1], [-1, 1], [-1, -1]])
    places = at[:, None] + around  # [T frames, 9, 2]
    copies = len(around)
    turn = torch.full((len(at), copies), chance.uniform(-0.5, 0.5))
    drawn = render(
        shape[:, None].expand(-1, copies),
        torch.tensor(list(COLOURS.values()))[colour][:, None].expand(-1, copies, -1),
        torch.full((len(at), copies), _EXTENT),
        turn,
        places[..., 0],
        places[..., 1],
        size=size,
    )
    return drawn.mul(255).round().to(torch.uint8).unflatten(0, (len(states), frames))


class ClipExamples(Dataset[Example]):
    """Windows of clips with a caption of what they show, for training; all are drawn at the start.

    Args:
        count: of windows to draw.
        samples: how many examples; each comes in a drawn wording.
        wordings: of captions.
        frames, size: of a window.
        seed: of the draws.
    """

    def __init__(
        self,
        count: int,
        samples: int,
        *,
        wordings: int = MOST_WORDINGS,
        frames: int = 4,
        size: int = 32,
        seed: int = 0,
    ) -> None:
        check_number("wordings", wordings, low=1, high=MOST_WORDINGS, integer=True)
        check_number("samples", samples, low=1, integer=True)
        # Short clips, two windows each: many different beginnings.
        clips = Clips(-(-count // 2), windows=2, frames=frames, seed=seed, size=size, mean_stretch=2.0)
        drawn = [clips[index] for index in range(len(clips))]
        self.windows = torch.cat([clip.windows for clip in drawn])[:count]
        self.states = [state for clip in drawn for state in clip.states][:count]
        self.samples, self.wordings, self.seed = samples, wordings, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Example:
        chance = random.Random(f"clip captions {self.seed} {index}")
        place = index % len(self.windows)
        return Example(self.windows[place], "", clip_caption(self.states[place], chance.randrange(self.wordings)))
