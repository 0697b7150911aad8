"""Where converted files live: `$SZILARD_CACHE`, else `~/.cache/szilard`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_ABANDONED_SECONDS = 3600.0  # a scratch folder untouched for this long belongs to nobody


def cache_folder() -> Path:
    """The folder for what can be made again."""
    root = os.environ.get("SZILARD_CACHE")
    if root:
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "szilard"


@contextlib.contextmanager
def build_folder(final: Path) -> Iterator[Path]:
    """A scratch folder that becomes `final` in one step when the block ends well, and vanishes when it does not."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for left_over in final.parent.glob(f".{final.name}-*"):  # of a process that was killed
            if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left_over, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    except OSError as error:
        raise ValueError(
            f"the cache folder {str(final.parent)!r} cannot be written ({error.strerror}); "
            "set SZILARD_CACHE to a folder that can."
        ) from error
    try:
        yield scratch
        scratch.chmod(0o755)
        try:
            os.replace(scratch, final)
        except OSError:
            if not final.is_dir():  # otherwise another process was faster with the same content
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
