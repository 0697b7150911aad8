"""`szilard train codec`: a learned image codec, from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.loading import needs, note, training_device
from szilard.cli.train_heads import ConfigOption, OutputOption, RestartOption, add_flags
from szilard.codecs.training import CodecConfig

PACKAGED = "packaged"
PicturesOption = Annotated[
    str,
    typer.Option("--data", help="A folder, or `packaged`: photographs of scikit-image, scikit-learn, matplotlib."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Only so many pictures.")]
CodecOption = Annotated[str | None, typer.Option("--codec", help="mlicv2 (the default) or mean-scale.")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="Of mlicv2: mlicv2, mlicpp, mlicv2-small (the default), ...")
]
SizeOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="A size or part of the codec: N=32. Repeatable.", metavar="NAME=VALUE"),
]


def codec(
    data: PicturesOption,
    output: OutputOption,
    codec: CodecOption = None,
    preset: PresetOption = None,
    sizes: SizeOption = None,
    config: ConfigOption = None,
    limit: LimitOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    **settings: Any,
) -> None:
    """Train a learned image codec on photographs: MLICv2 and its presets, or a mean-scale hyperprior.

    The folder holds the codec, with its tables, for `szilard encode` and `decode`. A stopped run goes on from its last
    checkpoint when the command is given again.
    """
    from szilard.codecs.building import new_codec, parse_settings
    from szilard.codecs.training import train_codec
    from szilard.training.config import read_config
    from szilard.whole_folder import check_folder

    chosen = read_config(CodecConfig, config, settings)
    needs("accelerate")
    check_folder(output)
    name = codec or "mlicv2"
    made = new_codec(name, preset, parse_settings(name, sizes or ()), chosen.seed)
    pictures = read_pictures(data, limit)
    rows = train_codec(made, pictures, chosen, output, resume=not restart, device=training_device(device))
    if rows:
        note(f"{rows[-1]['bpp']:.3f} bits per pixel, PSNR {rows[-1]['psnr']:.2f} dB; written to {output}")


def read_pictures(data: str, limit: int | None) -> Any:
    """Files of a folder, or packaged photographs.

    Raises:
        ValueError: there are none.
    """
    from szilard.codecs.photographs import files_of, packaged_photographs
    from szilard.options import check_number

    check_number("limit", limit, low=1, integer=True, optional=True)
    if data == PACKAGED:
        return dict(list(packaged_photographs().items())[:limit])
    return files_of(Path(data))[:limit]


add_flags(codec, CodecConfig)
