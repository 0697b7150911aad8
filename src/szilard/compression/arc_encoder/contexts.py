"""A context in the decoder's tokens, and the decoders that vectors can be given to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from szilard.engines import load
from szilard.engines.engine import Engine
from szilard.engines.prepared_context import SoftPrompt


def ids_of(context: Any, engine: Engine, index: int) -> torch.Tensor:
    """A context in the decoder's tokens.

    Raises:
        ValueError: it is empty.
    """
    if isinstance(context, str):
        ids = engine.tokenizer.encode(context, add_special_tokens=False) if context.strip() else []
    elif isinstance(context, torch.Tensor) and context.dim() == 1 and not context.is_floating_point():
        ids = context.tolist()
    else:
        raise TypeError(f"a context is a text or a 1-D tensor of token ids, not {type(context).__name__}.")
    if not ids:
        raise ValueError(f"context {index + 1} is empty: there is nothing to compress.")
    return torch.tensor(ids, dtype=torch.int64)


def as_it_is(ids: torch.Tensor, engine: Engine, slug: str) -> SoftPrompt:
    """The embeddings of a context's own tokens."""
    embed: Any = engine.model.get_input_embeddings()  # type: ignore[attr-defined]
    vectors = embed(ids.to(embed.weight.device))
    cost = {"encoder_tokens": 0.0, "layer_tokens": 0.0, "positions_saved": 0.0, "seconds": 0.0}
    return SoftPrompt(vectors, len(ids), slug, engine.fingerprint, {}, cost)


def as_engine(model: Engine | str | Path | None) -> Engine:
    """An engine as it is, or what `szilard.load` makes of a name."""
    if isinstance(model, Engine):
        return model
    return load(model)


def check_takes_vectors(engine: Engine | None) -> None:
    """Refuse a decoder that takes no vectors.

    Raises:
        ValueError: none, or one that is not on transformers.
    """
    if engine is None or "embeddings_in" not in engine.provides:
        what = "none was given" if engine is None else f"{engine.name} on {engine.kind} does not take them"
        raise ValueError(f"arc-encoder gives vectors to a model on transformers, but {what}: engine=szilard.load(...).")
