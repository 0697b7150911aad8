"""Continuing contexts with a plain transformers model, many at once, with nothing but what is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from szilard.options import check_number, nearest
from szilard.training.recipe import own_chance

_DRAWN: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}  # transformers would take the 50 likeliest


@torch.no_grad()
def continue_contexts(
    model: Any,
    tokenizer: Any,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 96,
    batch_size: int = 8,
    exact_length: bool = False,
    logits_processor: Sequence[Any] = (),
    seed: int = 0,
    **options: Any,
) -> list[list[int]]:
    """What a model writes behind each context; greedy, where the options say nothing else.

    Args:
        model: a causal language model of transformers.
        tokenizer: for the ids that end and fill rows.
        contexts: token ids, of any lengths.
        max_new_tokens: of each continuation.
        batch_size: contexts at once.
        exact_length: forbid the end before; type-token ratios are to be compared at one length.
        logits_processor: transformers' objects, a `CitationBlocker` for example.
        seed: of drawn continuations; the global random state stays as it is.
        options: of transformers' GenerationConfig: do_sample, top_p, repetition_penalty, no_repeat_ngram_size ...

    Returns:
        New token ids of each, without what ends or fills a row.

    Raises:
        ValueError: an empty context, more tokens than the model reads, or numbers out of range.
        TypeError: an option that transformers does not have.
    """
    check_number("max_new_tokens", max_new_tokens, low=1, integer=True)
    check_number("batch_size", batch_size, low=1, integer=True)
    if not all(len(context) for context in contexts):
        raise ValueError("a context holds no token: give each at least one to be continued.")
    longest, most = max(map(len, contexts), default=0), longest_text(model)
    if most is not None and longest + max_new_tokens > most:
        raise ValueError(
            f"a context of {longest} tokens and {max_new_tokens} new ones exceed the {most} that the model reads."
        )
    known = vars(GenerationConfig())
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"transformers' GenerationConfig has no {unknown[0]!r}{nearest(unknown[0], known)}")
    eos = model.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    ends = [] if eos is None else list(eos) if isinstance(eos, (list, tuple)) else [int(eos)]
    pad = next((token for token in (tokenizer.pad_token_id, *ends) if token is not None), 0)
    drawn = _DRAWN if options.get("do_sample") else {}
    config = GenerationConfig(
        **({"do_sample": False} | drawn | options),
        max_new_tokens=max_new_tokens,
        min_new_tokens=max_new_tokens if exact_length else None,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
    )
    found: list[list[int]] = []
    with _evaluating(model), own_chance(seed):
        for start in range(0, len(contexts), batch_size):
            inputs = _left_padded(contexts[start : start + batch_size], pad, model.device)
            rows = model.generate(
                **inputs, generation_config=config, logits_processor=LogitsProcessorList(logits_processor)
            )
            for row in rows[:, inputs["input_ids"].shape[1] :].tolist():
                last = next((at for at, token in enumerate(row) if token in ends), len(row))
                found.append(row[:last])
    return found


def longest_text(model: Any) -> int | None:
    """Tokens that a model reads at most; None: it does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _left_padded(contexts: Sequence[Sequence[int]], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """int64 `input_ids` and `attention_mask`, [batch, longest]."""
    longest = max(map(len, contexts))
    ids = [[pad] * (longest - len(context)) + list(context) for context in contexts]
    mask = [[0] * (longest - len(context)) + [1] * len(context) for context in contexts]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """In evaluation mode, and without the habits of the model's own generation_config, which would fill in options."""
    was_training, habits = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = habits
        model.train(was_training)
