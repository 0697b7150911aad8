"""The benchmark as `szilard evaluate` knows it."""

import importlib.util
import json

import pytest

from szilard.cli.evaluate import _files, _tasks
from szilard.evaluation.parallelbench import TASKS, make_task
from szilard.evaluation.tasks import make_task as evaluation_task
from szilard.evaluation.tasks import task_names, tasks_of


def test_every_task_has_a_slug_and_the_groups_hold_them():
    slugs = {f"parallelbench-{name.replace('_', '-')}" for name in TASKS}
    assert slugs <= set(task_names()) and set(tasks_of("parallelbench")) == slugs
    assert len(tasks_of("parallelbench-lists")) == 10 and len(tasks_of("parallelbench-puzzles")) == 2
    for slug in slugs:
        made = evaluation_task(slug)
        assert made.slug == slug and made.name in TASKS
        assert made.max_new_tokens == TASKS[made.name].max_new_tokens


def test_items_are_made_without_a_file_and_scored_from_json():
    made = evaluation_task("parallelbench-shuffle", {"num_samples": 8, "n": 3})
    items = made.items()
    assert [item.id for item in items] == [f"parallelbench-shuffle/{at}" for at in range(8)]
    assert items[0].prompt[-1]["role"] == "user" and not items[0].raw
    json.dumps([item.reference for item in items])
    label = items[0].reference["label"]
    assert made.score(items[0], json.dumps(label)) == {"score": 1, "strict": 1}
    assert made.score(items[0], f"I say {json.dumps(label)}") == {"score": 1, "strict": 0}


def test_compact_and_plain_items_are_raw_text():
    for option in ({"compact": True}, {"style": "plain"}):
        item = evaluation_task("parallelbench-sudoku", {"num_samples": 1, **option}).items()[0]
        assert item.raw and isinstance(item.prompt, str)


def test_a_file_of_samples_is_asked_again(tmp_path):
    samples = make_task("copy", 4, 3, seed=5)
    path = tmp_path / "copy.jsonl"
    path.write_text("".join(json.dumps(sample.to_dict()) + "\n" for sample in samples))
    items = evaluation_task("parallelbench-copy").items(path)
    assert [item.reference["label"] for item in items] == [sample.label for sample in samples]
    with pytest.raises(ValueError, match="a sample of 'copy'"):
        evaluation_task("parallelbench-reverse").items(path)


def test_texts_need_their_file_and_a_judge(tmp_path):
    made = evaluation_task("parallelbench-summarization", {"grammar": "offline"})
    made.check()
    with pytest.raises(ValueError, match="are not part of this library"):
        made.items()
    path = tmp_path / "dialogues.jsonl"
    path.write_text('{"dialogue": "A: Hi", "summary": "A greets."}\n')
    assert made.score(made.items(path)[0], "A says hello.")["score"] == 1
    if importlib.util.find_spec("language_tool_python") is None:
        with pytest.raises(ValueError, match="take grammar=offline"):
            evaluation_task("parallelbench-w2s-easy").check()


def test_the_command_line_names_groups_tasks_and_files(tmp_path):
    made = _tasks("parallelbench-lists,gsm8k", ["parallelbench-lists.num_samples=4"], False)
    assert len(made) == 11 and all(task.num_samples == 4 for task in made[:10])
    slugs = [*tasks_of("parallelbench")]
    assert _files(slugs, ["parallelbench-paraphrasing=x.csv"]) == {"parallelbench-paraphrasing": "x.csv"}


def test_options_that_a_task_cannot_have_are_refused():
    with pytest.raises(ValueError, match="n must be between 2 and 15"):
        evaluation_task("parallelbench-shuffle", {"n": 1})
    with pytest.raises(ValueError, match="grammar must be one of"):
        evaluation_task("parallelbench-w2s-hard", {"grammar": "mine"})
    with pytest.raises(ValueError, match="style must be one of"):
        evaluation_task("parallelbench-copy", {"style": "song"})
