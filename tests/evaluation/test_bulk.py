"""Answers in bulk: one line each, resumed without repeating or losing one, as the training takes them."""

import json

import pytest

from szilard.evaluation.bulk import answer_all, read_prompts
from szilard.training.corpus import read_corpus

PROMPTS = ["w10 w11", "w12", "w13 w14 w15", "w9", "w20"]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 4}])
def test_a_cut_run_goes_on_and_gives_the_same_answers(engine, tmp_path, settings):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert answer_all(engine, PROMPTS, whole, batch_size=2, max_new_tokens=6, **settings) == 5
    text = whole.read_bytes().split(b"\n")
    cut.write_bytes(b"\n".join(text[:3]) + b"\n" + text[3][:20])
    assert answer_all(engine, PROMPTS, cut, batch_size=2, max_new_tokens=6, **settings) == 2
    assert lines(cut) == lines(whole)
    assert answer_all(engine, PROMPTS, cut, batch_size=2, max_new_tokens=6, **settings) == 0


def test_answers_are_a_corpus(engine, tmp_path):
    file = tmp_path / "a.jsonl"
    answer_all(engine, PROMPTS, file, max_new_tokens=6)
    for line, example in zip(lines(file), read_corpus(file, engine), strict=True):
        assert example.ids == (*line["prompt_ids"], *line["ids"])
        assert sum(example.answer) == len(line["ids"])


def test_other_settings_and_damaged_files_are_refused(engine, tmp_path):
    file = tmp_path / "a.jsonl"
    answer_all(engine, PROMPTS[:1], file, max_new_tokens=6)
    with pytest.raises(ValueError, match="other settings"):
        answer_all(engine, PROMPTS[:1], file, max_new_tokens=7)
    with pytest.raises(ValueError, match="other prompts"):
        answer_all(engine, ["w30"], file, max_new_tokens=6)
    file.write_text("nonsense\n" + file.read_text())
    with pytest.raises(ValueError, match="no JSON"):
        answer_all(engine, PROMPTS[:1], file, max_new_tokens=6)


def test_two_runs_into_one_file_are_refused(engine, tmp_path):
    out = tmp_path / "out.jsonl"

    def meanwhile(done, total):
        with pytest.raises(ValueError, match=r"another process is writing .*out\.jsonl"):
            answer_all(engine, ["w9"], out, max_new_tokens=2)

    assert answer_all(engine, ["w9"], out, max_new_tokens=2, progress=meanwhile) == 1
    assert answer_all(engine, ["w9"], out, max_new_tokens=2) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_file_of_something_else_is_left_alone(engine, tmp_path):
    for text in ("my only notes, one line", '{"prompt": "w9"}'):
        file = tmp_path / "notes.txt"
        file.write_text(text)
        with pytest.raises(ValueError, match="name another file"):
            answer_all(engine, PROMPTS[:1], file, max_new_tokens=6)
        assert file.read_text() == text


def test_prompts_are_found_under_their_usual_names(tmp_path):
    file = tmp_path / "p.jsonl"
    records = [
        {"prompt": "a"},
        {"question": "b"},
        {"turns": ["c", "d"]},
        {"messages": [{"role": "user", "content": "e"}]},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_prompts(file) == ["a", "b", "c", [{"role": "user", "content": "e"}]]
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert read_prompts(tmp_path / "p.txt") == ["one", "two"]
    file.write_text('{"answer": "x"}\n')
    with pytest.raises(ValueError, match="record 1"):
        read_prompts(file)


def test_spec_bench_items_are_named_by_their_category(tmp_path):
    from szilard.evaluation.tasks import make_task

    file = tmp_path / "s.jsonl"
    records = [
        {"question_id": 81, "category": "writing", "turns": ["Compose.", "Rewrite."]},
        {"question_id": 300, "category": "rag", "turns": ["Who?"]},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [item.id for item in make_task("spec-bench").items(file)] == ["conversation/81", "rag/300"]
    assert [item.prompt for item in make_task("spec-bench", {"category": "rag"}).items(file)] == ["Who?"]
    with pytest.raises(ValueError, match="category must be one of"):
        make_task("spec-bench", {"category": "cooking"})
