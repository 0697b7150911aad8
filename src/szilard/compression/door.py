"""`szilard.compress`: a context in fewer tokens or positions, by any method of the room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from szilard.compression.method import Budget, Compressor, SoftCompressor, TextCompressor, check_budget
from szilard.compression.text import CompressedText
from szilard.engines.engine import Engine
from szilard.engines.prepared_context import SoftPrompt
from szilard.engines.transformers_generate import check_needs
from szilard.registry import make_compressor


def compress(
    context: str | Sequence[str],
    method: str | type[Compressor] | Compressor = "llmlingua2",
    budget: Budget = None,
    *,
    engine: Engine | None = None,
    **options: Any,
) -> CompressedText | SoftPrompt | list[CompressedText] | list[SoftPrompt]:
    """Shorten a context once, for any number of prompts.

    Args:
        context: a text, or a list of texts.
        method: a compressor (object, class or name); see `szilard.methods()`.
        budget: a share of the context's tokens in (0, 1] (1: all), or a whole number of tokens (or positions) per
            context; None: what the method is set to.
        engine: the model that will read it. Compressors that give text count its tokens where it is given, and those
            that score with a language model score with it; those that give vectors need it.
        options: hyperparameters of a method given by name.

    Returns:
        What `engine.generate(prompt, context=...)` takes: a `CompressedText` or a `SoftPrompt`; a list for a list.

    Raises:
        ValueError, TypeError: before any work: an empty context, a budget out of range or larger than the context, an
            unknown method or option, a method that needs what the engine lacks, a missing checkpoint.
    """
    chosen = make_compressor(method, options)
    single = isinstance(context, str)
    if not isinstance(context, Sequence) or isinstance(context, (bytes, bytearray)):
        raise TypeError(f"a context is text, or a list of texts, not {type(context).__name__}.")
    texts: list[Any] = [context] if single else list(context)
    if not texts:
        raise ValueError("there is no context to compress: give a text or several.")
    for place, text in enumerate(texts, start=1):
        which = "the context" if single else f"context {place}"
        if not isinstance(text, str):
            raise TypeError(f"{which} must be text, not {type(text).__name__}.")
        if not text.strip():
            raise ValueError(f"{which} is empty: give some text.")
    check_budget(budget)
    budget = 1.0 if budget == 1 else budget
    if engine is not None and not isinstance(engine, Engine):
        raise TypeError(f"engine must be an engine (szilard.load(...)) or None, not {engine!r}.")
    if isinstance(chosen, SoftCompressor):
        if engine is None:
            raise ValueError(
                f"{chosen.slug} makes vectors for one model: give engine=szilard.load(...), or take a compressor that "
                "gives text."
            )
        check_needs(chosen, engine.provides, f"engine '{engine.kind}' with {engine.name}")
        chosen.check(engine)
        made: Any = chosen.compress(texts, budget, engine=engine)
    else:
        assert isinstance(chosen, TextCompressor)
        chosen.check(engine)
        made = chosen.compress(texts, budget, engine=engine)
    return made[0] if single else made
