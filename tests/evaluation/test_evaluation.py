"""Tasks, runner, store, statistics and report."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest

import szilard
from szilard.cli.main import main
from szilard.evaluation.code_tasks import HumanEval, Mbpp, code_block
from szilard.evaluation.gsm8k import Gsm8k, final_number
from szilard.evaluation.report import summarise
from szilard.evaluation.runner import evaluate
from szilard.evaluation.statistics import bootstrap_interval, paired, pareto_front, sign_test
from szilard.evaluation.store import KEY, SCHEMA, ResultStore
from szilard.evaluation.tasks import Item, TextTask, make_task

PROBLEM = {
    "task_id": "HumanEval/x",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
BASIC = {
    "task_id": 11,
    "text": "Write a function to double a number.",
    "code": "def double(x):\r\n  return 2 * x",
    "test_list": ["assert double(2) == 4"],
    "test_setup_code": "",
}


@dataclass(frozen=True)
class Echo(TextTask):
    """Is the answer's length even?"""

    slug: ClassVar[str] = "echo"
    paper: ClassVar[str] = "none"
    metric: ClassVar[str] = "even"
    max_new_tokens: ClassVar[int] = 4

    def item(self, record, number):
        return Item(str(number), record["prompt"], None, raw=True)

    def score(self, item, text):
        return {"score": float(len(text) % 2 == 0)}


ITEMS = [Item(str(n), f"w{n + 3} w{n + 20}", None, raw=True) for n in range(6)]
METHODS = [("greedy", szilard.Greedy()), ("sampling", szilard.Sampling())]


def without_times(store):
    hidden = {"wall_seconds", "finished_at"}
    return [{name: value for name, value in row.items() if name not in hidden} for row in store.table().to_pylist()]


# ---- tasks ---------------------------------------------------------------------------------------------------


def test_a_code_task_runs_the_original_tests_only_when_allowed(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(PROBLEM) + "\n")
    (item,) = HumanEval().items(path)
    with pytest.raises(ValueError, match="--allow-code-execution"):
        HumanEval().score(item, "    return 2 * x\n")
    task = HumanEval(allow_code_execution=True)
    assert task.score(item, "    return 2 * x\n\ndef main():\n    boom")["score"] == 1
    assert task.score(item, "    return x + 2\n")["score"] == 0
    chat = HumanEval(style="chat", allow_code_execution=True)
    (item,) = chat.items(path)
    assert chat.score(item, "Sure:\n```python\ndef double(x):\n    return x + x\n```\nDone.")["score"] == 1


def test_mbpp_takes_its_split(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text("\n".join(json.dumps(BASIC | {"task_id": n}) for n in (5, 11, 510, 601)))
    assert [item.id for item in Mbpp().items(path)] == ["mbpp/11", "mbpp/510"]
    assert [item.id for item in Mbpp(split="train").items(path)] == ["mbpp/601"]
    assert Mbpp(split="train").source()[1] == "full/train-00000-of-00001.parquet"
    task = Mbpp(allow_code_execution=True)
    assert task.score(task.items(path)[0], "def double(x):\n    return 2 * x\n\nassert False")["score"] == 1
    for end in ("\n```\nDone.", "\n\nassert "):
        assert task.score(task.items(path)[0], f"```python\ndef double(x):\n    return 2 * x{end}")["score"] == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7.\n#### 7", "7"),
        ("The answer is $1,234.50.", "1234.50"),
        ("\\boxed{-3} and 5", "-3"),
        ("first 2, then 18 apples", "18"),
        ("no number", None),
        ("#### 5 * 4 = 20 apples for 3 days", "20"),
        ("#### 1. Count\nIt is 7.", "7"),
        ("The answer is\n\n12 eggs", "12"),
        ("it takes 10-12", "12"),
        ("from 7-3 to \u22125", "-5"),
        ("that makes .5", "0.5"),
        ("take 10,20", "20"),
        ("#### Step 2: add 3\n#### 1,234,567", "1234567"),
        ("#### 18 dollars (16 - 3 - 4 = 9 eggs at $2)", "18"),
        ("So \\boxed{18}, where 16-7=9.", "18"),
        ("The answer is 18 dollars, since 16 - 7 = 9 eggs remain.", "18"),
        ("#### 18 (x=3)", "18"),
        ("#### Day 1\n5 eggs\n#### Total\nThe total is 18", "18"),
        ("#### Calculation for 3 days\n3 * 6 = 18\nHe has 18.", "18"),
        ("#### 18\n#### Note: checked 3 times", "18"),
        ("The total is...18", "18"),
        ("it costs 1234,567", "1234567"),
        ("Total:\n- 18 eggs", "18"),
        ("so 10 - 4", "4"),
        ("The answer is 5 + 3 = **8**.", "8"),
        ("####\n18", "18"),
        ("\\boxed{x = -$5}", "-5"),
    ],
)
def test_the_final_number_is_found(text, number):
    found = final_number(text)
    assert (found is None) if number is None else (str(found) == number)


def test_gsm8k_compares_numbers_not_texts(tmp_path):
    path = tmp_path / "gsm.jsonl"
    path.write_text(json.dumps({"question": "How many?", "answer": "2 * 500\n#### 1,000"}))
    (item,) = Gsm8k().items(path)
    assert Gsm8k().score(item, "It is 1000.0")["score"] == 1
    assert Gsm8k().score(item, "It is 100")["score"] == 0


def test_bad_tasks_and_files_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'humaneval'"):
        make_task("humanevel")
    with pytest.raises(ValueError, match="no option 'stile'; did you mean 'style'"):
        make_task("gsm8k", {"stile": "chat"})
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"question": "?"}')
    with pytest.raises(ValueError, match="record 1, is no item of 'gsm8k': the field 'answer' is missing"):
        Gsm8k().items(wrong)
    wrong.write_text("{broken")
    with pytest.raises(ValueError, match="cannot be read"):
        Gsm8k().items(wrong)
    with pytest.raises(ValueError, match="no data file"):
        Gsm8k().items(tmp_path / "none.jsonl")


def test_a_code_block_is_taken_out_of_an_answer():
    assert code_block("a\n```python\nx = 1\n```\nb\n```\ny\n```") == "x = 1\n"
    assert code_block("```py\nx = 1") == "x = 1"
    assert code_block("x = 1") == "x = 1"


# ---- runner and store ----------------------------------------------------------------------------------------


def test_a_run_keeps_one_row_per_item_method_and_seed_and_goes_on(engine, tmp_path):
    store = ResultStore(tmp_path / "runs")
    evaluate(engine, Echo(), METHODS, store, items=ITEMS, limit=2, seeds=(0, 1))
    assert len(store.table()) == 2 * (1 + 2)
    before = without_times(store)
    evaluate(engine, Echo(), METHODS, store, items=ITEMS, seeds=(0, 1))
    assert len(store.table()) == 6 * 3 and len(list(store.folder.glob("*.parquet"))) == 18
    assert all(row in without_times(store) for row in before)
    row = store.table().to_pylist()[0]
    assert row["generated_tokens"] == 4 and json.loads(row["environment"])["szilard"]


def test_shards_together_are_one_run(engine, tmp_path):
    whole, halves = ResultStore(tmp_path / "whole"), ResultStore(tmp_path / "halves")
    evaluate(engine, Echo(), METHODS, whole, items=ITEMS)
    for index in range(2):
        evaluate(engine, Echo(), METHODS, halves, items=ITEMS, shard=(index, 2))
    assert without_times(whole) == without_times(halves)
    halves.compact()
    assert len(list(halves.folder.glob("*.parquet"))) == 1 and without_times(whole) == without_times(halves)


def test_the_store_drops_duplicates_and_ignores_what_a_killed_run_left(tmp_path):
    store = ResultStore(tmp_path)
    key = dict(zip(KEY, ("t", "i", "m", "x", 0), strict=True))
    store.add(key | {"score": 1.0, "finished_at": "2026-01-02"})
    store.add(key | {"score": 0.0, "finished_at": "2026-01-01"})
    (tmp_path / ".part-torn.parquet.partial").write_bytes(b"PAR1")
    assert store.table()["score"].to_pylist() == [0.0] and store.table().schema == SCHEMA
    (tmp_path / "part-bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match=r"part-bad\.parquet.* is damaged"):
        store.table()


def test_a_run_killed_in_the_middle_and_resumed_equals_an_uninterrupted_one(engine, model_folder, tmp_path):
    script = textwrap.dedent(
        f"""
        import sys, time
        sys.path.insert(0, {os.getcwd()!r})
        import szilard
        from szilard.evaluation.runner import evaluate
        from szilard.evaluation.store import ResultStore
        from tests.evaluation.test_evaluation import ITEMS, METHODS, Echo
        engine = szilard.load({model_folder!r})
        engine.name = "tiny"
        slow = lambda done, total: time.sleep(0.15)
        evaluate(engine, Echo(), METHODS, ResultStore(sys.argv[1]), items=ITEMS, seeds=(0, 1), progress=slow)
        """
    )
    killed, whole = ResultStore(tmp_path / "killed"), ResultStore(tmp_path / "whole")
    with subprocess.Popen([sys.executable, "-c", script, str(killed.folder)]) as process:
        deadline = time.monotonic() + 120
        while len(list(killed.folder.glob("*.parquet"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert 4 <= len(killed.table()) < 18
    for store in (killed, whole):
        subprocess.run([sys.executable, "-c", script, str(store.folder)], check=True)
    assert without_times(killed) == without_times(whole) and len(whole.table()) == 18


# ---- statistics and report -----------------------------------------------------------------------------------


def test_statistics_have_their_closed_forms():
    assert sign_test(0, 0) == 1 and sign_test(5, 5) == 1
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(8, 1) == pytest.approx(2 * (1 + 9) / 512)
    assert paired({"a": 1, "b": 0, "c": 1}, {"a": 0, "b": 1, "c": 1, "d": 1})[:3] == (0, 1, 1)
    assert bootstrap_interval([1.0] * 9) == (1, 1)
    low, high = bootstrap_interval([0.0, 1.0] * 200)
    assert low == pytest.approx(0.451, abs=0.01) and high == pytest.approx(0.549, abs=0.01)
    assert pareto_front([(1, 0.5), (2, 0.4), (2, 0.9), (3, 0.9)]) == [0, 2]


def test_the_report_compares_on_the_same_items(tmp_path):
    store = ResultStore(tmp_path)
    for item, scores in {"a": (0, 1), "b": (1, 1), "c": (0, 1)}.items():
        for method, score in zip(("greedy", "ead"), scores, strict=True):
            store.add(
                {"task": "t", "item": item, "method": method, "model": "m", "seed": 0, "score": float(score)}
                | {"flops": 1e12, "generated_tokens": 10, "wall_seconds": 2.0, "counters": '{"large_share": 0.5}'}
            )
    greedy, ead = summarise(store.table())
    assert greedy["method"] == "greedy" and ead["score"] == 1 and (ead["wins"], ead["losses"]) == (2, 0)
    assert ead["difference"] == pytest.approx(2 / 3) and ead["p_value"] == pytest.approx(0.5)
    assert ead["tokens_per_second"] == 5 and ead["counters"] == {"large_share": 0.5}
    assert ead["pareto"] and not greedy["pareto"]


def test_the_commands(model_folder, tmp_path, capsys, monkeypatch):
    # The tiny tokenizer knows whole words only, which stop texts do not work with.
    monkeypatch.setattr(
        Gsm8k, "item", lambda self, record, number: Item(str(number), "w3 w4", {"answer": "1"}, raw=True)
    )
    data = tmp_path / "gsm.jsonl"
    data.write_text("\n".join(json.dumps({"question": "w3 w4", "answer": f"#### {n}"}) for n in range(3)))
    folder = str(tmp_path / "runs")
    arguments = ["evaluate", "--methods", "greedy,sampling:warm", "--task", "gsm8k", "--data", str(data), "-n", "4"]
    arguments += ["--task-set", "gsm8k.style=completion", "--set", "warm.temperature=0.8", "--model", model_folder]
    assert main([*arguments, "-o", folder, "--seeds", "2", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [(record["method"], record["items"]) for record in records] == [("greedy", 3), ("warm", 3)]
    assert main(["report", folder, "--csv", str(tmp_path / "table.csv")]) == 0
    assert "warm" in (tmp_path / "table.csv").read_text()
    assert main([*arguments, "-o", folder, "--shard", "2/2"]) == 2
    assert main(["evaluate", "--task", "humaneval", "--data", str(data)]) == 2
    assert "--allow-code-execution" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nothing")]) == 2


TRUTHFUL = "Question,Best Answer,Correct Answers,Incorrect Answers\n"


@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        ("gsm8k", "a.jsonl", '{"question": "a", "answer": "b"}', "does not end in ####"),
        ("gsm8k", "a.jsonl", '{"question": null, "answer": "b #### 1"}', "question is no text"),
        ("gsm8k", "a.jsonl", "null", "it is no object"),
        ("gsm8k", "a.json", "5", "cannot be read as JSON lines"),
        ("humaneval", "a.jsonl.gz", "no gzip", "cannot be read as JSON lines"),
        ("mbpp", "a.jsonl", '{"task_id": "x"}', "another type"),
        (
            "truthfulqa-mc",
            "a.csv",
            "Question,Best Answer,Correct Answers,Incorrect Answers\nq,a,a,",
            "incorrect answer",
        ),
    ],
)
def test_records_that_cannot_be_asked_are_refused(tmp_path, task, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        make_task(task).items(path)


def test_a_text_may_hold_any_line_separator(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a\u2028b\x85c", "answer": "x #### 5"}\n', encoding="utf-8")
    assert "a\u2028b\x85c" in make_task("gsm8k").items(path)[0].prompt[0]["content"]


def test_a_task_in_chats_is_refused_at_once_by_a_model_without_a_template(tmp_path):
    from szilard.engines import TransformersEngine
    from tests.conftest import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    engine = TransformersEngine(tiny_model("llama"), tokenizer, name="plain")
    task = make_task("parallelbench-shuffle")
    with pytest.raises(ValueError, match="plain has no chat template"):
        evaluate(engine, task, [("greedy", szilard.Greedy())], ResultStore(tmp_path / "runs"), limit=2)
