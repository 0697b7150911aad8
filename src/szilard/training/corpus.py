"""Texts to train on, in a model's own tokens: conversations, prompts with answers, or plain text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from szilard.engines.engine import Engine
from szilard.records import fault, read_records, read_text

_FORMS = (
    'each record needs "messages" (a chat), "prompt" and "answer", "prompt_ids" and "ids" (as `szilard generate '
    '--prompts` writes them), or "text"'
)


@dataclass(frozen=True)
class Example:
    """One text.

    Attributes:
        ids: token ids.
        answer: which of them the model itself writes (and a draft is worth something), as many.
        prompt: of a text about pictures, which the processor reads again with them.
        images: their files.
    """

    ids: tuple[int, ...]
    answer: tuple[bool, ...]
    prompt: Any = None
    images: tuple[str, ...] = ()


def read_corpus(file: Path, engine: Engine, *, limit: int | None = None) -> Iterator[Example]:
    """The examples of a .jsonl, .json, .csv or .parquet file, or the paragraphs of a .txt, in a model's tokens.

    A record may name an "image", or several, beside its "prompt" and "answer": files, relative to the data's folder.

    Raises:
        ValueError: no such file, no record, or a record without text.
    """
    for number, record in enumerate(read_texts(file)[:limit], start=1):
        pictures = record.get("image") or record.get("images")
        if pictures and record.get("prompt") and isinstance(record.get("answer"), str):
            named = pictures if isinstance(pictures, list) else [pictures]
            example: Example | None = _about(record, [str(file.parent / name) for name in named], engine)
        else:
            example = as_example(record, engine.tokenizer)
        if example is None:
            raise ValueError(f"{str(file)!r}, record {number}, holds no text: {_FORMS}.")
        yield example


def read_texts(file: Path) -> list[dict[str, Any]]:
    """The records of a corpus, as they are: no model is needed to see whether they hold texts.

    Raises:
        ValueError: no such file, no record, or one without text.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    if file.suffix == ".txt":
        return _some(file, [{"text": part} for part in read_text(file).split("\n\n") if part.strip()])
    records = _some(file, list(read_records(file)))
    for number, record in enumerate(records, start=1):
        if (wrong := fault(record)) is not None:
            raise ValueError(f"{str(file)!r}, record {number}, {wrong}.")
        if not any(record.get(name) for name in ("ids", "messages", "prompt", "text")):
            raise ValueError(f"{str(file)!r}, record {number}, holds no text: {_FORMS}.")
    return records


def _some(file: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not records:
        raise ValueError(f"{str(file)!r} holds no text.")
    return records


def as_example(record: dict[str, Any], tokenizer: Any) -> Example | None:
    """A record in tokens; None when it holds no text."""
    if isinstance(record.get("ids"), list):
        prompt, ids = list(record.get("prompt_ids") or []), list(record["ids"])
        return Example((*prompt, *ids), (*[False] * len(prompt), *[True] * len(ids)))
    if record.get("messages"):
        return _chat(list(record["messages"]), tokenizer)
    if isinstance(record.get("answer"), str) and record.get("prompt"):
        prompt = record["prompt"]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if getattr(tokenizer, "chat_template", None):
            return _chat([*turns, {"role": "assistant", "content": record["answer"]}], tokenizer)
        before = tokenizer.encode(prompt if isinstance(prompt, str) else turns[-1]["content"])
        after = tokenizer.encode(record["answer"], add_special_tokens=False)
        return Example((*before, *after), (*[False] * len(before), *[True] * len(after)))
    if isinstance(record.get("text"), str) and record["text"]:
        ids = tokenizer.encode(record["text"])
        return Example(tuple(ids), (True,) * len(ids))
    return None


def digest(examples: Sequence[Example]) -> str:
    """A hash of a corpus: tokens, answers, and the contents of the pictures."""
    found = hashlib.sha256()
    for example in examples:
        found.update(repr((example.ids, example.answer, example.prompt)).encode())
        for image in example.images:
            found.update(Path(image).read_bytes())
    return found.hexdigest()[:16]


def _about(record: dict[str, Any], images: list[str], engine: Engine) -> Example:
    """A question about pictures and its answer, with the placeholders that the processor puts in."""
    ids = engine.encode([record["prompt"]], images=[images])["input_ids"][0].tolist()
    end = engine.tokenizer.eos_token_id
    answer = [*engine.tokenizer.encode(record["answer"], add_special_tokens=False), *([] if end is None else [end])]
    mask = (*[False] * len(ids), *[True] * len(answer))
    return Example((*ids, *answer), mask, record["prompt"], tuple(images))


def _chat(messages: list[dict[str, Any]], tokenizer: Any) -> Example:
    """A conversation in its template; the answers are what stands behind each generation prompt.

    Raises:
        ValueError: a tokenizer without a chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("this model has no chat template: give texts, or prompts with answers.")

    def ids_of(turns: list[dict[str, Any]], opened: bool = False) -> list[int]:
        found = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, add_generation_prompt=opened)
        return list(found["input_ids"])

    ids = ids_of(messages)
    answer = [False] * len(ids)
    for index, turn in enumerate(messages):
        if turn.get("role") == "assistant" and index:
            before, until = ids_of(messages[:index], opened=True), ids_of(messages[: index + 1])
            if ids[: len(before)] == before and ids[: len(until)] == until:
                answer[len(before) : len(until)] = [True] * (len(until) - len(before))
    if not any(answer):  # a template that rewrites earlier turns: every token counts
        answer = [True] * len(ids)
    return Example(tuple(ids), tuple(answer))
