"""`szilard evaluate-codecs`: rate, distortion and time of learned codecs and of standards on pictures."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import errors, note
from szilard.options import check_choice, check_number
from szilard.whole_folder import check_folder, write_whole

if TYPE_CHECKING:
    from szilard.codecs.evaluation import Evaluation
    from szilard.codecs.rd_curves import RDCurve

Compared = list[dict[str, Any]]


def evaluate_codecs_command(
    images: Annotated[Path, typer.Option("--images", help="Folder of pictures: PNG, JPEG, WebP or TIFF.")],
    codec: Annotated[
        list[str],
        typer.Option(
            "--codec",
            help="jpeg, webp, avif, heic or vvc, with qualities as webp:10,50; or a learned codec's folder or hub id, "
            "or a folder of such folders, one for each lambda; NAME=... names its curve. Repeatable.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the results; a stopped run goes on from it.")
    ],
    anchor: Annotated[
        str | None, typer.Option("--anchor", help="BD-rates against this curve: one of --codec, or a JSON of a curve.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="Of the BD-rate: pchip, akima or cubic.")] = "pchip",
    curve: Annotated[
        list[Path] | None, typer.Option("--curve", help="A published curve (JSON) to compare with. Repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most so many pictures.")] = None,
    crop: Annotated[int, typer.Option("--crop", help="Side of the centre that is taken of each; 0: all of it.")] = 0,
    tile: Annotated[
        int | None,
        typer.Option("--tile", help="Side of tiles, a multiple of 64; 0: never cut; default: 1024 for sides > 2048."),
    ] = None,
    arithmetic: Annotated[str, typer.Option("--arithmetic", help="Of learned codecs: exact or float32.")] = "exact",
    device: o.DeviceOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Compare codecs: `szilard evaluate-codecs --images photos --codec mine --codec webp -o results`."""
    from szilard.codecs.coding import tiling_of
    from szilard.codecs.contestants import contestants
    from szilard.codecs.evaluation import evaluate_codecs
    from szilard.codecs.learned_codec import ARITHMETICS
    from szilard.codecs.photographs import files_of
    from szilard.codecs.rd_curves import METHODS, RDCurve

    check_choice("--method", method, METHODS)
    check_choice("--arithmetic", arithmetic, ARITHMETICS)
    check_number("--limit", limit, low=1, integer=True, optional=True)
    check_number("--crop", crop, low=0, integer=True)
    tiling_of(64, 64, tile)
    check_folder(output)
    files = files_of(images)[:limit]
    published = [RDCurve.from_json(one) for one in curve or ()]
    from_file = anchor is not None and anchor.endswith(".json")
    if from_file:
        published.append(RDCurve.from_json(str(anchor)))
    codecs = [
        point
        for text in codec
        for point in contestants(text, tile=tile, arithmetic=arithmetic, opened=lambda one: _opened(one, device))
    ]
    wanted = published[-1].name if from_file else anchor
    names = list(dict.fromkeys([*(point.name for point in codecs), *(one.name for one in published)]))
    if wanted is not None:
        check_choice("--anchor", wanted, tuple(names))
    columns = (
        TextColumn("pictures x codecs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as progress:
        line = progress.add_task("", total=len(files) * len(codecs))
        found = evaluate_codecs(
            codecs, files, output, crop=crop, progress=lambda done, _: progress.update(line, completed=done)
        )
    curves = [*found.curves(), *published]
    compared = _compared(curves, wanted, method)
    _write(found, curves, compared, output)
    if as_json:
        print(json.dumps(found.as_dict() | {"bd": compared}))
        return
    console = Console()
    console.print(_table(found, len(files)))
    console.print(_times(found))
    if compared:
        console.print(_bd_table(compared, str(wanted), method))
    note(f"rows, curves and a picture of them written to {output}")


def _opened(name: str, device: str | None) -> Any:
    import torch

    from szilard.codecs.opening import open_codec
    from szilard.engines.loading import check_device

    if device is not None:
        check_device(device)
    return open_codec(name).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _compared(curves: Sequence[RDCurve], anchor: str | None, method: str) -> Compared:
    """BD-rates and BD-PSNRs against the anchor; where there is none, why."""
    from szilard.codecs.rd_curves import bd_psnr, bd_rate

    own = next((curve for curve in curves if curve.name == anchor), None)
    found: Compared = []
    if own is None:
        return found
    for curve in curves:
        if curve is own:
            continue
        row: dict[str, Any] = {"codec": curve.name, "anchor": anchor, "method": method}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for name, compare in (("bd_rate", bd_rate), ("bd_psnr", bd_psnr)):
                try:
                    row[name] = compare(own, curve, method)
                except ValueError as error:
                    row |= {name: None, "why not": str(error)}
        row["warnings"] = list(dict.fromkeys(str(one.message) for one in told))
        found.append(row)
    return found


def _write(found: Evaluation, curves: Sequence[RDCurve], compared: Compared, output: Path) -> None:
    from szilard.codecs.rd_picture import curves_svg

    write_whole(output / "results.json", json.dumps(found.as_dict() | {"bd": compared}, indent=2) + "\n")
    for one in found.curves():
        one.to_json(output / f"curve-{''.join(c if c.isalnum() or c in '-.' else '_' for c in one.name)}.json")
    write_whole(output / "psnr.svg", curves_svg(curves, "psnr"))
    if any(one.ms_ssim for one in curves):
        write_whole(output / "ms-ssim.svg", curves_svg(curves, "ms-ssim"))


def _table(found: Evaluation, pictures: int) -> Table:
    title = f"means over {pictures} pictures; bits per pixel of files, of streams, by the model"
    table = Table(title=title, title_justify="left")
    for name in ("codec", "point", "bpp", "payload", "estimated", "PSNR", "MS-SSIM"):
        table.add_column(name, justify="left" if name == "codec" else "right")
    for row in found.summary():
        rates = (_shown(row[name], 4) for name in ("bpp", "payload_bpp", "estimated_bpp"))
        table.add_row(row["codec"], row["point"], *rates, _shown(row["psnr"], 2), _shown(row["ms_ssim"], 4))
    return table


def _times(found: Evaluation) -> Table:
    table = Table(title="what they take, by size", title_justify="left")
    for name in ("codec", "point", "size", "encode s", "decode s", "peak MB", "parameters"):
        table.add_column(name, justify="left" if name == "codec" else "right")
    for row in found.timing():
        table.add_row(
            row["codec"],
            row["point"],
            f"{row['width']} x {row['height']}",
            *(_shown(row[f"{what}_seconds"], 3) for what in ("encode", "decode")),
            _shown(row["peak_megabytes"], 0),
            f"{row['parameters']:,}" if row["parameters"] else "",
        )
    return table


def _bd_table(compared: Compared, anchor: str, method: str) -> Table:
    table = Table(title=f"against {anchor}, {method}", title_justify="left")
    for name in ("codec", "BD-rate", "BD-PSNR", ""):
        table.add_column(name, justify="right" if name.startswith("BD") else "left")
    for row in compared:
        rate = "" if row["bd_rate"] is None else f"{row['bd_rate']:+.2f} %"
        gain = "" if row["bd_psnr"] is None else f"{row['bd_psnr']:+.3f} dB"
        table.add_row(row["codec"], rate, gain, " ".join([*row["warnings"], row.get("why not", "")]).strip())
    return table


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
