"""What is installed of szilard's extras, and the line that installs the rest here."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import Requirement

_NAMED = "'szilard["


def as_installed(text: str) -> str:
    """A text whose `pip install 'szilard[extra]'` works here: the folder is named that szilard came from, if it did."""
    if _NAMED not in text or (folder := _source()) is None:
        return text
    return text.replace(_NAMED, f"-e '{folder}[")


def missing_by_extra() -> Mapping[str, list[str]]:
    """Extra -> its own packages that are not installed, in the order of pyproject.toml."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("szilard") or ():
        needed = Requirement(line)
        extra = "" if needed.marker is None else str(needed.marker).partition("extra == ")[2].strip('"')
        if extra and needed.name != "szilard":
            absent = found.setdefault(extra, [])
            if not _is_there(needed.name):
                absent.append(needed.name)
    return found


def _is_there(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _source() -> Path | None:
    """The folder that pip installed szilard from; None: an index, or a folder that is gone."""
    told = importlib.metadata.distribution("szilard").read_text("direct_url.json")
    parts = urlsplit(json.loads(told)["url"]) if told else None
    if parts is None or parts.scheme != "file":
        return None
    folder = Path(url2pathname(parts.path))
    return folder if (folder / "pyproject.toml").is_file() else None
