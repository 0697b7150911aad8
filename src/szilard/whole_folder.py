"""Writing a folder: whole or not at all, whether it can be written, and by whom."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout


def as_folder(folder: Path | str) -> Path:
    """A path that a user gave.

    Raises:
        TypeError: no path.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"a folder is named by a string or a path, not {folder!r:.60}.")
    return Path(folder)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written, before any work.

    Raises:
        ValueError: a file stands there or above it, or it is closed.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{str(folder)!r} cannot be a folder, since {str(there)!r} is a file: name another place.")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(f"nothing can be written to the folder {str(there)!r} ({error.strerror}).") from error


def check_replaceable(folder: Path, header: str, form: str) -> None:
    """Refuse to write over anything but an empty folder, or one of ours; see `check_folder`.

    Args:
        header: a JSON file that folders of this kind hold.
        form: its "format".

    Raises:
        ValueError: something else is there.
    """
    check_folder(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        found = json.loads((folder / header).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != form:
        raise ValueError(f"the folder {str(folder)!r} holds other files; name a new folder.")


@contextlib.contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """While this is open no other process writes there; a killed process holds nothing.

    Args:
        lock: a file of its own beside what is written.
        what: is written, for the sentence.

    Raises:
        ValueError: another process has it.
    """
    mine = FileLock(lock)
    try:
        mine.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is writing {what}: wait for its end, or name another place.") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        mine.release()


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        scratch.mkdir()
        yield scratch
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
            os.replace(folder, old)
            os.replace(scratch, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_whole(file: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    scratch = file.with_name(f".{file.name}.tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, file)


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """An open file that takes the place of `target` when the block ends without an error.

    A link is followed, a device or a pipe is written to, and a file that was there keeps its permissions.

    Raises:
        ValueError: it cannot be written.
    """
    try:
        file = target.resolve()
        if file.exists() and not file.is_file():
            buffer = io.BytesIO()  # writers of pictures seek, which a pipe cannot
            yield buffer
            file.write_bytes(buffer.getvalue())
            return
        mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o644
        handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as opened:
                yield opened
            os.chmod(scratch, mode)
            os.replace(scratch, file)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ValueError(f"{str(target)!r} cannot be written ({error.strerror or error}).") from error
