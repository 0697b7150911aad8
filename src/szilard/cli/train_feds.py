"""`szilard train feds`: a small codec from a large one."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.loading import needs, note, training_device
from szilard.cli.train_codec import (
    CodecOption,
    LimitOption,
    PicturesOption,
    PresetOption,
    SizeOption,
    read_pictures,
)
from szilard.cli.train_heads import ConfigOption, OutputOption, RestartOption, add_flags
from szilard.codecs.feds.config import FEDSConfig

TeacherOption = Annotated[
    str | None, typer.Option("--teacher", help="Folder or hub id of a trained codec; not with --method scratch.")
]
StudentOption = Annotated[
    Path | None,
    typer.Option("--student-config", help="The student: codec, preset and sizes, as .toml, .yaml or .json."),
]


def feds(
    data: PicturesOption,
    output: OutputOption,
    teacher: TeacherOption = None,
    student_config: StudentOption = None,
    codec: CodecOption = None,
    preset: PresetOption = None,
    sizes: SizeOption = None,
    config: ConfigOption = None,
    limit: LimitOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    json: o.JsonOption = False,
    **settings: Any,
) -> None:
    """Train a small codec with what a large one knows (FEDS, reconstructed): features, channels, fine-tuning.

    Without --student-config, --codec, --preset and --set the student is the teacher's kind, smaller. The folder holds
    an ordinary codec. A stopped run goes on from its last checkpoint when the command is given again.
    """
    from szilard.codecs.building import new_codec, parse_settings, read_settings, smaller
    from szilard.codecs.feds.training import train_feds
    from szilard.codecs.opening import open_codec
    from szilard.training.config import read_config
    from szilard.whole_folder import check_folder

    chosen = read_config(FEDSConfig, config, settings)
    needs("accelerate")
    if teacher is not None and Path(teacher).resolve() == output.resolve():
        raise ValueError("--teacher and -o are the same folder: the student gets a folder of its own.")
    check_folder(output)
    said = codec is not None or preset is not None or bool(sizes)
    if student_config is not None and said:
        raise ValueError("the student is in --student-config, or in --codec, --preset and --set, not in both.")
    if teacher is None and chosen.method != "scratch":
        raise ValueError("give a trained codec as --teacher, or train without one: --method scratch.")
    if teacher is None and not said and student_config is None:
        raise ValueError("without a teacher say what the student is: --student-config, --codec, --preset or --set.")
    opened = None if teacher is None else open_codec(teacher)
    if student_config is not None:
        name, own_preset, fields = read_settings(student_config)
        student = new_codec(name, own_preset, fields, chosen.seed)
    elif said:
        name = codec or "mlicv2"
        student = new_codec(name, preset, parse_settings(name, sizes or ()), chosen.seed)
    else:
        assert opened is not None
        student = smaller(opened, chosen.seed)
    pictures = read_pictures(data, limit)
    results = train_feds(
        opened, student, pictures, chosen, output, resume=not restart, device=training_device(device), tell=note
    )
    last = {name: result.metrics[-1] for name, result in results.items() if result.metrics}
    counts = [None if one is None else sum(part.numel() for part in one.parameters()) for one in (opened, student)]
    if json:
        print(json_module.dumps({"phases": last, "teacher_parameters": counts[0], "student_parameters": counts[1]}))
        return
    for name, row in last.items():
        note(f"{name}: {row['bpp']:.3f} bits per pixel, PSNR {row['psnr']:.2f} dB")
    fewer = "" if counts[0] is None else f", the teacher {counts[0]:,}"
    note(f"the student has {counts[1]:,} parameters{fewer}; written to {output}")


add_flags(feds, FEDSConfig)
