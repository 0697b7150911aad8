"""`--block-citations`: what a model was tuned on is not written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from szilard.engines.engine import Engine


def check_cited(where: Path | None) -> None:
    """Refuse what holds no texts, before a model is loaded.

    Raises:
        ValueError: no such file, or a folder that no hyperfitting wrote.
    """
    from szilard.training.corpus import read_texts
    from szilard.training.hyperfitting.data import read_sequences

    if where is None:
        return
    if where.is_dir():
        read_sequences(where, None)
    else:
        read_texts(where)


def blocking(where: Path | None, engine: Engine) -> dict[str, Any]:
    """The option of `engine.generate` that blocks citations of these texts; nothing for none."""
    if where is None:
        return {}
    from szilard.decoding.citation_blocker import CitationBlocker
    from szilard.training.hyperfitting.data import read_sequences

    return {"logits_processor": [CitationBlocker(read_sequences(where, engine.tokenizer), tokenizer=engine.tokenizer)]}
