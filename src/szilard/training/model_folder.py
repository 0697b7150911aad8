"""A trained model as a folder that transformers reads."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """The model and its tokenizer, the weights last: with them the folder is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir(), key=lambda path: path.suffix == ".safetensors"):
            os.replace(file, folder / file.name)
