"""A grounding space on disk: a folder that is written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from szilard.whole_folder import check_replaceable, whole_folder

FORMAT, VERSION = "szilard.grounding", 1

_HEADER, _ENTRIES, _CONTEXTS, _TOKENIZER = "header.json", "entries.safetensors", "contexts.json", "tokenizer"


def write_space(
    folder: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor], contexts: Sequence[str], tokenizer: Any
) -> Path:
    """Write all parts beside the folder, then put them in its place.

    Raises:
        ValueError: the folder exists and is no grounding space.
    """
    check_writable_space(folder)
    with whole_folder(folder) as scratch:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(scratch / _ENTRIES))
        (scratch / _CONTEXTS).write_text(json.dumps(list(contexts)), encoding="utf-8")
        tokenizer.save_pretrained(str(scratch / _TOKENIZER))
        marked = {"format": FORMAT, "version": VERSION} | header
        (scratch / _HEADER).write_text(json.dumps(marked, indent=1), encoding="utf-8")
    return folder


def read_space(folder: Path, tokenizer: Any = None) -> tuple[dict[str, torch.Tensor], list[str], Any]:
    """Tensors (memory-mapped), contexts and tokenizer (the given one, if any) of a saved space.

    Raises:
        ValueError: it is damaged.
    """
    try:
        tensors = load_file(str(folder / _ENTRIES))
        contexts = json.loads((folder / _CONTEXTS).read_text(encoding="utf-8"))
        if tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(str(folder / _TOKENIZER))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the grounding space {str(folder)!r} is damaged ({reason}): build it anew.") from error
    if not {"embeddings", "logits", "next_ids", "question_ids", "steps"} <= set(tensors):
        raise ValueError(f"the grounding space {str(folder)!r} is damaged (entries are missing): build it anew.")
    return tensors, contexts, tokenizer


def read_header(folder: str | Path) -> dict[str, Any]:
    """What a saved space says of itself: model, vocab_size, encoder, template, context, dtype, entries.

    Raises:
        ValueError: the folder holds no grounding space, or one of another version.
    """
    try:
        header = json.loads((Path(folder) / _HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        header = None
    needed = {"version", "model", "vocab_size", "encoder", "encoder_given", "template", "context", "dtype", "entries"}
    if not isinstance(header, dict) or header.get("format") != FORMAT or not needed <= set(header):
        raise ValueError(f"{str(folder)!r} holds no grounding space (a folder that GroundingSpace.save wrote).")
    if header["version"] != VERSION:
        raise ValueError(
            f"the grounding space {str(folder)!r} has format version {header['version']}; this szilard reads "
            f"{VERSION}: build it anew."
        )
    return header


def check_writable_space(folder: Path) -> None:
    """Refuse to write a space over anything but a space or an empty folder.

    Raises:
        ValueError: something else is there.
    """
    check_replaceable(folder, _HEADER, FORMAT)
