"""Chats, of which only some speakers' words are shortened."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from szilard.compression.method import Budget, check_budget
from szilard.compression.text import CompressedText

if TYPE_CHECKING:
    from szilard.compression.dropping import WordDropping
    from szilard.engines.engine import Engine


def compress_messages(
    compressor: WordDropping,
    chat: Sequence[Mapping[str, Any]],
    budget: Budget = None,
    *,
    roles: Collection[str] = ("user",),
    engine: Engine | None = None,
) -> list[dict[str, Any]]:
    """A chat in which the messages of some roles are shortened, and all else is as it was.

    Args:
        chat: messages {"role", "content"}; content is text, or a list of parts of which those of type "text" are
            shortened.
        budget: a share of each message's tokens; a number of tokens: of all messages of these roles together, each by
            the same share.
        roles: whose messages.

    Returns:
        New messages; the given ones are not changed.

    Raises:
        ValueError, TypeError: no roles, or something that is no chat.
    """
    if isinstance(roles, str) or not roles:
        raise ValueError('roles must be a collection of roles, as in {"user"}.')
    check_budget(budget)
    copies = []
    slots: list[tuple[dict[str, Any], str]] = []  # where a text is: its dictionary and key
    for message in chat:
        if not isinstance(message, Mapping) or "role" not in message:
            raise TypeError(f'a chat is a list of messages with "role" and "content", not of {message!r}.')
        copy = dict(message)
        copies.append(copy)
        if copy["role"] not in roles:
            continue
        if isinstance(copy.get("content"), str):
            slots.append((copy, "content"))
        elif isinstance(copy.get("content"), (list, tuple)):
            copy["content"] = [dict(part) if isinstance(part, Mapping) else part for part in copy["content"]]
            slots += [
                (part, "text") for part in copy["content"] if isinstance(part, dict) and part.get("type") == "text"
            ]
    for where, key in slots:
        if not isinstance(where.get(key), str):
            raise TypeError(f'a part of the type "text" holds its words under "text", not {where!r}.')
    slots = [(where, key) for where, key in slots if where[key].strip()]
    if not slots:
        return copies
    texts = [where[key] for where, key in slots]
    if isinstance(budget, int):
        counted = sum(map(compressor.counter(engine).count, texts))
        if budget > counted:
            raise ValueError(
                f"a budget of {budget} tokens is larger than the messages to shorten, which have {counted}: give a "
                "smaller one, or use the chat as it is."
            )
        budget = budget / counted
    results: list[CompressedText] = compressor.compress(texts, budget, engine=engine)
    for (where, key), result in zip(slots, results, strict=True):
        where[key] = result.text
    return copies
