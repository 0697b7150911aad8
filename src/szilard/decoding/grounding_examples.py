"""Questions with verified answers: from a file, or given, and checked."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from szilard.options import check_number

Example = tuple[str, Sequence[str]]


def read_examples(path: str | Path, *, limit: int | None = None) -> list[tuple[str, list[str]]]:
    """Questions with verified answers, best first, from a file.

    `.csv`: columns `question` and `answer` (or `answers`, by semicolons), or TruthfulQA's `Question`, `Best Answer`,
    `Correct Answers` (by semicolons). `.jsonl`: objects with `question` and `answer` (text) or `answers` (a list).

    Args:
        path: the file.
        limit: the first so many questions; None: all.

    Raises:
        ValueError: no such file, missing columns, or a question without an answer.
    """
    path = Path(path)
    check_number("limit", limit, low=1, integer=True, optional=True)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r} with examples.")
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"examples come as .csv or .jsonl, not {path.name!r}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                records: list[Any] = list(csv.DictReader(file))
            else:
                records = [json.loads(line) for line in file if line.strip()]
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as {path.suffix[1:]} ({error}).") from error
    examples = []
    for number, record in enumerate(records[:limit], 1):
        if not isinstance(record, dict):
            raise ValueError(f"{str(path)!r}, record {number}: an object with question and answers is needed.")
        fields = {str(name).strip().lower().replace("_", " "): value for name, value in record.items()}
        question = fields.get("question")
        found = [fields[name] for name in ("best answer", "answer", "correct answers", "answers") if name in fields]
        if "question" not in fields or not found:
            raise ValueError(
                f"{str(path)!r} needs the columns question and answer (or Best Answer and Correct Answers); it has "
                f"{', '.join(map(str, record))}."
            )
        several = {"correct answers", "answers"} & set(fields)
        answers: list[str] = []
        for name in ("best answer", "answer", *sorted(several, reverse=True)):
            value = fields.get(name) or ""
            split = value.split(";") if isinstance(value, str) and name in several else value
            answers += [split] if isinstance(split, str) else list(split)
        answers = [text.strip() for text in answers if isinstance(text, str) and text.strip()]
        if not isinstance(question, str) or not question.strip() or not answers:
            raise ValueError(f"{str(path)!r}, record {number}: a question and at least one answer are needed.")
        examples.append((question.strip(), list(dict.fromkeys(answers))))
    if not examples:
        raise ValueError(f"{str(path)!r} holds no examples.")
    return examples


def checked_examples(examples: Sequence[Example]) -> list[tuple[str, list[str]]]:
    """The examples with distinct, non-empty answers in their order.

    Raises:
        TypeError: not (question, answers) pairs of texts.
        ValueError: none, or a question without text or answer.
    """
    checked = []
    for number, example in enumerate(examples):
        wrong = isinstance(example, str) or not isinstance(example, Sequence) or len(example) != 2
        question, answers = (None, None) if wrong else example
        if not isinstance(question, str) or isinstance(answers, str) or not isinstance(answers, Sequence):
            raise TypeError(f"examples[{number}] must be (question, [answers]), not {example!r}.")
        if not all(isinstance(answer, str) for answer in answers):
            raise TypeError(f"examples[{number}] has an answer that is no text: {answers!r}.")
        distinct = list(dict.fromkeys(text for answer in answers if (text := answer.strip())))
        if not question.strip() or not distinct:
            raise ValueError(f"examples[{number}] needs a question and at least one answer.")
        checked.append((question, distinct))
    if not checked:
        raise ValueError("examples is empty: give (question, [answers]) pairs.")
    return checked
