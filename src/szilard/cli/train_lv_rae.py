"""`szilard train lv-rae`: latents that are a vision model's tokens and can be turned back into pictures."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.loading import needs, note, training_device
from szilard.cli.train_heads import ConfigOption, OutputOption, RestartOption, add_flags
from szilard.representation.lv_rae.config import LVRAEConfig, LVRAERun

_DRAWN = 16_000  # pictures of `shapes`


def lv_rae(
    data: Annotated[
        str,
        typer.Option("--data", help="A folder of pictures, a .npy file [N, 3, s, s] or [N, s, s, 3], or `shapes`."),
    ],
    output: OutputOption,
    start: Annotated[
        Path | None, typer.Option("--start", help="An LV-RAE whose decoder is made robust: stage II alone.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only so many pictures.")] = None,
    config: ConfigOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    **settings: Any,
) -> None:
    """Train LV-RAE on a frozen vision model; with --no-residual RAE, with --no-residual --tune-vfm F.T.-VFM.

    Stage I trains encoder and decoder, stage II the decoder on noisy latents (--robust-steps), then with a
    discriminator (--adversarial-steps). `--vfm small --data shapes` needs no download. A stopped run goes on when the
    command is given again.
    """
    needs("accelerate")
    from szilard.options import check_number
    from szilard.representation.lv_rae.backbone import open_backbone
    from szilard.representation.lv_rae.discriminator import Discriminator
    from szilard.representation.lv_rae.losses import perceptual_loss
    from szilard.representation.lv_rae.small_backbone import small_backbone, wavy_pictures
    from szilard.representation.lv_rae.training import check_new, new_model, robust_copy, train_lv_rae
    from szilard.representation.qlae.pictures import Pictures, read_pictures
    from szilard.training.config import read_config

    chosen = read_config(LVRAERun, config, settings)
    check_number("limit", limit, low=1, integer=True, optional=True)
    if start is not None and start.resolve() == output.resolve():
        raise ValueError("--start and -o are the same folder: stage II writes a folder of its own.")
    check_new(output)
    perceptual = perceptual_loss(chosen.perceptual)
    trunk = open_backbone(chosen.discriminator_vfm) if chosen.discriminator_vfm and chosen.adversarial_steps else None
    if data == "shapes":
        pictures = Pictures(wavy_pictures(limit or _DRAWN, chosen.image_size, seed=chosen.seed))
    else:
        pictures = Pictures(read_pictures(data, image_size=chosen.image_size, limit=limit, seed=chosen.seed)[0])
    where = training_device(device)
    if start is not None:
        asked = [field.name for field in fields(LVRAEConfig) if settings.get(field.name) is not None]
        model = robust_copy(start, chosen.model, beside=output, asked=asked)
    elif chosen.vfm == "small":
        vit = small_backbone(output, pictures, chosen.patch, seed=chosen.seed, restart=restart, device=where)
        model = new_model(chosen.model, vit, chosen.seed)
    else:
        model = new_model(chosen.model, None, chosen.seed)
    result = train_lv_rae(
        model,
        pictures,
        output,
        chosen.stages,
        from_stage=1 if start is None else 2,
        discriminator=None if trunk is None else Discriminator(trunk, seed=chosen.seed),
        perceptual=perceptual,
        resume=not restart,
        device=where,
        data=data,
    )
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in result.metrics.items())
    note(f"held-out pictures: {shown}; written to {output}")


add_flags(lv_rae, LVRAERun)
