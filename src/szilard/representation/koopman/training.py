"""Training of Koopman models through the one loop, with the weights of the best rollout kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from szilard.information.gaussian_latents import effective_dimension
from szilard.options import check_choice, check_number
from szilard.representation.koopman.model import RIDGE, InformationKoopman
from szilard.representation.koopman.objective import KoopmanObjective
from szilard.training.config import TrainingConfig, setting
from szilard.training.recipe import Stage, StageResult, run_recipe
from szilard.whole_folder import write_whole


@dataclass(frozen=True)
class KoopmanConfig(TrainingConfig):
    """Settings; the paper's weights are alpha, beta, gamma (its configuration file calls them alpha, -, beta)."""

    epochs: float = setting(100.0, "Passes over the windows.")
    batch_size: int = setting(16, "Windows per step.")
    window: int = setting(16, "T: steps of a window; it has T + 1 states.")
    mutual_information_weight: float = setting(2.0, "alpha: of InfoNCE over time; 0 with gamma 0: a plain KAE.")
    consistency_weight: float = setting(0.0, "beta: of the latent step's error; for a learned operator.")
    entropy_weight: float = setting(0.1, "gamma: of the von Neumann entropy, which is raised; below 0 it is lowered.")
    identity_weight: float = setting(0.1, "lambda: of the reconstruction of the states themselves.")
    neighbors: int = setting(3, "k: neighbours in time on each side.")
    temperature: float = setting(0.1, "tau: of InfoNCE.")
    negatives: str = setting("sequence", "sequence (the published code) or batch (the paper's text).")
    positives: str = setting("sum_inside", "sum_inside (the published code) or mean_outside (the paper's text).")
    ridge: float = setting(RIDGE, "Of the regression for the operator.")
    held_out: float = setting(0.1, "Share of the trajectories kept for measuring rollouts.")
    horizon: int = setting(20, "Steps of the rollouts whose error is reported.")
    evaluations: int = setting(10, "On the way; the weights of the best rollouts over a window are kept.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window", "neighbors", "horizon", "evaluations"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("mutual_information_weight", "consistency_weight", "identity_weight", "ridge"):
            check_number(name, getattr(self, name), low=0)
        check_number("entropy_weight", self.entropy_weight)
        check_number("temperature", self.temperature, low=1e-8)
        check_number("held_out", self.held_out, low=0, high=0.9)
        check_choice("negatives", self.negatives, ("sequence", "batch"))
        check_choice("positives", self.positives, ("sum_inside", "mean_outside"))


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
        folder: gets the model, its card, `metrics.jsonl` and checkpoints; a run that was stopped goes on.
        config: the settings.
        controls: [S, L - 1, controls] for a model with controls.
        resume: False: forget an earlier run.
        device: None: what there is.
        card: text of README.md; None: a short one.

    Returns:
        The rows of the loop, and of the evaluations: rollout error, effective dimension, largest |eigenvalue|.

    Raises:
        ValueError: trajectories that are no numbers, too short for a window, or with a channel that does not move.
    """
    config = KoopmanConfig() if config is None else config
    states = checked_trajectories(trajectories, model.state, config.window)
    acted = _checked_controls(controls, states, model.controls)
    kept = max(1, round(config.held_out * len(states))) if config.held_out and len(states) > 1 else 0
    learned, held = states[: len(states) - kept], states[len(states) - kept :] if kept else states
    held_controls = None if acted is None else acted[len(states) - kept :] if kept else acted
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
        return rollout_errors(model, held, config.horizon, held_controls, window=config.window)

    stage = Stage(
        "koopman",
        config,
        objective=lambda: KoopmanObjective(model, config),
        data=lambda: data,
        collate=data.collate,
        evaluate=evaluate,
        evaluate_every=every,
        best="window_error",
        higher_is_better=False,
    )
    found = run_recipe([stage], folder, resume=resume, device=device)["koopman"]
    model.cpu().eval()
    if model.operator_kind == "ridge":
        model.fit_operator(learned, config.window, config.ridge)
    model.save_pretrained(folder)
    text = card(found) if card is not None else _card(model, config, states, found)
    write_whole(folder / "README.md", text)
    return found


def fit_model(model: InformationKoopman, trajectories: Any, folder: Any = None, **settings: Any) -> StageResult:
    """`train_koopman` with the settings as keywords; without a folder nothing is left on disk."""
    controls = settings.pop("controls", None)
    device = settings.pop("device", None)
    config = KoopmanConfig(**settings)
    if folder is not None:
        return train_koopman(model, trajectories, Path(folder), config, controls=controls, device=device)
    with tempfile.TemporaryDirectory() as scratch:
        return train_koopman(model, trajectories, Path(scratch), config, controls=controls, device=device)


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


def _checked_controls(given: Any, states: Tensor, width: int) -> Tensor | None:
    if given is None and not width:
        return None
    shape = (len(states), states.shape[1] - 1, width)
    found = None if given is None else torch.as_tensor(np.asarray(given), dtype=torch.float32)
    if found is None or tuple(found.shape) != shape or not bool(torch.isfinite(found).all()):
        told = "nothing" if found is None else list(found.shape)
        raise ValueError(f"this model and these trajectories need finite controls {list(shape)}, not {told}.")
    return found


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
