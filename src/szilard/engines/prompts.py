"""Reading what users give as prompts: text, chats, token ids, batches of them, and the images beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

Prompt = str | Sequence[Mapping[str, Any]] | torch.Tensor


def is_chat(prompt: Any) -> bool:
    return (
        isinstance(prompt, Sequence) and not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)
    )


def as_chat(prompt: Any) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    for turn in prompt:
        if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
            raise ValueError(f"a chat is a list of {{'role', 'content'}}, but one turn is {turn!r}.")
    return [dict(turn) for turn in prompt]


def as_batch(prompt: Any) -> tuple[list[Any], bool]:
    """The prompts as a list, and whether only one was given."""
    if isinstance(prompt, (bytes, bytearray)):
        raise TypeError("a prompt is text, a chat, token ids, or a list of these, not bytes: decode them first.")
    if isinstance(prompt, str) or is_chat(prompt) or (isinstance(prompt, torch.Tensor) and prompt.dim() == 1):
        return [prompt], True
    if isinstance(prompt, torch.Tensor):
        if prompt.dim() != 2:
            raise ValueError(f"token ids are a 1-D or 2-D tensor, not one of {prompt.dim()} dimensions.")
        return list(prompt), False
    if (
        isinstance(prompt, Sequence)
        and prompt
        and all(isinstance(item, int) and not isinstance(item, bool) for item in prompt)
    ):
        return [torch.tensor(prompt)], True
    if not isinstance(prompt, Sequence):
        raise TypeError(f"a prompt is text, a chat, token ids, or a list of these, not {type(prompt).__name__}.")
    if not prompt:
        raise ValueError("the prompt is empty; give some text.")
    return [torch.tensor(item) if _is_ids(item) else item for item in prompt], False


def _is_ids(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and all(isinstance(token, int) for token in item)


def images_per_prompt(images: Any, prompts: list[Any], single: bool) -> list[list[Any]] | None:
    if images is None:
        return None
    if single:
        return [list(images) if isinstance(images, (list, tuple)) else [images]]
    if not isinstance(images, (list, tuple)) or len(images) != len(prompts):
        raise ValueError(
            f"images must be a list with one entry (image, list or None) for each of the {len(prompts)} prompts."
        )
    return [[] if item is None else list(item) if isinstance(item, (list, tuple)) else [item] for item in images]
