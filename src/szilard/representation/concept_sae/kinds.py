"""The kinds of autoencoders by their names, and reading one whose kind its folder knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from szilard.options import check_choice
from szilard.representation.concept_sae.autoencoders import (
    BatchTopKSae,
    JumpReluSae,
    PAnnealSae,
    SparseAutoencoder,
    TopKSae,
)
from szilard.representation.concept_sae.coder import SparseCoder
from szilard.representation.concept_sae.structured import StructuredSparseAutoencoder

KINDS: dict[str, type[SparseCoder]] = {
    cls.kind: cls
    for cls in (SparseAutoencoder, TopKSae, BatchTopKSae, JumpReluSae, PAnnealSae, StructuredSparseAutoencoder)
}


def make_sae(kind: str, input_dim: int, dictionary_size: int, **settings: Any) -> SparseCoder:
    """An untrained autoencoder of a kind; settings are those of its class.

    Raises:
        ValueError: no such kind, or a setting that it does not have.
    """
    check_choice("kind", kind, tuple(KINDS))
    try:
        return KINDS[kind](input_dim, dictionary_size, **settings)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        word = str(error).rpartition("argument ")[2].strip("'")
        raise ValueError(f"an autoencoder of kind {kind!r} has no {word}: leave it out.") from error


def load_sae(folder: Path | str) -> SparseCoder:
    """An autoencoder that was written by `train_sae` or `save_pretrained`, in evaluation mode.

    Raises:
        ValueError: none is there, or one that is cut off.
    """
    try:
        kind = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["kind"]
        cls = KINDS[kind]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(folder)!r} holds no sparse autoencoder: train one with szilard train sae.") from error
    try:
        return cls.from_pretrained(str(folder)).eval()
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(folder)!r} holds a sparse autoencoder that cannot be read ({str(error).splitlines()[0]:.80}): "
            "train it anew, or copy the folder again."
        ) from error


def trained_on(folder: Path | str) -> dict[str, Any]:
    """ "model" and "layer" of the activations that the autoencoder of a folder was trained on; {}: not known."""
    found = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("activations")
    return found if isinstance(found, dict) else {}
