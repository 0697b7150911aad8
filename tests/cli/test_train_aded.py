"""`szilard train aded`: counted on the forms that every training takes; bad data is told before the model is loaded."""

import json

import pytest

from szilard.cli.main import main
from szilard.speculative.trigram_table import TrigramTable


def test_answers_in_bulk_texts_and_paragraphs_are_counted(tmp_path, model_folder, capsys):
    answers, paragraphs = tmp_path / "a.jsonl", tmp_path / "t.txt"
    record = {"prompt_ids": [5, 6], "ids": [7, 8, 9], "text": "ignored"}
    answers.write_text(json.dumps(record) + "\n" + json.dumps({"text": "w3 w4 w5 w6"}) + "\n")
    paragraphs.write_text("w3 w4 w5\n\nw4 w5 w6")
    for data in (answers, paragraphs):
        out = tmp_path / data.stem
        assert main(["train", "aded", "--data", str(data), "--model", model_folder, "-o", str(out)]) == 0
        table = TrigramTable.load(out)
        assert table.spelling and len(table)
    assert TrigramTable.load(tmp_path / "a").row(6, 7)[0] == [8]
    assert "bigrams" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "holds no text"), ('{"text": "w3"}\n{"answer": "w3"}\n', "record 2, holds no text"), ("[3]\n", "record 1")],
)
def test_bad_data_is_told_before_the_model_is_loaded(tmp_path, capsys, text, sentence):
    data = tmp_path / "d.jsonl"
    data.write_text(text)
    for method in ("aded", "medusa"):
        assert main(["train", method, "--data", str(data), "--model", "nowhere", "-o", str(tmp_path / "o")]) == 2
        assert sentence in capsys.readouterr().err
