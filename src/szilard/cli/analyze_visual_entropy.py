"""`szilard analyze visual-entropy`: where the matrix entropy of visual tokens collapses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, note
from szilard.options import check_choice, check_number

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_BAR = 40  # characters of the longest bar


def visual_entropy(
    images: Annotated[
        Path, typer.Option("--images", help='A folder of pictures, or .jsonl with a {"image", "prompt"} per line.')
    ],
    model: o.ModelOption = None,
    prompt: Annotated[str, typer.Option("--prompt", help="Asked about the pictures of a folder.")] = "what is this ?",
    states: Annotated[str, typer.Option("--states", help="query or key.")] = "query",
    top: Annotated[int | None, typer.Option("--top", help="Only the so many greatest eigenvalues.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many pictures.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the profile, for --set entropy-prune.layer=FILE.")
    ] = None,
    as_json: o.JsonOption = False,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
) -> None:
    """Measure the matrix entropy of visual tokens in every layer, and find the layer after which it collapses.

    That layer is where `--method greedy+entropy-prune` drops tokens. A few dozen pictures suffice.
    """
    from szilard.analysis.visual_entropy import visual_entropy_profile

    check_choice("states", states, ("query", "key"))
    check_number("top", top, low=1, integer=True, optional=True)
    check_number("limit", limit, low=1, integer=True, optional=True)
    o.check_writable(output)
    pairs = read_pictures(images, prompt)[:limit]
    engine: Any = load_engine(model, "transformers", device, dtype)
    prompts = (
        engine.encode([text], images=[[picture]])
        for picture, text in track(pairs, description="pictures", console=errors, transient=True)
    )
    profile = visual_entropy_profile(engine.model, prompts, states=states, top=top)
    if output is not None:
        profile.save(output)
        note(f"profile written to {output}")
    if as_json:
        print(json.dumps(asdict(profile), indent=2))
        return
    table = Table("layer", "entropy (nats)", "change", "", box=None, header_style="bold")
    most, before = max(profile.entropy), profile.entropy[0]
    for index, (value, error) in enumerate(zip(profile.entropy, profile.error, strict=True)):
        bar = "█" * round(_BAR * value / most) if most > 0 else ""
        change = "" if index == 0 else f"{value - before:+.3f}"
        table.add_row(str(index), f"{value:.3f} ± {error:.3f}", change, bar)
        before = value
    console = Console()
    console.print(table)
    fall = profile.entropy[profile.layer] - profile.entropy[profile.layer - 1]
    console.print(
        f"\ncollapse layer: K = {profile.layer} ({fall:+.3f} nats from layer {profile.layer - 1} to {profile.layer}; "
        f"{profile.pictures} pictures, {profile.tokens:.0f} visual tokens each, {states} states)",
        highlight=False,
    )


def read_pictures(images: Path, prompt: str) -> list[tuple[str, str]]:
    """Paths of pictures and what is asked about each.

    Raises:
        ValueError: no such folder or file, none in it, or a line that is not of that form.
    """
    if images.is_dir():
        found = sorted(path for path in images.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not found:
            raise ValueError(f"there are no pictures ({', '.join(_SUFFIXES)}) in the folder {str(images)!r}.")
        return [(str(path), prompt) for path in found]
    if not images.is_file():
        raise ValueError(f"there is no folder or file {str(images)!r}.")
    pairs = []
    for number, line in enumerate(images.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            picture, text = record["image"], record.get("prompt", prompt)
        except (ValueError, KeyError, TypeError, AttributeError):
            picture = text = None
        if not isinstance(picture, str) or not isinstance(text, str):
            raise ValueError(f'line {number} of {str(images)!r} is not of the form {{"image": path, "prompt": text}}.')
        pairs.append((str(images.parent / picture), text))
    if not pairs:
        raise ValueError(f"{str(images)!r} has no lines.")
    return pairs
