"""Tiny reference checkpoints: each small enough to travel with the package, each with its card and its recipe."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the checkpoints in this package, sorted."""
    return sorted(config.parent.name for config in _FOLDER.glob("*/config.json"))


def path(name: str) -> Path:
    """Folder of a checkpoint, ready for `from_pretrained`.

    Raises:
        ValueError: no checkpoint of this name.
    """
    if name not in names():
        raise ValueError(f"no checkpoint named {name!r}; the zoo has: {', '.join(names()) or 'none yet'}")
    return _FOLDER / name
