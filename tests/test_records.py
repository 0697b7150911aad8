"""Malformed records are told in words, before any work."""

import json

import pytest

from szilard.evaluation.bulk import read_prompts
from szilard.training.corpus import read_texts

MALFORMED = {
    "a text and no object": "just a text",
    "a field 'messages' that is a text": {"messages": "hello"},
    "holds a text in the place of turn 1": {"messages": ["hello"]},
    "a turn without 'role' and 'content'": {"messages": [{"role": "user"}]},
    "a field 'prompt' that is a number": {"prompt": 5},
    "a field 'text' that is a list": {"text": ["a", "b"]},
    "not a list of token ids": {"prompt": "a", "ids": ["x"]},
    "'prompt_ids' that is not a list": {"prompt_ids": [-1], "ids": [1]},
}


@pytest.mark.parametrize(("words", "record"), MALFORMED.items())
@pytest.mark.parametrize("reader", [read_prompts, read_texts])
def test_a_malformed_record_is_refused_with_its_number(tmp_path, reader, words, record):
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps({"prompt": "fine", "answer": "yes"}) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match="record 2") as told:
        reader(file)
    assert words in str(told.value)


@pytest.mark.parametrize("reader", [read_prompts, read_texts])
def test_text_in_another_encoding_is_refused(tmp_path, reader):
    file = tmp_path / "texts.txt"
    file.write_bytes("grün\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not text in UTF-8"):
        reader(file)


def test_chats_texts_and_ids_are_read(tmp_path):
    records = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"turns": ["a", "b"]},
        {"prompt": [{"role": "user", "content": "a"}], "answer": "b"},
        {"prompt": "a", "prompt_ids": [1], "ids": [2]},
    ]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(read_prompts(file)) == 4
