"""`szilard decode`: the picture of a coded file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from szilard.cli import options as o
from szilard.cli.encode import CodecOption, on_device, open_model
from szilard.cli.loading import errors


def decode_command(
    source: Annotated[Path, typer.Argument(help="A file of `szilard encode`.")],
    output: Annotated[Path, typer.Argument(help="The picture: .png, .tif, .webp (without loss) or .jpg.")],
    model: CodecOption = None,
    max_pixels: Annotated[
        int,
        typer.Option("--max-pixels", help="Refuse files that say a larger picture: it takes as long, however small."),
    ] = (1 << 28) // 3,  # the decoder's own, which is slow to import
    device: o.DeviceOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Decode a picture: `szilard decode photo.szc photo.png`."""
    from szilard.codecs.coding import check_codec, check_size, decode
    from szilard.codecs.container import Bitstream
    from szilard.codecs.images import check_target, write_picture
    from szilard.codecs.zoo import codec_of_weights

    o.check_other_file(output, source)
    o.check_writable(output)
    coded = Bitstream.load(source)
    own = coded.header
    check_size(own, max_pixels)
    check_target(output, own.depth, own.channels, coded.has_alpha, (own.height, own.width))
    codec = codec_of_weights(own.codec, own.weights) if model is None else open_model(model, device)
    codec = on_device(codec, device)
    check_codec(codec, own)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    before = time.perf_counter()
    with Progress(*columns, console=errors, transient=True) as progress:
        line = progress.add_task("tiles", total=len(coded.tiles))
        picture = decode(
            codec, coded, max_pixels=max_pixels, progress=lambda done, _: progress.update(line, completed=done)
        )
    seconds = time.perf_counter() - before
    write_picture(picture, output)
    facts = {"file": str(output), "width": own.width, "height": own.height, "codec": own.codec, "seconds": seconds}
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{output}: {own.width} x {own.height}, decoded by {own.codec} {own.weights.hex()}, {seconds:.1f} s")
