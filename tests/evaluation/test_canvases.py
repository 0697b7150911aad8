"""Evaluation of models that fill canvases: text tasks, stop texts, batches, costs, and what cannot be scored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import szilard
from szilard.evaluation.runner import draws, evaluate
from szilard.evaluation.store import ResultStore
from szilard.evaluation.tasks import ChoiceTask, Item, TextTask
from tests.diffusion.tiny import tiny_engine

RULE = szilard.ThresholdUnmask(threshold=0.3, block_length=4)
ITEMS = [Item(str(n), " ".join(f"w{n + k + 3}" for k in range(1 + n)), 3, raw=True) for n in range(3)]


@dataclass(frozen=True)
class Words(TextTask):
    slug: ClassVar[str] = "words"
    paper: ClassVar[str] = "none"
    metric: ClassVar[str] = "words"
    max_new_tokens: ClassVar[int] = 8

    def item(self, record: Any, number: int) -> Item:
        return Item(str(number), record["prompt"], 0, raw=True)

    def score(self, item: Item, text: str) -> dict[str, float]:
        return {"score": float(len(text.split()) > item.reference)}


@dataclass(frozen=True)
class Choices(ChoiceTask):
    slug: ClassVar[str] = "choices"
    paper: ClassVar[str] = "none"
    metric: ClassVar[str] = "choices"
    max_new_tokens: ClassVar[int] = 8

    def item(self, record: Any, number: int) -> Item:
        return Item(str(number), record["prompt"], 0)

    def choices(self, item: Item) -> list[str]:
        return ["w3", "w4"]

    def score_choices(self, item: Item, likelihoods: Any) -> dict[str, float]:
        return {"score": 0.0}


def run(folder: Path, method: Any = RULE, task: Any = None, **options: Any) -> list[dict[str, Any]]:
    store = ResultStore(folder)
    settings = {"items": ITEMS} | options
    assert evaluate(tiny_engine(eos=None), task or Words(), [("rule", method)], store, **settings) == []
    return store.table().to_pylist()


def test_texts_are_scored_and_rounds_and_columns_recorded(tmp_path: Path) -> None:
    for index, row in enumerate(run(tmp_path)):
        counts = json.loads(row["counters"])
        assert row["score"] == 1.0 and row["generated_tokens"] == 8
        assert counts["rounds"] == row["forward_passes"] <= 8
        assert counts["computed_columns"] == counts["rounds"] * (index + 1 + 8)
        assert counts["computed_columns"] == sum(json.loads(row["model_tokens"]).values())


def test_a_batch_gives_the_answers_of_single_rows_and_shares_its_rounds(tmp_path: Path) -> None:
    single, batched = run(tmp_path / "single"), run(tmp_path / "batched", batch_size=3)
    assert [row["text"] for row in single] == [row["text"] for row in batched]
    alone, shared = ([json.loads(row["counters"])["rounds"] for row in rows] for rows in (single, batched))
    assert sum(shared) == pytest.approx(sum(alone))


def test_an_answer_ends_at_its_stop_text(tmp_path: Path) -> None:
    method = szilard.TopKUnmask(block_length=1)
    whole = run(tmp_path / "whole", method)[0]["text"].split()
    stopping = [Item("0", ITEMS[0].prompt, 0, raw=True, stop=(whole[2],))]
    (row,) = run(tmp_path / "stopped", method, items=stopping)
    first = next(place for place, word in enumerate(whole) if whole[2] in word)
    assert row["text"].split() == whole[: first + 1]


def test_traces_and_caches_go_along(tmp_path: Path) -> None:
    pair = szilard.Under(RULE, szilard.DualCache())
    rows = run(tmp_path, pair, traces=True)
    trace = szilard.Trace.load(tmp_path / rows[0]["trace"])
    assert trace["round"].max() == json.loads(rows[0]["counters"])["rounds"]


def test_a_rule_runs_once_per_seed_where_it_draws_its_columns() -> None:
    drawing = [
        szilard.TopKUnmask(score="random"),
        szilard.ScheduleUnmask(rule="chance"),
        szilard.ScheduleUnmask(score_temperature=0.5),
        szilard.Under(szilard.TopKUnmask(score="random"), szilard.DualCache()),
    ]
    assert all(map(draws, drawing))
    assert not any(map(draws, [RULE, szilard.Ete(), szilard.Under(RULE, szilard.DualCache())]))


def test_what_a_canvas_cannot_be_scored_by_is_refused_before_any_work(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    with pytest.raises(ValueError, match="'greedy' needs logits"):
        evaluate(tiny_engine(), Words(), [("greedy", szilard.Greedy())], store, items=ITEMS)
    with pytest.raises(ValueError, match=r"gives no likelihood .* 'choices'"):
        evaluate(tiny_engine(), Choices(), [("rule", RULE)], store, items=ITEMS)
    assert store.keys() == {}
