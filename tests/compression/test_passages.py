"""What soft compressors learn from."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from szilard.compression.passages import Passages, read_questions


def _tokens(*lengths: int) -> SimpleNamespace:
    return SimpleNamespace(
        ids=np.arange(sum(lengths), dtype=np.int32), offsets=np.cumsum([0, *lengths]).astype(np.int64)
    )


def test_a_context_and_what_follows_it_are_neighbours_in_one_text() -> None:
    passages = Passages(_tokens(30, 13), 8, 4)  # type: ignore[arg-type]
    for index in range(len(passages)):
        item = passages[index]
        both = torch.cat([item["context"], item["target"]])
        assert (both.diff() == 1).all() and len(item["context"]) <= 8 and 4 <= len(item["target"]) <= 4
    assert passages.texts == [0, 0, 1]  # of the 6 tokens that remain of the first text nothing can be made


def test_questions_need_all_their_parts(tmp_path) -> None:
    file = tmp_path / "questions.jsonl"
    good = {"context": ["one", "two"], "prompt": "which?", "answer": "two"}
    file.write_text(json.dumps(good) + "\n" + json.dumps(good | {"context": "one"}))
    assert [question.contexts for question in read_questions(file)] == [("one", "two"), ("one",)]
    for bad in ({"context": []}, {"context": [1]}, {"prompt": " "}, {"answer": None}):
        file.write_text(json.dumps(good | bad))
        with pytest.raises(ValueError, match="record 1, needs"):
            read_questions(file)
