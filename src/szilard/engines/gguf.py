"""GGUF files: their checks, and what is made of them once and kept in the cache.

For the PyTorch engine the whole model as safetensors, loaded in about a second; for the llama.cpp engine the tokenizer
and the input embeddings. The values are those of the quantised file, de-quantised to float32; nothing is quantised
again.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np

from szilard.engines.cache import build_folder, cache_folder

_FORMAT = "1"  # part of the cache key: raise it when the conversion changes
_SAMPLE_BYTES = 1 << 20
_HEADER_BYTES = 64 << 20  # more than the header of any vocabulary in use
_EMBEDDINGS = "token_embd.weight"


def converted(path: str | Path) -> Path:
    """The folder with the safetensors form of a GGUF file, made on the first call (with progress on stderr).

    Raises:
        ValueError: no such file, no GGUF, a damaged one, or an architecture that transformers cannot read.
    """
    path = Path(path)
    check_gguf(path)
    folder = _folder(path)
    if (folder / "config.json").is_file():
        return folder
    with build_folder(folder) as scratch:
        _convert(path, scratch)
    return folder


def tokenizer_of(path: str | Path) -> Any:
    """The Hugging Face tokenizer of a GGUF file: from the full conversion if there is one, else made once.

    Raises:
        ValueError: no such file, no GGUF, a damaged one, or a tokenizer that transformers cannot read.
    """
    from transformers import AutoTokenizer

    path = Path(path)
    check_gguf(path)
    folder = _folder(path)
    if not (folder / "tokenizer_config.json").is_file():
        folder = _folder(path, "-tokenizer")
    if not (folder / "tokenizer_config.json").is_file():
        print(f"Reading the tokenizer of {path.name}, once", file=sys.stderr)
        with build_folder(folder) as scratch:
            try:
                tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            except Exception as error:
                raise _unreadable(f"the tokenizer of {path.name}", error) from error
            tokenizer.save_pretrained(scratch)
    return AutoTokenizer.from_pretrained(folder)


def embeddings_of(path: str | Path) -> np.ndarray:
    """The input embeddings of a GGUF file, float32 [vocab, hidden], memory-mapped; de-quantised on the first call.

    Raises:
        ValueError: the `gguf` package is missing, the file is damaged, or it has no input embeddings.
    """
    path = Path(path)
    file = _folder(path, "-embeddings") / "embeddings.npy"
    if not file.is_file():
        reader = open_gguf(path)
        print(f"De-quantising the input embeddings of {path.name}, once", file=sys.stderr)
        tensor = next((tensor for tensor in reader.tensors if tensor.name == _EMBEDDINGS), None)
        if tensor is None:
            raise ValueError(f"{path.name} holds no input embeddings ({_EMBEDDINGS}).")
        import gguf

        with build_folder(file.parent) as scratch:
            weight = gguf.dequantize(tensor.data, tensor.tensor_type)
            np.save(scratch / file.name, np.ascontiguousarray(weight, dtype=np.float32))
    return np.load(file, mmap_mode="c")  # copy on write: torch takes only writable memory


def has_tensor(path: str | Path, name: str) -> bool:
    """Whether a GGUF file lists a tensor of this name. Looks the name up as it is stored, after its length: reading
    the header with `open_gguf` takes seconds where the vocabulary is large."""
    wanted = len(name).to_bytes(8, "little") + name.encode()
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(wanted, 0, _HEADER_BYTES) >= 0


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
        import accelerate  # noqa: F401  (transformers needs it to read GGUF)
        import gguf
    except ModuleNotFoundError as error:
        raise ValueError(f"reading GGUF files needs the package {error.name}: pip install 'szilard[gguf]'") from None
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
        raise _unreadable(path.name, error) from error
    # The weights are plain float32 tensors now; without this transformers takes them for quantised and refuses to save.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unreadable(what: str, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"transformers cannot read {what}: {reason}")


def _folder(path: Path, suffix: str = "") -> Path:
    """Where something made of this file is cached."""
    return cache_folder() / "gguf" / f"{path.stem}-{_fingerprint(path)}{suffix}"


def _fingerprint(path: Path) -> str:
    """Names the content: size, first and last megabyte."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{_FORMAT}:{size}:".encode())
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read())
    return digest.hexdigest()[:16]
