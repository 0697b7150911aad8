"""What of an objective is kept: the parameters that learn, and the buffers. Frozen parts are somebody else's file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def learned_state(objective: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that want gradients, each once however often it is used, and persistent buffers."""
    parameters = dict(objective.named_parameters(remove_duplicate=False))
    found = {name: weight.detach() for name, weight in objective.named_parameters() if weight.requires_grad}
    return found | {name: value for name, value in objective.state_dict().items() if name not in parameters}


def take_learned(objective: nn.Module, state: Mapping[str, torch.Tensor], where: object) -> None:
    """Put back what `learned_state` gave.

    Raises:
        ValueError: it is of another objective.
    """
    wanted = learned_state(objective)
    if missing := sorted(set(wanted) - set(state)):
        raise ValueError(f"{str(where)!r} is of another training (it has no {missing[0]!r}): start anew, or elsewhere.")
    try:
        objective.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{str(where)!r} is of another training ({reason}): start anew, or elsewhere.") from error


def save_learned(objective: nn.Module, file: Path, *, step: int) -> None:
    """Write what is kept to one safetensors file, whole or not at all; `step` is noted in it."""
    scratch = file.with_name(f".{file.name}.tmp")
    tensors = {name: value.cpu().contiguous() for name, value in learned_state(objective).items()}
    save_file(tensors, scratch, metadata={"step": str(step)})
    os.replace(scratch, file)


def load_learned(objective: nn.Module, file: Path) -> None:
    """Read what `save_learned` wrote.

    Raises:
        ValueError: it is of another objective.
    """
    take_learned(objective, load_file(file), file)
