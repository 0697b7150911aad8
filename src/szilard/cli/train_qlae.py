"""`szilard train qlae` and `szilard train infogan`: latents that carry one factor each, from pictures."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from szilard.cli import options as o
from szilard.cli.loading import needs, note, training_device
from szilard.cli.train_heads import ConfigOption, OutputOption, RestartOption, add_flags
from szilard.representation.qlae.config import InfoGanRunConfig, QlaeConfig, QlaeRunConfig
from szilard.training.config import TrainingConfig

DataOption = Annotated[
    str,
    typer.Option("--data", help="A folder of pictures, a .npy file [N, C, s, s] or [N, s, s, C], or `sprites`."),
]
FactorsOption = Annotated[
    Path | None, typer.Option("--factors", help="A .npy file [N, factors] of what made the pictures.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Only so many pictures.")]
PAGE_PICTURES = 2000  # whose latents give the page its values


def qlae(
    data: DataOption,
    output: OutputOption,
    factors: FactorsOption = None,
    config: ConfigOption = None,
    limit: LimitOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    **settings: Any,
) -> None:
    """Train QLAE on pictures, or with --bottleneck what it is compared with (ae, beta-vae, vq-vae, fsq, ...).

    With factors (sprites have theirs) modularity, explicitness and compactness are measured on the way. The folder
    gets the model, its card and, where Pillow is installed, traversals.html. A stopped run goes on from its last
    checkpoint when the command is given again.
    """
    from szilard.representation.qlae.model import QLAE, LatentAutoencoder
    from szilard.representation.qlae.pictures import read_pictures
    from szilard.representation.qlae.training import train_qlae
    from szilard.training.config import read_config

    chosen = read_config(QlaeRunConfig, config, settings)
    needs("accelerate")
    pixels, labels = read_pictures(data, image_size=chosen.image_size, factors=factors, limit=limit, seed=chosen.seed)
    if labels is not None and importlib.util.find_spec("sklearn") is None:
        raise ValueError("measuring factors needs scikit-learn: pip install 'szilard[eval]'")
    sizes = chosen.arguments | {"channels": int(pixels.shape[1])}
    with torch.random.fork_rng():
        torch.manual_seed(chosen.seed)
        model = QLAE(**sizes) if chosen.bottleneck == "qlae" else LatentAutoencoder(chosen.bottleneck, **sizes)
    result = train_qlae(
        model,
        pixels,
        _of(QlaeConfig, chosen),
        output,
        factors=labels,
        resume=not restart,
        device=training_device(device),
        data=data,
    )
    found = result.evaluations[-1]
    shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items() if name != "step")
    note(f"{shown}; written to {output}")
    _page(model, pixels, output)


def infogan(
    data: DataOption,
    output: OutputOption,
    config: ConfigOption = None,
    limit: LimitOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    **settings: Any,
) -> None:
    """Train a quantised InfoWGAN-GP on pictures: a generator whose codes can be read back from its pictures.

    The folder is one of `szilard train qlae`. A stopped run goes on when the command is given again.
    """
    from szilard.representation.qlae.config import InfoGanConfig
    from szilard.representation.qlae.infogan import train_infogan
    from szilard.representation.qlae.model import QLAE
    from szilard.representation.qlae.pictures import read_pictures
    from szilard.training.config import read_config

    chosen = read_config(InfoGanRunConfig, config, settings)
    needs("accelerate")
    pixels, _ = read_pictures(data, image_size=chosen.image_size, limit=limit, seed=chosen.seed)
    with torch.random.fork_rng():
        torch.manual_seed(chosen.seed)
        model = QLAE(**chosen.arguments, channels=int(pixels.shape[1]))
    settings_only = _of(InfoGanConfig, chosen)
    result = train_infogan(
        model, pixels, settings_only, output, resume=not restart, device=training_device(device), data=data
    )
    note(
        f"latent error {result.metrics[-1]['latent_error']:.4f}; written to {output}" if result.metrics else str(output)
    )
    _page(model, pixels, output)


def _of(cls: type[Any], chosen: TrainingConfig) -> Any:
    """The settings of the training alone."""
    values: Mapping[str, Any] = dataclasses.asdict(chosen)
    return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def _page(model: Any, pixels: Any, output: Path) -> None:
    from szilard.representation.qlae.pictures import Pictures
    from szilard.representation.qlae.traversals import write_traversals

    if importlib.util.find_spec("PIL") is None or model.shape.channels not in (1, 3):
        return
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))  # grids come in order
    some = Pictures(pixels).__getitems__(order[:PAGE_PICTURES].tolist())
    write_traversals(model, some, output / "traversals.html")


add_flags(qlae, QlaeRunConfig)
add_flags(infogan, InfoGanRunConfig)
