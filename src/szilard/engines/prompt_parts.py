"""Prompts of which some stretches are vectors: what a decoder of transformers takes as `inputs_embeds`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from szilard.engines.prepared_context import PreparedContext, SoftPrompt
from szilard.engines.prompts import as_chat, is_chat

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

_MARK = "\ue000context\ue000"  # private use characters, which no prompt holds
SEPARATOR = "\n\n"  # between a context and what is asked about it

Part = str | PreparedContext | torch.Tensor


def left_padded(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Vectors [length, hidden] per row as a batch.

    Returns:
        "inputs_embeds" [batch, longest, hidden], "attention_mask" int64 [batch, longest], "position_ids" likewise:
        consecutive from 0 at each row's first vector.
    """
    embeddings = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_side="left")
    longest = embeddings.shape[1]
    lengths = torch.tensor([len(row) for row in rows], device=embeddings.device)
    mask = (torch.arange(longest, device=embeddings.device) >= longest - lengths[:, None]).long()
    return {
        "inputs_embeds": embeddings,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }


def prompt_inputs(engine: Engine, rows: Sequence[Sequence[Part]]) -> dict[str, torch.Tensor]:
    """What `engine.model.generate(**inputs)` takes for prompts made of texts, ids and soft prompts.

    Args:
        engine: on transformers.
        rows: per prompt its parts in order: texts (no special tokens are added), int64 ids, soft prompts of this
            model.

    Raises:
        ValueError: a row without a part, or a soft prompt of another model.
    """
    for row in rows:
        if not row:
            raise ValueError("a prompt has no parts: give texts and soft prompts.")
    return left_padded([context_vectors(engine, row) for row in rows])


def context_vectors(engine: Engine, parts: Sequence[Part]) -> torch.Tensor:
    """Parts of a prompt as vectors in the place of embeddings, [positions, hidden].

    Raises:
        ValueError: a soft prompt of another model.
    """
    embed = engine.model.get_input_embeddings()  # type: ignore[attr-defined]
    made = []
    for part in parts:
        part = part.content if isinstance(part, PreparedContext) else part
        if isinstance(part, SoftPrompt):
            check_made_for(part, engine)
            made.append(part.embeddings.to(embed.weight.device, embed.weight.dtype))
        else:
            made.append(embed(part_ids(engine, part).to(embed.weight.device)))
    return torch.cat(made)


def part_ids(engine: Engine, part: str | torch.Tensor) -> torch.Tensor:
    """A text in the engine's tokens, without special ones, int64 [length]; ids as they are."""
    if isinstance(part, torch.Tensor):
        return part.long()
    return torch.tensor(engine.tokenizer.encode(str(part), add_special_tokens=False), dtype=torch.long)


def check_made_for(soft: SoftPrompt, engine: Engine) -> None:
    """Refuse a soft prompt of another model.

    Raises:
        ValueError: other weights.
    """
    if "embeddings_in" not in engine.provides:
        raise ValueError(f"a soft prompt is vectors, which {engine.name} on {engine.kind} does not take: use a text.")
    if soft.model != engine.fingerprint:
        raise ValueError(
            f"this soft prompt was made by {soft.method} for a model with the weights {soft.model}, but {engine.name} "
            f"has {engine.fingerprint}: compress the context for this model."
        )


def around_context(engine: Engine, prompt: Any, raw: bool = False) -> tuple[list[int], list[int]]:
    """The ids in front of a context and behind it: it stands at the beginning of the first user turn.

    Args:
        engine: whose tokenizer and chat template count.
        prompt: text, a chat, or (raw) ids that follow the context.
        raw: no chat template: the tokenizer's own first tokens, the context, a blank line, the prompt.

    Raises:
        ValueError: an empty prompt, or a chat without a user turn.
    """
    tokenizer = engine.tokenizer
    if isinstance(prompt, torch.Tensor):
        return _begin(tokenizer), prompt.tolist()
    if isinstance(prompt, str) and not prompt.strip():
        raise ValueError("the prompt is empty; give some text.")
    if not is_chat(prompt) and (raw or not engine.has_chat_template):
        return _begin(tokenizer), tokenizer.encode(SEPARATOR + prompt, add_special_tokens=False)
    chat = as_chat(prompt)
    users = [turn for turn in chat if turn["role"] == "user"]
    if not users or not isinstance(users[0]["content"], str):
        raise ValueError("a chat with a context needs a user turn of text, in front of which it is put.")
    users[0]["content"] = f"{_MARK}{SEPARATOR}{users[0]['content']}"
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    head, _, tail = text.partition(_MARK)
    return (
        tokenizer.encode(head, add_special_tokens=False),
        tokenizer.encode(tail, add_special_tokens=False),
    )


def _begin(tokenizer: Any) -> list[int]:
    """The tokens that a text begins with by itself (BOS), if any."""
    ids = tokenizer.encode("a")
    plain = tokenizer.encode("a", add_special_tokens=False)
    extra = len(ids) - len(plain)
    return ids[:extra] if extra > 0 and ids[extra:] == plain else []
