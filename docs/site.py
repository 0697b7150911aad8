"""Hooks of the documentation site (mkdocs.yml): pages from the README and the public names, and links that leave docs/.

The README is the start page, so that it is written once; the API reference has every name that `import szilard` offers.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
COPIED = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    for page, source in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_from_root, text)))
    reference = []
    for room, names in public_names().items():
        page = f"api/{room}.md"
        text = f"# {room}\n\n" + "".join(f"::: {module}.{name}\n\n" for module, name in names)
        files.append(File.generated(config, page, content=text))
        reference.append({room: page})
    config.nav.append({"API": reference})
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files that are no pages become their names."""
    folder = posixpath.dirname(page.file.src_uri)

    def told(match: re.Match[str]) -> str:
        text, target = match.groups()
        path = posixpath.normpath(posixpath.join(folder, target.partition("#")[0]))
        if not path.startswith(".."):
            return match.group()
        known = {source: made for made, source in COPIED.items()}.get(path.removeprefix("../"))
        return text if known is None else f"[{text}]({posixpath.relpath(known, folder or '.')})"

    return _LINK.sub(told, markdown)


def public_names() -> dict[str, list[tuple[str, str]]]:
    """Room -> (module, name) of everything that is public, methods included."""
    import szilard

    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in dir(szilard):
        module = getattr(getattr(szilard, name), "__module__", "")
        if not name.startswith("_") and module.startswith("szilard."):
            found[module.split(".")[1]].append((module, name))
    return {room: sorted(set(names), key=lambda pair: pair[1].lower()) for room, names in sorted(found.items())}


def _from_root(match: re.Match[str]) -> str:
    """A link of a file in the root, as seen from docs/."""
    text, target = match.groups()
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')})"
    made = {source: page for page, source in COPIED.items()}.get(target)
    if made is not None:
        return f"[{text}]({made})"
    return match.group() if "://" in target or target.startswith("#") else text
