"""Training of Koopman models through the one loop, with the weights of the best rollout kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from szilard.engines.loading import check_device
from szilard.information.gaussian_latents import effective_dimension
from szilard.options import nearest
from szilard.representation.koopman.config import KoopmanConfig
from szilard.representation.koopman.model import InformationKoopman
from szilard.representation.koopman.objective import KoopmanObjective
from szilard.representation.koopman.windows import (
    ControlledWindows,
    Windows,
    checked_controls,
    checked_trajectories,
)
from szilard.training.recipe import Stage, StageResult, run_recipe
from szilard.training.run_folder import check_ours, own_run
from szilard.whole_folder import check_folder, write_whole

_MADE_FOR, _NOTE, _STAGE = "# Koopman model", "koopman.txt", "koopman"
_FILES = ("config.json", "model.safetensors")


def train_koopman(
    model: InformationKoopman,
    trajectories: Any,
    folder: Path,
    config: KoopmanConfig | None = None,
    *,
    controls: Any = None,
    resume: bool = True,
    device: torch.device | str | None = None,
    card: Callable[[StageResult], str] | None = None,
) -> StageResult:
    """Train a model, and write it to a folder that `InformationKoopman.from_pretrained` reads.

    Args:
        model: is trained in place.
        trajectories: [S, L, *state], numpy or torch, in steps of equal time.
        folder: gets the model, its card, and in `koopman/` metrics and checkpoints; a run that was stopped goes on.
        config: the settings.
        controls: [S, L - 1, controls] for a model with controls.
        resume: False: forget an earlier run.
        device: None: what there is.
        card: text of README.md; None: a short one.

    Returns:
        The rows of the loop, and of the evaluations: rollout error, effective dimension, largest |eigenvalue|.

    Raises:
        TypeError: no model of ours, or trajectories that are no array.
        ValueError: trajectories that are no numbers, too short for a window, or with a channel that does not move; a
            folder of something else, or of a run with other settings, another model or other trajectories.
    """
    if not isinstance(model, InformationKoopman):
        raise TypeError(f"the model must be an InformationKoopman, not a {type(model).__name__}.")
    if device is not None:
        check_device(str(device))
    config, folder = KoopmanConfig() if config is None else config, Path(folder)
    if not isinstance(config, KoopmanConfig):
        raise TypeError(f"config must be a KoopmanConfig, not a {type(config).__name__}.")
    states = checked_trajectories(trajectories, model.state, config.window)
    acted = checked_controls(controls, states, model.controls)
    kept = min(len(states) - 1, max(1, round(config.held_out * len(states)))) if config.held_out else 0
    learned, unseen = states[: len(states) - kept], states[len(states) - kept :] if kept else states
    unseen_controls = None if acted is None else acted[len(states) - kept :] if kept else acted
    check_folder(folder)
    check_ours(folder, _MADE_FOR, (_STAGE, *_FILES), _NOTE)
    model.standardise(learned)
    data: Windows
    if acted is None:
        data = Windows(learned, config.window)
    else:
        data = ControlledWindows(learned, acted[: len(learned)], config.window)
    steps = config.steps or max(1, round(config.epochs * -(-len(data) // config.batch_size)))
    every = max(config.save_every, steps // config.evaluations // config.save_every * config.save_every)

    def evaluate(objective: nn.Module) -> dict[str, float]:
        if model.operator_kind == "ridge":
            model.fit_operator(learned, config.window, config.ridge)
        return rollout_errors(model, unseen, config.horizon, unseen_controls, window=config.window)

    stage = Stage(
        _STAGE,
        config,
        objective=lambda: KoopmanObjective(model, config),
        data=lambda: data,
        collate=data.collate,
        evaluate=evaluate,
        evaluate_every=every,
        best="window_error",
        higher_is_better=False,
    )
    text = f"{_MADE_FOR}\n{_identity(model, states, acted)}\n"
    other = "trajectories, or of another model"
    with own_run(
        folder, text, folders=(_STAGE,), files=_FILES, restart=not resume, other=other, device=device, note=_NOTE
    ) as processes:
        found = run_recipe([stage], folder, resume=resume, device=device)[_STAGE]
        model.cpu().eval()
        if model.operator_kind == "ridge":
            model.fit_operator(learned, config.window, config.ridge)
        if processes.is_main_process:
            model.save_pretrained(folder)
            text = card(found) if card is not None else _card(model, config, states, found)
            write_whole(folder / "README.md", text)
    return found


def fit_model(model: InformationKoopman, trajectories: Any, folder: Any = None, **settings: Any) -> StageResult:
    """`train_koopman` with the settings as keywords; without a folder nothing is left on disk.

    Raises:
        ValueError: a setting that there is not, or what `train_koopman` refuses.
    """
    further = {name: settings.pop(name) for name in ("controls", "device", "resume", "card") if name in settings}
    names = [field.name for field in dataclasses.fields(KoopmanConfig)]
    for name in settings:
        if name not in names:
            raise ValueError(f"there is no setting {name!r}{nearest(name, names)} Settings: {', '.join(names)}.")
    config = KoopmanConfig(**settings)
    if folder is not None:
        return train_koopman(model, trajectories, Path(folder), config, **further)
    with tempfile.TemporaryDirectory() as scratch:
        return train_koopman(model, trajectories, Path(scratch), config, **further)


@torch.no_grad()
def rollout_errors(
    model: InformationKoopman,
    trajectories: Tensor,
    horizon: int,
    controls: Tensor | None = None,
    *,
    window: int | None = None,
) -> dict[str, float]:
    """How far rollouts go wrong: from the first state, and from the first of every window.

    Args:
        model: with its operator.
        trajectories: [S, L, *state].
        horizon: steps; at most L - 1 are taken.
        controls: [S, L - 1, controls].
        window: T; windows lie side by side. None: no windows.

    Returns:
        "rollout_error": root mean squared error over the horizon, in standard deviations of the channels;
        "window_error": the same over windows;
        "effective_dimension": exp of the latents' von Neumann entropy; "largest_eigenvalue": max |eig(K)|.
    """
    steps = min(horizon, trajectories.shape[1] - 1)
    found = {"rollout_error": _error(model, trajectories[:, : steps + 1], controls)}
    if window is not None:
        starts = range(0, trajectories.shape[1] - window, window)
        parts = torch.cat([trajectories[:, at : at + window + 1] for at in starts])
        acted = None if controls is None else torch.cat([controls[:, at : at + window] for at in starts])
        found["window_error"] = _error(model, parts, acted)
    latents = model.encode(trajectories.flatten(0, 1).to(model.mean.device))
    return found | {
        "effective_dimension": float(effective_dimension(latents)),
        "largest_eigenvalue": float(model.eigenvalues()[0].abs()),
    }


def _error(model: InformationKoopman, parts: Tensor, controls: Tensor | None) -> float:
    """Of rollouts from the first of [N, T + 1, *state] to the last, at most 1e6."""
    steps, device = parts.shape[1] - 1, model.mean.device
    acted = None if controls is None else controls[:, :steps].to(device)
    wrong = (model.rollout(parts[:, 0].to(device), steps, acted).cpu() - parts[:, 1:]) / model.spread.cpu()
    return float(wrong.square().mean().sqrt().nan_to_num(1e6, posinf=1e6).clamp(max=1e6))


def _identity(model: InformationKoopman, states: Tensor, controls: Tensor | None) -> str:
    """What a run is of: the parts of the model, and a digest of what it learns from."""
    parts = [f"{name} {list(value.shape)}" for name, value in model.state_dict().items()]
    shape = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    digest = hashlib.sha256(states.contiguous().numpy().tobytes())
    if controls is not None:
        digest.update(controls.contiguous().numpy().tobytes())
    return (
        f"model: d {model.latent_dim}, operator {model.operator_kind}, variational {model.variational}, parts {shape}\n"
        f"trajectories: {list(states.shape)}, {digest.hexdigest()[:16]}"
    )


def _card(model: InformationKoopman, config: KoopmanConfig, states: Tensor, found: StageResult) -> str:
    last = min(found.evaluations, key=lambda row: row["window_error"]) if found.evaluations else {}
    return (
        "# A Koopman model\n\nTrained with szilard (Information Shapes Koopman Representation, arXiv:2510.13025) on "
        f"{len(states)} trajectories of {states.shape[1]} states {list(model.state)}; d = {model.latent_dim}, operator "
        f"{model.operator_kind}.\n\nSettings: alpha {config.mutual_information_weight:g}, beta "
        f"{config.consistency_weight:g}, gamma {config.entropy_weight:g}, window {config.window}.\n\nBest evaluation: "
        f"{json.dumps(last)}\n\n```python\nfrom szilard.representation.koopman.model import InformationKoopman\n"
        'model = InformationKoopman.from_pretrained("this folder")\nmodel.rollout(start, steps=50)\n```\n'
    )
