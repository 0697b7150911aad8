"""Five text tasks: a sentence with given words (three difficulties), a summary, a paraphrase.

The last two are about texts of other people, which are not part of this library: give their file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from szilard.evaluation.parallelbench.sample import Draw, Sample, as_sample
from szilard.evaluation.parallelbench.word_sets import word_set
from szilard.records import read_objects

# task: (what its file is, the field of the text, fields of reference texts)
_FILES = {
    "summarization": ("SAMSum's test split", "dialogue", "summary"),
    "paraphrasing": ("the data set humarin/chatgpt-paraphrases", "text", "paraphrases"),
}
_REQUESTS = {
    "summarization": "Summarise this conversation in one or two sentences. Output only the summary.\n{text}\nSummary:",
    "paraphrasing": "Say this in other words, with the same meaning. Output only the result.\n{text}\nParaphrase:",
}


def draw_words(rng: random.Random, difficulty: str, n: int) -> Draw:
    """Ask for one sentence that holds n words. There is no right answer to learn from: the label is the words."""
    words = word_set(rng, difficulty, n)
    listed = words[0] if n == 1 else f"{', '.join(words[:-1])}{',' if n > 2 else ''} and {words[-1]}"
    question = f"Write a single sentence that makes sense and uses the words {listed}. Output only the sentence."
    return Draw(question, "", words, {"n": n, "words": words})


def check_file(task: str, data: str | Path | None) -> Path:
    """The file of a task.

    Raises:
        ValueError: none was given, or it is not there.
    """
    what, text, reference = _FILES[task]
    if data is None:
        raise ValueError(
            f"the texts of '{task}' are not part of this library: give a file (.jsonl, .json, .csv, .parquet) of "
            f"{what}, with the fields {text!r} and {reference!r}."
        )
    if not Path(data).is_file():
        raise ValueError(f"there is no data file {str(data)!r} for the task '{task}'; it is {what}.")
    return Path(data)


def text_sample(task: str, record: Mapping[str, Any]) -> Sample:
    """One text of the file, with its first reference.

    Raises:
        KeyError: a field is missing; ValueError: it holds no text.
    """
    _, field, reference = _FILES[task]
    text, label = record[field], record[reference]
    if isinstance(label, str) and label.lstrip().startswith("["):  # a list of texts, written in a CSV
        label = _listed(label)
    label = label[0] if isinstance(label, list) and label else label
    if not isinstance(text, str) or not text.strip() or not isinstance(label, str):
        raise ValueError(f"the fields {field!r} and {reference!r} must be texts.")
    drawn = Draw(_REQUESTS[task].format(text=text.strip()), label.strip(), label.strip(), {"text": text.strip()})
    return as_sample(task, drawn, None)


def read_texts(task: str, data: str | Path | None) -> list[Sample]:
    """All texts of a file.

    Raises:
        ValueError: no file, or one of something else.
    """
    path = check_file(task, data)
    samples = []
    for number, record in enumerate(read_objects(path), start=1):
        try:
            samples.append(text_sample(task, record))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the field {error} is missing." if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{str(path)!r}, record {number}, is no text for '{task}': {reason}") from None
    if not samples:
        raise ValueError(f"{str(path)!r} holds no text for '{task}'.")
    return samples


def _listed(text: str) -> Any:
    """A list of texts in JSON; one of Python's, in single quotes, by its first text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        import ast

        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
