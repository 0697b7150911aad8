"""What drafting bought, computed by hand on a few rows; the terminal, the page and JSON tell the same."""

import json

import pytest

from szilard.cli.main import main
from szilard.evaluation.drafting import summarise_drafting
from szilard.evaluation.page import to_html
from szilard.evaluation.store import ResultStore


def row(item, method, seconds, counters):
    return {
        "task": "spec-bench", "item": item, "method": method, "model": "m", "seed": 0, "score": 1.0, "flops": 1e9,
        "generated_tokens": 12, "forward_passes": 4, "wall_seconds": seconds, "counters": json.dumps(counters),
        "text": "x",
    }  # fmt: skip


@pytest.fixture
def store(tmp_path):
    store = ResultStore(tmp_path / "runs")
    for item in ("qa/1", "qa/2", "rag/9"):
        store.add(row(item, "greedy", 4.0, {}))
    counts = {"row_steps": 4, "accepted": 6, "nodes_verified": 20, "accepted_1": 3, "accepted_2": 2, "accepted_3": 1}
    store.add(row("qa/1", "drafts", 1.0, counts))
    store.add(row("qa/2", "drafts", 2.0, {"row_steps": 6, "accepted": 0, "nodes_verified": 30}))
    store.add(row("rag/9", "drafts", 8.0, {"row_steps": 2, "accepted": 4, "nodes_verified": 6, "accepted_1": 2}))
    store.add(row("qa/1", "spans", 2.0, {"row_steps": 4, "accepted": 2}))
    store.add(row("qa/1", "pauses", 2.0, {"pauses": 1}))
    return store


def test_figures_are_of_steps_and_speed_is_of_the_same_items(store):
    found = {(r["method"], r["kind"]): r for r in summarise_drafting(store.table())}
    assert list(found) == [("drafts", "all"), ("drafts", "qa"), ("drafts", "rag"), ("spans", "all")]
    qa = found["drafts", "qa"]
    assert (qa["items"], qa["accepted"], qa["verified"]) == (2, 0.6, 5.0)
    assert qa["tokens_per_pass"] == 1.6 and qa["by_position"] == [0.3, 0.2, 0.1, 0.0]
    assert qa["speed_up"] == pytest.approx((24 / 3) / (24 / 8))
    assert found["drafts", "rag"]["speed_up"] == 0.5 and found["drafts", "all"]["items"] == 3
    assert found["spans", "all"]["by_position"] == [] and found["spans", "all"]["speed_up"] == 2.0


def test_without_a_baseline_there_is_no_speed_up(store):
    assert {r["speed_up"] for r in summarise_drafting(store.table(), baseline="sampling")} == {None}


def test_terminal_page_and_json_tell_it(store, capsys):
    assert main(["report", str(store.folder)]) == 0
    text = capsys.readouterr().out
    assert "drafting" in text and "1.60" in text and "2.67x" in text
    page = to_html(store.table())
    assert "tokens per target pass" in page and "<td>2.67</td>" in page
    assert main(["report", str(store.folder), "--json"]) == 0
    methods = {record["method"]: record for record in json.loads(capsys.readouterr().out)}
    assert [d["kind"] for d in methods["drafts"]["drafting"]] == ["all", "qa", "rag"]
    assert "drafting" not in methods["greedy"]
