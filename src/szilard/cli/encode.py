"""`szilard encode`: a picture to a small file, by a learned codec."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from szilard.cli import options as o
from szilard.cli.loading import errors, note
from szilard.options import check_choice, check_number

if TYPE_CHECKING:
    from szilard.codecs.learned_codec import LearnedCodec

CodecOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder, hub id or zoo/<name> of a learned codec; default: one of the zoo."),
]


def encode_command(
    picture: Annotated[Path, typer.Argument(help="PNG, JPEG, WebP or TIFF.")],
    output: Annotated[Path, typer.Argument(help="The coded file, as photo.szc.")],
    model: CodecOption = None,
    quality: Annotated[
        int | None, typer.Option("--quality", "-q", help="1 (smallest) to 4, of the zoo's codecs; default: 3.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--codec", help="Kind of the zoo's codec: mlicv2 or mean-scale; default: mlicv2.")
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option("--tile", help="Side of tiles, a multiple of 64; 0: never cut; default: 1024 for sides > 2048."),
    ] = None,
    alpha: Annotated[
        str, typer.Option("--alpha", help="Transparency: refuse, keep (without loss) or drop.")
    ] = "refuse",
    arithmetic: Annotated[
        str, typer.Option("--arithmetic", help="exact: any machine decodes it; float32: faster, only this one surely.")
    ] = "exact",
    refine: Annotated[bool, typer.Option("--refine", help="Search for better latents: much slower, smaller.")] = False,
    steps: Annotated[int | None, typer.Option("--steps", help="Of --refine; default: 2000.")] = None,
    lmbda: Annotated[
        float | None, typer.Option("--lmbda", help="Of --refine: what distortion costs; default: the codec's own.")
    ] = None,
    device: o.DeviceOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Code a picture: `szilard encode photo.png photo.szc`."""
    from szilard.codecs.annealing import own_lambda
    from szilard.codecs.annealing import refine as anneal
    from szilard.codecs.coding import encode, tile_count
    from szilard.codecs.images import ALPHAS, left_out, read_picture
    from szilard.codecs.learned_codec import ARITHMETICS
    from szilard.codecs.opening import CODECS

    check_choice("--alpha", alpha, ALPHAS)
    check_choice("--arithmetic", arithmetic, ARITHMETICS)
    if not refine and (steps is not None or lmbda is not None):
        raise ValueError(f"--{'steps' if steps is not None else 'lmbda'} belongs to --refine; add it.")
    if model is not None and quality is not None:
        raise ValueError("--quality chooses a codec of the zoo, and --model names one: give one of the two.")
    if kind is not None:
        check_choice("--codec", kind, tuple(CODECS))
        if model is not None:
            raise ValueError("--codec says which kind of the zoo's codecs, and --model names one: give one of the two.")
    check_number("--steps", steps, low=0, integer=True, optional=True)
    check_number("--lmbda", lmbda, low=0, high=1e9, optional=True)
    check_coded_name(output)
    o.check_other_file(output, picture)
    o.check_writable(output)
    read = read_picture(picture, alpha)
    tiles = tile_count(*read.size, tile)
    for what in left_out(picture):
        note(f"{picture}: the coded file does not keep {what}")
    codec = _codec(model, quality, kind, device)
    codec.arithmetic = arithmetic
    weight = lmbda or 0.0
    if refine and lmbda is None:
        weight = own_lambda(codec)
    count = 2000 if steps is None else steps
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    before = time.perf_counter()
    with Progress(*columns, console=errors, transient=True) as progress:
        line = progress.add_task("steps" if refine else "tiles", total=tiles * count if refine else tiles)

        def refined(pixels: Any) -> Any:
            found = anneal(codec, pixels, weight, count, callback=lambda *_: progress.advance(line))
            return found.y, found.z

        coded = encode(
            codec,
            read,
            tile=tile,
            refine=refined if refine else None,
            progress=None if refine else lambda done, _: progress.update(line, completed=done),
        )
    seconds = time.perf_counter() - before
    coded.save(output)
    height, width = read.size
    facts = {
        "file": str(output),
        "bytes": len(coded.to_bytes()),
        "bpp": coded.bpp,
        "payload bpp": coded.payload_bpp,
        "width": width,
        "height": height,
        "codec": codec.name,
        "weights": coded.header.weights.hex(),
        "seconds": seconds,
    }
    if as_json:
        print(json.dumps(facts))
        return
    print(
        f"{output}: {facts['bytes']:,} bytes, {coded.bpp:.4f} bits per pixel, {width} x {height}, "
        f"{codec.name} {facts['weights']}, {seconds:.1f} s"
    )


def check_coded_name(output: Path) -> None:
    """Refuse a picture's name for a coded file: `encode *.png` would write one picture over another.

    Raises:
        ValueError: it is one.
    """
    from szilard.codecs.photographs import SUFFIXES

    if output.suffix.lower() in SUFFIXES:
        raise ValueError(f"{str(output)!r} is named as a picture; name the coded file as {output.stem}.szc.")


def open_model(model: str, device: str | None) -> LearnedCodec:
    """The codec of `--model`.

    Raises:
        ValueError: there is none.
    """
    from szilard.codecs.opening import open_codec
    from szilard.engines.loading import zoo_folder

    inside = model.startswith("zoo/") and not Path(model).exists()
    return on_device(open_codec(zoo_folder(model.removeprefix("zoo/")) if inside else model), device)


def on_device(codec: LearnedCodec, device: str | None) -> LearnedCodec:
    """Where `--device` says, or where there is an accelerator.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    from szilard.engines.loading import check_device

    if device is not None:
        check_device(device)
    return codec.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _codec(model: str | None, quality: int | None, kind: str | None, device: str | None) -> LearnedCodec:
    from szilard.codecs.zoo import codec_of_quality

    if model is not None:
        return open_model(model, device)
    return on_device(codec_of_quality(3 if quality is None else quality, kind or "mlicv2"), device)
