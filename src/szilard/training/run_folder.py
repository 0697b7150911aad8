"""The folder of a training: whose it is, and whether it is this run's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from szilard.whole_folder import held, write_whole

if TYPE_CHECKING:
    from accelerate import PartialState

NOTE = "training.yaml"


def check_ours(folder: Path, made_for: str, names: Sequence[str], note: str = NOTE) -> None:
    """Refuse a folder that holds files of these names which no training of this kind wrote.

    Args:
        folder: of the training.
        made_for: how notes of this kind of training begin.
        names: of files and folders that a training writes.
        note: the note's file.

    Raises:
        ValueError: something else is there.
    """
    file = folder / note
    ours = file.is_file() and file.read_text(encoding="utf-8").startswith(made_for)
    if not ours and any((folder / name).exists() for name in names):
        raise ValueError(f"{str(folder)!r} holds files of something else than a training: name a new folder.")


@contextlib.contextmanager
def own_run(
    folder: Path,
    text: str,
    *,
    folders: Sequence[str],
    files: Sequence[str],
    restart: bool,
    other: str,
    device: Any = None,
    note: str = NOTE,
) -> Iterator[PartialState]:
    """Hold a folder for one run: the main process locks and claims it, see `claim`; all wait, before and behind.

    Args:
        folder: of the training; made where there is none.
        text, folders, files, restart, other, note: see `claim`.
        device: "cpu" keeps a GPU out of it.

    Yields:
        The processes.

    Raises:
        ValueError: another run has begun in it, or another process works there.
    """
    from accelerate import PartialState

    processes = PartialState(**({"cpu": True} if str(device) == "cpu" else {}))
    with contextlib.ExitStack() as opened:
        if processes.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            opened.enter_context(held(folder / ".lock", f"the folder {str(folder)!r}"))
            claim(folder, text, folders=folders, files=files, restart=restart, other=other, note=note)
        processes.wait_for_everyone()
        yield processes
        processes.wait_for_everyone()


def claim(
    folder: Path,
    text: str,
    *,
    folders: Sequence[str],
    files: Sequence[str],
    restart: bool,
    other: str,
    result: str = "model.safetensors",
    note: str = NOTE,
) -> None:
    """Take a folder for this run, or find that it is this run's; how often it is saved may change.

    Args:
        folder: of the training; there, and held.
        text: what is noted: model, data, settings.
        folders, files: that a training writes.
        restart: forget an earlier run.
        other: in what another run may differ, for the sentence.
        result: the file that a finished run leaves.
        note: the note's file.

    Raises:
        ValueError: another run has begun in it.
    """
    file = folder / note
    if restart:
        for name in folders:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in files:
            (folder / name).unlink(missing_ok=True)
    begun = any((folder / name).exists() for name in (*folders, result))
    if begun and file.is_file() and _what_counts(file.read_text(encoding="utf-8")) != _what_counts(text):
        raise ValueError(
            f"{str(folder)!r} holds a training with other {other} (see its {note}): give the same ones to go on, "
            "another folder, or --restart (resume=False) to forget it."
        )
    write_whole(file, text)


def _what_counts(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("save_every:")]
