"""Contexts beside a prompt: texts or vectors, at the beginning of the first user turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from szilard.engines.kv_prefix import KvPrefix, batch_cache
from szilard.engines.prepared_context import PreparedContext, SoftPrompt
from szilard.engines.prompt_parts import (
    SEPARATOR,
    around_context,
    check_made_for,
    context_vectors,
    left_padded,
    part_ids,
)

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

Context = str | PreparedContext
_KINDS = "text, a compressed context, an entry of a store, or a list of these"


@dataclass(frozen=True)
class ContextInputs:
    """A batch of prompts with contexts, read.

    Attributes:
        inputs: what the model takes: ids or vectors, the mask, and where beginnings are stored a cache.
        asked: per prompt what stands there, as text.
        lengths: positions of each prompt.
    """

    inputs: dict[str, Any]
    asked: list[str]
    lengths: list[int]


def contexts_per_prompt(context: Any, prompts: Sequence[Any], single: bool) -> list[list[Context]]:
    """The contexts of every prompt: a batch takes one for all, or a list with an entry (one, several, None) per prompt.

    Raises:
        TypeError: something that is no context.
        ValueError: lists of other lengths.
    """
    if single:
        return [_several(context)]
    if not isinstance(context, (list, tuple)):
        return [_several(context)] * len(prompts)
    if len(context) != len(prompts):
        raise ValueError(
            f"context must be one for all, or a list with one entry (a context, a list or None) for each of the "
            f"{len(prompts)} prompts, not {len(context)}."
        )
    return [_several(entry) for entry in context]


def _several(context: Any) -> list[Context]:
    found = [] if context is None else list(context) if isinstance(context, (list, tuple)) else [context]
    for entry in found:
        if not isinstance(entry, (str, PreparedContext)):
            raise TypeError(f"a context is {_KINDS}, not {type(entry).__name__}.")
        if isinstance(entry, str) and not entry.strip():
            raise ValueError("a context is empty: give some text, or leave it out.")
    return found


def read_contexts(
    engine: Engine, prompts: Sequence[Any], contexts: Sequence[list[Context]], *, raw: bool, use_stored: bool
) -> ContextInputs:
    """Prompts with their contexts as model inputs.

    Args:
        engine: of the model.
        prompts: text, chats or (raw) ids.
        contexts: of each prompt; a blank line stands between two.
        raw: no chat template.
        use_stored: whether stored keys and values may stand for a prompt's beginning.

    Raises:
        ValueError: a soft prompt of another model, or for an engine that takes tokens only.
    """
    rows, asked, prefixes = [], [], []
    for prompt, found in zip(prompts, contexts, strict=True):
        head, tail = around_context(engine, prompt, raw)
        bare = [entry.content if isinstance(entry, PreparedContext) else entry for entry in found]
        parts: list[Any] = [torch.tensor(head, dtype=torch.long)]
        for index, entry in enumerate(bare):
            if isinstance(entry, SoftPrompt):
                check_made_for(entry, engine)
                parts += [part_ids(engine, SEPARATOR), entry] if index else [entry]
            else:
                parts.append(part_ids(engine, SEPARATOR + entry if index else entry))
        parts.append(torch.tensor(tail, dtype=torch.long))
        rows.append(parts)
        asked.append(_shown(engine, parts))
        first = found[0] if found else ""
        kept = first.prefix if isinstance(first, PreparedContext) else None
        prefixes.append(_usable(kept, head, engine) if use_stored else None)
    if any(isinstance(part, SoftPrompt) for parts in rows for part in parts):
        vectors = [context_vectors(engine, parts) for parts in rows]
        lengths = [len(row) for row in vectors]
        inputs: dict[str, Any] = left_padded(vectors)
        del inputs["position_ids"]  # `generate` counts them itself
    else:
        ids = [torch.cat(parts) for parts in rows]
        lengths = [len(row) for row in ids]
        inputs = engine.encode(ids, raw=True)
    if any(prefixes):
        cache = batch_cache(prefixes, lengths, engine.model.config)  # type: ignore[attr-defined]
        inputs |= {} if cache is None else {"past_key_values": cache}
    return ContextInputs(inputs, asked, lengths)


def _usable(prefix: KvPrefix | None, head: list[int], engine: Engine) -> KvPrefix | None:
    """The stored beginning of a prompt, where it is this prompt's and this model's."""
    if prefix is None or engine.kind != "transformers":
        return None
    return prefix if prefix.model == engine.fingerprint and prefix.head == tuple(head) else None


def _shown(engine: Engine, parts: list[Any]) -> str:
    """A prompt as text; vectors are named."""
    shown, ids = "", []
    for part in [*parts, None]:
        if isinstance(part, torch.Tensor):
            ids += part.tolist()
            continue
        shown += str(engine.tokenizer.decode(ids))  # neighbours together: some tokenizers drop a part's first space
        ids = []
        if part is not None:
            shown += f"[{part.positions} vectors of {part.method} for {part.original_tokens} tokens]"
    return shown
