"""Training QLAE and its baselines, through the one loop. A run that was stopped goes on from its last checkpoint.

train_qlae(model, pictures, QlaeConfig(weight_decay=0.1), folder)
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import Dataset

from szilard.engines.loading import check_device
from szilard.information.sample_tables import source_labels
from szilard.representation.qlae.config import QlaeConfig
from szilard.representation.qlae.model import LatentAutoencoder
from szilard.representation.qlae.objective import ReconstructionObjective, measure
from szilard.representation.qlae.pictures import Pictures
from szilard.training.config import Config, TrainingConfig
from szilard.training.course import split
from szilard.training.loop import planned_steps
from szilard.training.recipe import Stage, StageResult, run_recipe
from szilard.training.run_folder import check_ours, own_run
from szilard.whole_folder import check_folder, write_whole

_MADE_FOR = "# szilard training of an autoencoder"
_FOLDERS = ("train",)
_FILES = ("training.yaml", "evaluation.yaml", "config.json", "model.safetensors")
SETTINGS = ("steps", "batch_size", "learning_rate", "weight_decay", "beta", "seed")  # on the card


@dataclass(frozen=True)
class QlaeResult:
    """What a training did; the model was trained in place.

    Attributes:
        metrics: rows of the loop: "step", "loss", "cross_entropy", "psnr", penalties.
        evaluations: rows of "step" and what `measure` gives, from before the first step to the end.
    """

    metrics: list[dict[str, float]]
    evaluations: list[dict[str, float]]


def train_qlae(
    model: LatentAutoencoder,
    pictures: Tensor | np.ndarray | Pictures,
    config: QlaeConfig | None = None,
    folder: Path | str | None = None,
    *,
    factors: Any = None,
    resume: bool = True,
    device: str | None = None,
    data: str = "",
    **settings: Any,
) -> QlaeResult:
    """Train an autoencoder: `QLAE`, or a `LatentAutoencoder` with another bottleneck.

    Args:
        model: is trained in place.
        pictures: [N, C, s, s], bytes or numbers in [0, 1].
        config: the settings; None: the paper's.
        folder: gets the model, its card, `training.yaml`, `evaluation.yaml`, and `train/` with metrics and checkpoints;
            a stopped run goes on from there, whatever the weights of the given model. None: nothing is kept.
        factors: [N, n_s] what made the pictures: InfoMEC is measured, too, before the first step and at every
            evaluation.
        resume: False starts anew.
        device: "cpu" keeps a GPU out of it; None: what there is.
        data: what the pictures are, for the card.
        settings: of the config, by name, before it: `weight_decay=0.5`.

    Raises:
        TypeError, ValueError: pictures that do not fit the model, factors of other pictures, an unknown setting, or a
            folder of something else or of other settings.
    """
    config = settled(QlaeConfig, config, settings)
    source = pictures if isinstance(pictures, Pictures) else Pictures(pictures)
    check_fit(model, source)
    labels = None if factors is None else _table(factors)
    if labels is not None and (labels.dim() != 2 or len(labels) != len(source)):
        raise ValueError(f"factors must be [{len(source)}, n_s], a row per picture, not {list(labels.shape)}.")
    learned, kept = split(range(len(source)), config.held_out, config.seed)
    among = torch.tensor(kept or learned)
    order = torch.randperm(len(among), generator=torch.Generator().manual_seed(0))
    measured_on = among[order[: config.evaluation_pictures]]
    shown = source.__getitems__(measured_on.tolist())
    shown_labels = None if labels is None else labels[measured_on]
    if shown_labels is not None and bool((shown_labels == shown_labels[:1]).all()):
        raise ValueError("every factor has one value on the pictures that are measured on: leave factors out.")
    told = source.digest
    if labels is not None and shown_labels is not None:
        source_labels(shown_labels[:, (shown_labels != shown_labels[:1]).any(0)], "factors")  # refused before any work
        told += f", factors {hashlib.sha256(labels.numpy().tobytes()).hexdigest()[:16]}"
    train_on = Pictures(source.pixels, source.chosen[torch.tensor(learned)])
    stage = Stage(
        name="train",
        config=config,
        objective=lambda: ReconstructionObjective(model, config),
        data=lambda: train_on,
        collate=Pictures.collate,
        evaluate=lambda objective: measure(model, shown, shown_labels),
        evaluate_every=config.evaluate_every,
    )
    result = run(stage, model, train_on, folder, told, data, resume=resume, device=device)
    return QlaeResult(result.metrics, result.evaluations)


def run(
    stage: Stage,
    model: LatentAutoencoder,
    pictures: Pictures,
    folder: Path | str | None,
    digest: str,
    data: str,
    *,
    resume: bool,
    device: str | None,
) -> StageResult:
    """Run the one stage of a training in its folder, and write the model there.

    Args:
        stage: the stage.
        model: what it trains.
        pictures: what it trains on.
        folder: None: nothing is kept.
        digest: of the pictures and, where they are measured, factors.
        data: what the pictures are, for the card.
        resume, device: as in `train_qlae`.
    """
    if device is not None:
        check_device(device)
    config = stage.config
    if folder is None:
        whole = planned_steps(len(pictures), config)
        rare = dataclasses.replace(config, save_every=config.log_every * (whole // config.log_every + 1))
        with tempfile.TemporaryDirectory(prefix="qlae-") as scratch:
            return run_recipe([dataclasses.replace(stage, config=rare)], Path(scratch), device=device)[stage.name]
    folder = Path(folder)
    check_folder(folder)
    check_ours(folder, _MADE_FOR, (*_FOLDERS, *_FILES))
    text = f"{_MADE_FOR}\n# {model.kind}, {model.shape}, {model.bottleneck}\n# data: {digest}\n"
    text = text.replace("\n  ", " ").replace("\n)", ")") + config.to_yaml()
    other = "settings or pictures, or of another model"
    with own_run(
        folder, text, folders=_FOLDERS, files=_FILES, restart=not resume, other=other, device=device
    ) as processes:
        result = run_recipe([stage], folder, resume=resume, device=device)[stage.name]
        model.eval()
        if processes.is_main_process:
            last = result.evaluations[-1] if result.evaluations else result.metrics[-1]
            metrics = {name: float(value) for name, value in last.items()}
            write_whole(folder / "evaluation.yaml", yaml.safe_dump(metrics))
            chosen = {name: getattr(config, name) for name in SETTINGS if hasattr(config, name)}
            what = f"{len(pictures)} pictures" + (f" ({data})" if data else "")
            model.note({"data": what, "settings": chosen, "metrics": metrics})
            model.save_pretrained(folder)
    return result


def settled(cls: type[Config], config: Config | None, settings: dict[str, Any]) -> Config:
    """A config with settings by name before it.

    Raises:
        TypeError, ValueError: another config, or what `known` and the config refuse.
    """
    if config is not None and not isinstance(config, cls):
        raise TypeError(f"config must be a {cls.__name__} or None, not a {type(config).__name__}.")
    return dataclasses.replace(config or cls(), **known(cls, settings))


def _table(factors: Any) -> Tensor:
    try:
        return torch.as_tensor(factors).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError("factors must be a table of numbers [N, n_s]: number the words.") from error


def known(cls: type[TrainingConfig], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by name, if the config has them all.

    Raises:
        ValueError: one that it has not.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    for name in settings:
        if name not in names:
            raise ValueError(f"there is no setting {name!r}; settings: {', '.join(names)}.")
    return settings


def check_fit(model: nn.Module, pictures: Dataset[Tensor]) -> None:
    """Refuse pictures of another size than the model's.

    Raises:
        TypeError: no autoencoder of ours.
        ValueError: another size.
    """
    if not isinstance(model, LatentAutoencoder):
        raise TypeError(f"the model must be a QLAE or a LatentAutoencoder, not a {type(model).__name__}.")
    shape, found = model.shape, list(pictures[0].shape)
    if found != [shape.channels, shape.image_size, shape.image_size]:
        raise ValueError(
            f"pictures are {found} and the model is for [{shape.channels}, {shape.image_size}, {shape.image_size}]: "
            "make it with their image_size and channels."
        )
