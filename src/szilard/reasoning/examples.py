"""Problems with a chain of thought and an answer: files of them, and how they stand in a model's tokens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from szilard.records import read_records

# What published collections call the three parts; the first name found counts.
_COLUMNS = {
    "problem": ("problem", "question", "prompt", "instruction", "input"),
    "cot": ("cot", "chain", "rationale", "reasoning", "solution", "steps"),
    "answer": ("cot_answer", "answer", "final_answer", "target"),
}
IGNORED = -100  # the label of a slot that is not learned
_GSM8K = "####"  # parts chain and answer inside one column
# As chains end that have no column for their answer.
_ANSWER_IS = re.compile(r"(?<!\S)(?:(?:so|thus|hence|therefore),?\s+)?the answer is:?\s+(?=\S)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")


@dataclass(frozen=True)
class Reasoning:
    """One problem.

    Attributes:
        problem: what is asked.
        cot: the chain of thought, without delimiters.
        answer: what follows it.
    """

    problem: str
    cot: str
    answer: str

    @property
    def steps(self) -> tuple[str, ...]:
        """The chain cut into steps: at line breaks, else behind ">>", else at ";", else between sentences."""
        text = self.cot.strip()
        if "\n" in text:
            parts = text.split("\n")
        elif ">>" in text:
            parts = [part + ">>" if ">>" not in part and "<<" in part else part for part in text.split(">>")]
        elif ";" in text:
            parts = text.split(";")
        else:
            parts = _SENTENCE_END.split(text)
        return tuple(part.strip() for part in parts if part.strip())


def read_reasoning(file: Path, limit: int | None = None) -> list[Reasoning]:
    """The problems of a .jsonl, .json, .csv or .parquet file.

    Args:
        file: records with a problem ("problem", "question", "prompt", ...), a chain ("cot", "solution", ..., text or a
            list of steps) and an answer ("cot_answer", "answer", ...). GSM8K's "answer" with "####" holds both; a
            chain without an answer beside it may end in "The answer is ...".
        limit: only the first so many.

    Raises:
        ValueError: no such file, no record, or one in which a part is missing.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    found = [_reasoning(record, f"{str(file)!r}, record {n}") for n, record in enumerate(read_records(file), start=1)]
    if not found:
        raise ValueError(f"{str(file)!r} holds no problem.")
    return found[:limit]


def reasoning_digest(examples: Sequence[Reasoning]) -> str:
    """A hash of problems, chains and answers, by which a run knows its data."""
    found = hashlib.sha256()
    for example in examples:
        found.update("\0".join((example.problem, example.cot, example.answer, "")).encode())
    return found.hexdigest()[:16]


def _reasoning(record: Any, where: str) -> Reasoning:
    if not isinstance(record, Mapping):
        raise ValueError(f"{where} is no object with fields: it needs a problem, a chain of thought and an answer.")
    parts = {part: _first(record, names) for part, names in _COLUMNS.items()}
    answer = parts["answer"]
    if parts["cot"] is None and isinstance(answer, str) and _GSM8K in answer:
        parts["cot"], _, parts["answer"] = answer.rpartition(_GSM8K)
    if parts["answer"] is None and isinstance(parts["cot"], str) and (found := list(_ANSWER_IS.finditer(parts["cot"]))):
        said = parts["cot"]
        parts["cot"], parts["answer"] = said[: found[-1].start()], said[found[-1].end() :].strip().removesuffix(".")
    for part, value in parts.items():
        if value is None:
            raise ValueError(
                f"{where} has no {part}: it must stand in one of the columns {', '.join(_COLUMNS[part])}; "
                f"there are {', '.join(map(str, record)) or 'none'}."
            )
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            value = "\n".join(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where} has a {part} that is {value!r} and no text.")
        parts[part] = value.strip()
    return Reasoning(**parts)


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def prompt_ids(tokenizer: Any, problem: str, instruction: str = "") -> list[int]:
    """A problem in tokens, up to where the model begins to write.

    Args:
        tokenizer: with a chat template, up to and including the assistant's header; without one, the text alone.
        problem: what is asked.
        instruction: put in front of it, with a line break between.
    """
    text = f"{instruction}\n{problem}" if instruction else problem
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": text}]
        made = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, add_generation_prompt=True)
        return list(made["input_ids"])
    return list(tokenizer.encode(text))


def chain_ids(tokenizer: Any, cot: str, *, think_open: str, think_close: str) -> list[int]:
    """A chain of thought in tokens, without the delimiters that it may have brought along at its ends.

    Raises:
        ValueError: a delimiter inside the chain, where it would end it early.
    """
    text = cot.strip().removeprefix(think_open).removesuffix(think_close).strip()
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    for name, mark in (("think_open", think_open), ("think_close", think_close)):
        wanted = delimiter_ids(tokenizer, mark, name)
        if any(ids[at : at + len(wanted)] == wanted for at in range(len(ids) - len(wanted) + 1)):
            shown = text if len(text) <= 60 else f"{text[:60]}..."
            raise ValueError(
                f"the chain of thought {shown!r} holds {name}={mark!r} inside, where it would end: leave the problem "
                "out, or name other delimiters."
            )
    return ids


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as `generate` wants them: ids and attention mask, int64 [batch, longest] each, padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def delimiter_ids(tokenizer: Any, text: str, name: str = "delimiter") -> list[int]:
    """The ids of a delimiter such as `</think>`: several where it is no token of its own.

    Raises:
        ValueError: the tokenizer cannot write it.
    """
    ids = list(tokenizer.encode(text, add_special_tokens=False)) if text else []
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not ids or (unknown is not None and unknown in ids):
        raise ValueError(
            f"{name}={text!r} is not in this tokenizer: add it as a special token (tokenizer.add_special_tokens, then "
            "model.resize_token_embeddings), or name a delimiter that the tokenizer knows."
        )
    return ids
