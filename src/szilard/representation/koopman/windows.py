"""Windows of trajectories with stride 1, and whether trajectories can be learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Windows(Dataset[Tensor]):
    """All windows of T + 1 states, with stride 1.

    Args:
        trajectories: [S, L, *state].
        window: T.
    """

    def __init__(self, trajectories: Tensor, window: int) -> None:
        self.trajectories, self.window = trajectories, window
        self.per_sequence = trajectories.shape[1] - window

    def __len__(self) -> int:
        return len(self.trajectories) * self.per_sequence

    def __getitem__(self, index: int) -> Tensor:
        sequence, start = divmod(index, self.per_sequence)
        return self.trajectories[sequence, start : start + self.window + 1]

    @staticmethod
    def collate(examples: list[Tensor]) -> dict[str, Tensor]:
        """{"states": [B, T + 1, *state]}."""
        return {"states": torch.stack(examples)}


class ControlledWindows(Windows):
    """Windows with their controls, [S, L - 1, controls]."""

    def __init__(self, trajectories: Tensor, controls: Tensor, window: int) -> None:
        super().__init__(trajectories, window)
        self.controls = controls

    def __getitem__(self, index: int) -> Any:
        sequence, start = divmod(index, self.per_sequence)
        return super().__getitem__(index), self.controls[sequence, start : start + self.window]

    @staticmethod
    def collate(examples: list[Any]) -> dict[str, Tensor]:
        """{"states": [B, T + 1, *state], "controls": [B, T, controls]}."""
        states, controls = zip(*examples, strict=True)
        return {"states": torch.stack(states), "controls": torch.stack(controls)}


def checked_trajectories(given: Any, state: tuple[int, ...], window: int) -> Tensor:
    """[S, L, *state] float32.

    Raises:
        ValueError: another shape, numbers that are none, or fewer than T + 1 states in a trajectory.
    """
    try:
        found = (
            given.detach().cpu().float()
            if isinstance(given, Tensor)
            else torch.from_numpy(np.asarray(given, np.float32))
        )
        if isinstance(given, Tensor) and given.is_complex():
            raise TypeError("complex")
    except (TypeError, ValueError) as error:
        raise TypeError(f"trajectories must be an array of numbers, not {type(given).__name__}.") from error
    if found.dim() != 2 + len(state) or tuple(found.shape[2:]) != state or not found.numel():
        wanted = ", ".join(["sequences", "time", *map(str, state)])
        raise ValueError(f"trajectories must be [{wanted}], not {list(found.shape)}.")
    if not bool(torch.isfinite(found).all()):
        bad = int((~torch.isfinite(found)).flatten(1).any(1).int().argmax())
        raise ValueError(f"trajectories must be finite; sequence {bad} is not: leave it out, or cut it before.")
    if found.shape[1] <= window:
        raise ValueError(
            f"a window of {window} steps needs trajectories of {window + 1} states, not {found.shape[1]}: shorten it."
        )
    return found


def checked_controls(given: Any, states: Tensor, width: int) -> Tensor | None:
    if given is None and not width:
        return None
    if not width:
        raise ValueError("this model takes no controls: make it with controls=.., their width, or give none.")
    shape = (len(states), states.shape[1] - 1, width)
    try:
        found = None if given is None else torch.from_numpy(np.asarray(given, np.float32))
    except (TypeError, ValueError):
        raise TypeError(f"controls must be an array of numbers, not {type(given).__name__}.") from None
    if found is None or tuple(found.shape) != shape or not bool(torch.isfinite(found).all()):
        told = "nothing" if found is None else list(found.shape)
        raise ValueError(f"this model and these trajectories need finite controls {list(shape)}, not {told}.")
    return found
