"""`szilard info`: what a model is and which methods it can run, what an image codec or a coded picture is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from szilard.cli import options as o
from szilard.cli.loading import load_engine
from szilard.registry import methods


def info_command(
    name: Annotated[
        str | None, typer.Argument(help="Hub id, folder, *.gguf or zoo/<name>, or a coded picture; default: embedded.")
    ] = None,
    model: o.ModelOption = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    json_: o.JsonOption = False,
) -> None:
    """Describe a model and the methods that it can run, an image codec, or a picture of `szilard encode`."""
    if name is not None and _is_picture(Path(name)):
        _print(_of_picture(Path(name)), json_)
        return
    if (folder := _codec_folder(name or model)) is not None:
        _print(_of_codec(folder), json_)
        return
    loaded = load_engine(name or model, engine, device, dtype)
    runs = {slug: sorted(entry.needs - loaded.provides) for slug, entry in methods().items()}
    facts = {
        "model": loaded.name,
        "engine": loaded.kind,
        "parameters": loaded.parameter_count,
        "vocabulary": loaded.vocab_size,
        "context window": loaded.context_window,
        "chat template": loaded.has_chat_template,
        "gives": sorted(loaded.provides),
        "runs": [slug for slug, missing in runs.items() if not missing],
        "cannot run": {slug: missing for slug, missing in runs.items() if missing},
    }
    if hasattr(loaded, "model"):
        facts |= {"architecture": type(loaded.model).__name__, "dtype": str(loaded.model.dtype).removeprefix("torch.")}
        facts |= {"device": str(loaded.model.device)}
    _print(facts, json_)


def _is_picture(file: Path) -> bool:
    from szilard.codecs.container import is_coded

    return file.suffix.lower() == ".szc" or (file.is_file() and is_coded(file))


def _of_picture(file: Path) -> dict[str, Any]:
    """What a coded picture is; needs no codec."""
    from szilard.codecs.container import FLOAT32, REFINED, Bitstream

    coded = Bitstream.load(file)
    own = coded.header
    tiles = f"{len(coded.tiles)} of {own.tile}, overlapping by {own.overlap}" if own.tile else "none"
    return {
        "picture": str(file),
        "width": own.width,
        "height": own.height,
        "colours": "grey" if own.channels == 1 else "RGB",
        "bits": own.depth,
        "alpha": coded.has_alpha,
        "codec": own.codec,
        "weights": own.weights.hex(),
        "arithmetic": "float32" if own.flags & FLOAT32 else "exact",
        "refined": bool(own.flags & REFINED),
        "tiles": tiles,
        "bytes": len(coded.to_bytes()),
        "bits per pixel": coded.bpp,
        "bits of payload": coded.payload_bpp,
    }


def _codec_folder(name: str | None) -> Path | None:
    """The folder, if a name is that of a learned image codec."""
    if name is None:
        return None
    folder = Path(name)
    if name.startswith("zoo/") and not folder.exists():
        from szilard.codecs.zoo import codec_folders

        return codec_folders().get(name.removeprefix("zoo/"))
    try:
        return folder if "codec" in json.loads((folder / "config.json").read_text(encoding="utf-8")) else None
    except (OSError, ValueError, TypeError):
        return None


def _of_codec(folder: Path) -> dict[str, Any]:
    from szilard.codecs.opening import open_codec

    codec = open_codec(folder)
    facts: dict[str, Any] = {"codec": codec.name, "folder": str(folder), "weights": codec.weights_id().hex()}
    facts["parameters"] = sum(parameter.numel() for parameter in codec.parameters())
    facts |= {name: str(value) for name, value in codec.plain_settings().items()}
    return facts | {f"trained, {name}": str(value) for name, value in (codec.trained_on or {}).items()}


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts))
        return
    console = Console()
    for key, value in facts.items():
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, int):
            value = f"{value:,}"
        elif isinstance(value, float):
            value = f"{value:.4f}"
        elif isinstance(value, list):
            value = ", ".join(value)
        elif isinstance(value, dict):
            value = "; ".join(f"{slug} (needs {', '.join(missing)})" for slug, missing in value.items()) or "-"
        console.print(f"[bold]{key:>15}[/bold]  {escape(str(value))}", highlight=False)
