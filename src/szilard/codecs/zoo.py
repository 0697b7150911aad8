"""Codecs of the zoo: trained ones by their quality, and the one that wrote a file.

A codec of the zoo is a folder `<codec>-q<quality>`, as in `mlicv2-q3`, qualities 1 (smallest files) to 4.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.opening import open_codec
from szilard.options import check_number

QUALITIES = 4
_NONE = "name one with --model (a folder or a hub id); `szilard train codec` makes one"


def codec_folders() -> dict[str, Path]:
    """Folders of the zoo's codecs, by name."""
    if importlib.util.find_spec("szilard_zoo") is None:
        return {}
    import szilard_zoo

    folders = {name: szilard_zoo.path(name) for name in szilard_zoo.names()}
    return {name: folder for name, folder in folders.items() if _kind(folder) is not None}


def codec_of_quality(quality: int = 3, codec: str = "mlicv2") -> LearnedCodec:
    """The zoo's codec of a quality.

    Args:
        quality: 1 (smallest files) to 4.
        codec: its kind.

    Raises:
        ValueError: the zoo has none, or no such quality.
    """
    check_number("quality", quality, low=1, high=QUALITIES, integer=True)
    found = codec_folders()
    folder = found.get(f"{codec}-q{quality}")
    if folder is None:
        there = ", ".join(found)
        held = f"the zoo has no codec {codec}-q{quality}" + (f" (it has {there})" if there else "")
        raise ValueError(f"{held}: {_NONE}.")
    return open_codec(folder)


def codec_of_weights(codec: str, weights: bytes) -> LearnedCodec:
    """The zoo's codec whose weights wrote a file.

    Args:
        codec: its kind, from the file's header.
        weights: their id, from the file's header.

    Raises:
        ValueError: the zoo has none with these weights.
    """
    for folder in codec_folders().values():
        found = open_codec(folder) if _kind(folder) == codec else None
        if found is not None and found.weights_id() == weights:
            return found
    raise ValueError(
        f"the file was written by {codec} with weights {weights.hex()}, which the zoo does not have: {_NONE}."
    )


def _kind(folder: Path) -> str | None:
    """What codec a folder holds; None: none."""
    try:
        kept = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = kept.get("codec") if isinstance(kept, dict) else None
    return kind if isinstance(kind, str) else None
