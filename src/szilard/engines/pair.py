"""Two models that write one text: a second engine beside the first, on the same token ids."""

from __future__ import annotations

import dataclasses
import warnings
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from szilard.decoding.state import DecodingState
from szilard.engines.engine import Engine
from szilard.engines.loading import load
from szilard.engines.transformers_engine import TransformersEngine
from szilard.engines.transformers_generate import tokenizer_beside
from szilard.engines.transformers_state import TransformersState

_OTHER_TOKENIZER = "{} has another tokenizer than the model it is to work with; take one family."
_PROBE = "def f(x):\n    return x[0] == 'é' and 12 + 345  # ok?"


def companion(large: Any, state: DecodingState, *, role: str = "large") -> DecodingState:
    """A state of a second model on the prompts of `state`, with nothing in its cache yet.

    It counts into the same cost, under its model's name with its role behind it, as in "Name (large)".

    Args:
        large: an engine, a transformers model, or what `load` takes (loaded once, by the engine that runs `state`).
        state: of the first model.
        role: what the second one is here.

    Raises:
        ValueError: no such model, one with another tokenizer, or prompts that do not fit into its window.
    """
    engine = second_engine(large, "transformers" if isinstance(state, TransformersState) else "llama.cpp")
    masks = state.prompt_mask.bool()
    prompts = [ids[mask] for ids, mask in zip(state.tokens[:, : state.prompt_width], masks, strict=True)]
    twin = engine.state(prompts, max_new_tokens=state.max_new_tokens or 1, trace=False)
    spellings = spelling(state.encode), spelling(twin.encode)
    if None not in spellings and spellings[0] != spellings[1]:
        raise ValueError(_OTHER_TOKENIZER.format(engine.name))
    twin.cost = state.cost
    twin.size = dataclasses.replace(twin.size, name=f"{twin.size.name} ({role})")
    return twin


def second_engine(large: Any, kind: str) -> Engine:
    """An engine for `companion`; a name is loaded once, with the engine `kind`.

    Raises:
        ValueError: no such model; TypeError: nothing that is one.
    """
    if isinstance(large, (str, Path)):
        return _loaded_once(str(large), kind)
    if not isinstance(large, Engine):
        if isinstance(large, type) or not hasattr(large, "generate"):
            raise TypeError(f"the second model must be an engine, a transformers model or a name, not {large!r}.")
        ids_only = SimpleNamespace(eos_token_id=None, pad_token_id=None, encode=_no_tokenizer)
        return TransformersEngine(large, tokenizer_beside(large) or ids_only)
    return large


def check_same_tokenizer(engine: Engine, other: Engine) -> None:
    """Refuse a model that spells texts in other ids.

    Raises:
        ValueError: it does.
    """
    if not hasattr(other.tokenizer, "get_vocab") or not hasattr(engine.tokenizer, "get_vocab"):
        return
    if other.tokenizer in _compared.setdefault(engine.tokenizer, WeakSet()):
        return
    mine, theirs = engine.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    probes = [owner.tokenizer.encode(_PROBE, add_special_tokens=False) for owner in (engine, other)]
    common = mine.keys() & theirs.keys()
    if probes[0] != probes[1] or not common or any(mine[token] != theirs[token] for token in common):
        raise ValueError(_OTHER_TOKENIZER.format(other.name))
    _compared[engine.tokenizer].add(other.tokenizer)


_compared: WeakKeyDictionary[Any, WeakSet[Any]] = WeakKeyDictionary()  # tokenizers that were found to agree


@lru_cache(maxsize=2)
def _loaded_once(name: str, engine: str) -> Engine:
    return load(name, engine=engine)


def spelling(encode: Any) -> list[int] | None:
    """A probe text in a tokenizer's ids, by which tokenizers are told apart; None when there is none to ask.

    Args:
        encode: text -> ids without special tokens, or None.
    """
    if encode is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model without a tokenizer: nothing is lost here
        try:
            return encode(_PROBE)
        except LookupError:
            return None


def _no_tokenizer(text: str, **_: Any) -> list[int]:
    raise LookupError("no tokenizer")
