"""The runner: batches, failures, seeds and traces."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest

import szilard
from szilard.decoding.adadec_threshold import ThresholdFit
from szilard.decoding.trace import Trace
from szilard.evaluation.runner import draws, evaluate
from szilard.evaluation.store import ResultStore
from szilard.evaluation.tasks import Item, TextTask

TIMES = {"wall_seconds", "finished_at"}
COSTS = TIMES | {"forward_passes", "model_tokens", "flops", "counters"}


@dataclass(frozen=True)
class Words(TextTask):
    """Does the answer have the words that the reference asks for? A reference of None cannot be scored."""

    slug: ClassVar[str] = "words"
    paper: ClassVar[str] = "none"
    metric: ClassVar[str] = "words"
    max_new_tokens: ClassVar[int] = 6

    def item(self, record, number):
        return Item(str(number), record["prompt"], 0, raw=True)

    def score(self, item, text):
        return {"score": float(len(text.split()) > item.reference)}


ITEMS = [Item(f"i/{n}", " ".join(f"w{n + k + 3}" for k in range(1 + n % 3)), 3, raw=n != 4) for n in range(7)]
METHODS = [("greedy", szilard.Greedy()), ("sampling", szilard.Sampling())]


def rows(store, hidden=TIMES):
    return [{name: v for name, v in row.items() if name not in hidden} for row in store.table().to_pylist()]


def test_a_batch_gives_the_greedy_answers_of_single_rows(engine, tmp_path):
    single, batched = ResultStore(tmp_path / "single"), ResultStore(tmp_path / "batched")
    evaluate(engine, Words(), METHODS[:1], single, items=ITEMS)
    evaluate(engine, Words(), METHODS[:1], batched, items=ITEMS, batch_size=3)
    assert rows(single, COSTS) == rows(batched, COSTS)
    assert len(list(batched.folder.glob("*.parquet"))) == 4  # 3 + 1 raw, 1 chat, 2 raw


def test_the_cost_of_a_batch_is_shared_out(engine, tmp_path):
    alike = [Item(str(n), "w9 w8", 0, raw=True) for n in range(2)]
    single, batched = ResultStore(tmp_path / "single"), ResultStore(tmp_path / "batched")
    for store, size in ((single, 1), (batched, 2)):
        evaluate(engine, Words(), METHODS[:1], store, items=alike, batch_size=size)
    for one, shared in zip(rows(single), rows(batched), strict=True):
        assert shared["flops"] == pytest.approx(one["flops"])
        assert json.loads(shared["model_tokens"]) == json.loads(one["model_tokens"])
        assert shared["forward_passes"] == round(one["forward_passes"] / 2)


def test_a_batched_run_that_was_stopped_goes_on_to_the_same_rows(engine, tmp_path):
    whole, stopped = ResultStore(tmp_path / "whole"), ResultStore(tmp_path / "stopped")
    settings = {"items": ITEMS, "seeds": (0, 1), "batch_size": 2}
    evaluate(engine, Words(), METHODS, whole, **settings)

    def stop(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(engine, Words(), METHODS, stopped, progress=stop, **settings)
    assert 0 < len(stopped.table()) < len(whole.table())
    evaluate(engine, Words(), METHODS, stopped, **settings)
    assert rows(stopped) == rows(whole)
    parts = len(list(stopped.folder.iterdir()))
    evaluate(engine, Words(), METHODS, stopped, **settings)
    assert len(list(stopped.folder.iterdir())) == parts


def test_what_is_missing_of_a_batch_is_drawn_as_if_nothing_were_there(engine, tmp_path):
    whole, begun = ResultStore(tmp_path / "whole"), ResultStore(tmp_path / "begun")
    alike = [Item(str(n), f"w{n + 9}", 3, raw=True) for n in range(2)]
    evaluate(engine, Words(), METHODS[1:], begun, items=alike, limit=1, batch_size=2)
    for store in (whole, begun):
        evaluate(engine, Words(), METHODS[1:], store, items=alike, batch_size=2)
    assert rows(begun)[1] == rows(whole)[1] and len(rows(begun)) == 2


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_item_that_fails_is_told_and_tried_again_and_costs_no_other(engine, tmp_path, batch_size):
    store = ResultStore(tmp_path)
    too_long = Item("long", "w5 " * 300, 3, raw=True)
    broken = Item("broken", "w5", None, raw=True)  # scoring raises a TypeError
    items = [ITEMS[0], too_long, ITEMS[1], broken]
    for _ in range(2):
        failed = evaluate(engine, Words(), METHODS[:1], store, items=items, batch_size=batch_size)
        assert [(item, label, type(error)) for item, label, error in failed] == [
            ("long", "greedy", ValueError),
            ("broken", "greedy", TypeError),
        ]
        assert store.table()["item"].to_pylist() == ["i/0", "i/1"]


def test_only_a_method_that_draws_runs_once_per_seed():
    assert draws(szilard.Sampling()) and not draws(szilard.Sampling(seed=3))
    assert not any(draws(method) for method in (szilard.Greedy(), szilard.Lead(), szilard.SoftThinking()))


def test_a_label_is_not_reused_for_other_hyperparameters(engine, tmp_path):
    store = ResultStore(tmp_path)
    evaluate(engine, Words(), [("cold", szilard.Sampling(temperature=0.2))], store, items=ITEMS, limit=1)
    with pytest.raises(ValueError, match=r"'cold' that were made with .*0\.2.*not with .*0\.9.*sampling:new"):
        evaluate(engine, Words(), [("cold", szilard.Sampling(temperature=0.9))], store, items=ITEMS)


def test_every_run_has_a_trace_file_of_its_own(engine, tmp_path):
    store = ResultStore(tmp_path)
    labels = [("a", szilard.Sampling(temperature=0.5)), ("b", szilard.Sampling(temperature=2.0))]
    items = [Item("x/1", "w3", 0, raw=True), Item("x_1", "w4", 0, raw=True)]  # alike once they are file names
    evaluate(engine, Words(), labels, store, items=items, seeds=(0, 1), batch_size=2, traces=True)
    names = [row["trace"] for row in store.table().to_pylist()]
    assert len(set(names)) == 8
    for row in store.table().to_pylist():
        assert len(list(Trace.load(store.folder / row["trace"]))) == row["generated_tokens"]


@pytest.mark.parametrize("bad", [{"limit": 0}, {"batch_size": 0}, {"shard": (2, 2)}, {"max_new_tokens": 0}])
def test_settings_that_cannot_be_are_refused(engine, tmp_path, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        evaluate(engine, Words(), METHODS, ResultStore(tmp_path), items=ITEMS, **bad)


def test_a_method_that_cannot_run_is_refused_before_the_first_item(engine, tmp_path):
    store = ResultStore(tmp_path / "runs")
    for method, message in ((szilard.AdaDec(), "threshold"), (szilard.Ead(), "second model")):
        with pytest.raises(ValueError, match=message):
            evaluate(engine, Words(), [*METHODS, (method.slug, method)], store, items=ITEMS)
    assert not store.keys()


def test_other_data_and_other_weights_under_the_same_names_are_refused(engine, tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "runs")
    evaluate(engine, Words(), METHODS[:1], store, items=ITEMS[:2])
    other = [Item(ITEMS[0].id, "w90 w91", 3, raw=True), *ITEMS[1:]]
    with pytest.raises(ValueError, match="another data file"):
        evaluate(engine, Words(), METHODS[:1], store, items=other)
    monkeypatch.setitem(engine.__dict__, "fingerprint", "of other weights")
    with pytest.raises(ValueError, match="another folder"):
        evaluate(engine, Words(), METHODS[:1], store, items=ITEMS)


def test_a_length_limit_that_no_prompt_fits_beside_is_refused_at_once(engine, tmp_path):
    with pytest.raises(ValueError, match="no room for a prompt"):
        evaluate(engine, Words(), METHODS, ResultStore(tmp_path), items=ITEMS, max_new_tokens=engine.context_window)


def test_stops_that_no_item_can_have_are_refused_before_the_first_one(engine, tmp_path):
    items = [Item("i", "w9", 0, raw=True, stop=("w20",))]
    with pytest.raises(ValueError, match="stop texts do not work with the tokenizer of tiny"):
        evaluate(engine, Words(), METHODS[:1], ResultStore(tmp_path), items=items)


def test_results_keep_what_a_threshold_file_says_and_refuse_another_one_of_the_same_name(engine, tmp_path):
    store, file = ResultStore(tmp_path / "results"), tmp_path / "tau.json"

    def learned(threshold):
        above = {"share": 0.1, "first_above": 0.5, "first_below": 0.9, "first_three_above": 0.8}
        ThresholdFit(threshold, -1.0, 1.0, 0.5, 0.9, 100, 0.8, 0.5, above, model="tiny").save(file)
        return [("adadec", szilard.AdaDec(threshold=str(file)))]

    evaluate(engine, Words(), learned(1.5), store, items=ITEMS[:1])
    assert json.loads(store.table()["options"][0].as_py()) == {"threshold": 1.5}
    evaluate(engine, Words(), learned(1.5), store, items=ITEMS[:2])
    with pytest.raises(ValueError, match="label of its own"):
        evaluate(engine, Words(), learned(1.25), store, items=ITEMS[:2])


def test_results_keep_the_weights_of_the_large_model(engine, tmp_path):
    method = szilard.Ead(large=engine, threshold=0.5)
    evaluate(engine, Words(), [("ead", method)], ResultStore(tmp_path), items=ITEMS[:1])
    kept = json.loads(ResultStore(tmp_path).table()["options"][0].as_py())
    assert kept == {"large": f"tiny, {engine.fingerprint}", "threshold": 0.5}
