"""Loading a model for a command, with a spinner on stderr."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from szilard.engines.engine import Engine

errors = Console(stderr=True)


def note(text: str, style: str = "dim") -> None:
    """A line on stderr, printed as it is: whatever it holds, nothing is taken for markup."""
    errors.print(Text(text, style=style))


def needs(*packages: str, extra: str = "train") -> None:
    """Refuse to begin without a package of an extra.

    Raises:
        ValueError: one of them is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"this command needs the package {package}: pip install 'szilard[{extra}]'")


def training_device(device: str | None) -> str | None:
    """The device of a training: one of several processes has a GPU of its own.

    Raises:
        ValueError: one GPU by its number.
    """
    import torch

    if device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    if device is not None and ":" in device:
        raise ValueError(f"a training chooses its GPU by CUDA_VISIBLE_DEVICES, not by --device {device}.")
    return device


def load_engine(
    model: str | None,
    engine: str,
    device: str | None,
    dtype: str,
    compile: bool = False,
    quantize: str | None = None,
) -> Engine:
    """`szilard.load` while a spinner turns; progress bars of the libraries below are kept for conversions only."""
    from transformers.utils import logging

    from szilard.engines import load
    from szilard.engines.loading import find

    _, name = find(model)
    logging.disable_progress_bar()
    options: dict[str, Any] = {"engine": engine, "device": device, "dtype": dtype}
    options |= {"compile": compile, "quantize": quantize}
    with errors.status(f"loading {escape(name)}"):
        return load(model, **options)
