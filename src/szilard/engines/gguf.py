"""GGUF files for the PyTorch engine: converted once to safetensors, then loaded in about a second.

The values are those of the quantised file, de-quantised to float32; nothing is quantised again.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from szilard.engines.cache import build_folder, cache_folder

_FORMAT = "1"  # part of the cache key: raise it when the conversion changes
_SAMPLE_BYTES = 1 << 20


def converted(path: str | Path) -> Path:
    """The folder with the safetensors form of a GGUF file, made on the first call (with progress on stderr).

    Raises:
        ValueError: no such file, no GGUF, a damaged one, or an architecture that transformers cannot read.
    """
    path = Path(path)
    check_gguf(path)
    folder = cache_folder() / "gguf" / f"{path.stem}-{_fingerprint(path)}"
    if (folder / "config.json").is_file():
        return folder
    with build_folder(folder) as scratch:
        _convert(path, scratch)
    return folder


def check_gguf(path: str | Path) -> None:
    """Refuse what is not a GGUF file, before any work.

    Raises:
        ValueError: no such file, or no GGUF.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != b"GGUF" or len(head) < 8 or not 2 <= int.from_bytes(head[4:8], "little") <= 99:
        raise ValueError(f"{str(path)!r} is not a GGUF file (version 2 or newer); give the path of one.")


def open_gguf(path: str | Path):  # type: ignore[no-untyped-def]  # -> gguf.GGUFReader, an optional dependency
    """A reader whose every tensor lies inside the file.

    Raises:
        ValueError: the `gguf` package is missing, or the file is damaged.
    """
    try:
        import gguf
    except ModuleNotFoundError:
        raise ValueError("reading GGUF files needs the gguf package: pip install 'szilard[gguf]'") from None
    check_gguf(path)
    try:
        return gguf.GGUFReader(str(path))
    except Exception as error:
        raise ValueError(f"{str(path)!r} is damaged or cut short ({error}); download it again.") from None


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    open_gguf(path)
    print(f"Converting {path.name} to safetensors, once (later loads take about a second)", file=sys.stderr)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"transformers cannot read {path.name}: {reason}") from error
    # The weights are plain float32 tensors now; without this transformers takes them for quantised and refuses to save.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _fingerprint(path: Path) -> str:
    """Names the content: size, first and last megabyte."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{_FORMAT}:{size}:".encode())
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read())
    return digest.hexdigest()[:16]
