"""ADED: the table, its updates and its files; the search; and that none of it changes what is written."""

import json
from random import Random

import numpy as np
import pytest
import torch

from szilard.engines import TransformersEngine
from szilard.speculative.aded import Aded
from szilard.speculative.tree_search import best_first, greedy_chain, mcts
from szilard.speculative.trigram_table import TrigramTable
from tests.conftest import VOCAB, prompt_batch, tiny_model, tiny_tokenizer

SETTINGS = {"iterations": 150, "depth": 4, "keep": 24, "exploration": 32.0, "exploration_base": 8.0}


def run(model, inputs, method=None, **options):
    torch.manual_seed(3)
    settings = {"max_new_tokens": 24, "do_sample": False, "return_dict_in_generate": True} | options
    return model.generate(**inputs, custom_generate=method, **settings)


def weights(table, a, b):
    return {token: pytest.approx(weight) for token, weight in zip(*table.row(a, b), strict=True)}


def test_counting_and_updating_the_worked_example():
    table = TrigramTable.from_ids([[1, 2, 3, 1, 2, 4, 1, 2, 3], [1, 2]], 10)
    expected = {(1, 2): {3: 2 / 3, 4: 1 / 3}, (2, 3): {1: 1}, (3, 1): {2: 1}, (2, 4): {1: 1}, (4, 1): {2: 1}}
    assert {pair: weights(table, *pair) for pair in expected} == expected and len(table) == 5
    assert table.row(5, 1) == ((), ())
    table.update([5, 1, 2, 3, 1, 2])
    assert weights(table, 1, 2) == {3: 2 / 3 + 0.04, 4: 1 / 3} and weights(table, 2, 3) == {1: 1.04}
    assert weights(table, 3, 1) == {2: 1.04} and weights(table, 5, 1) == {2: 0.04} and len(table) == 6


def test_an_update_stops_at_the_cap():
    table = TrigramTable.empty(10)
    for _ in range(80):
        table.update([1, 2, 3])
    assert weights(table, 1, 2) == {3: 3.0}


def test_rows_are_cut_to_their_heaviest_successors_with_ties_by_id():
    sequences = [[0, 1, 2 + n] for n in range(6) for _ in range(6 - n // 2)]
    table = TrigramTable.from_ids(sequences, 20, top_k=3)
    tokens, values = table.row(0, 1)
    assert tokens == [2, 3, 4] and values == pytest.approx([6 / 30, 6 / 30, 5 / 30])


def test_the_order_of_the_corpus_and_its_pieces_do_not_matter(monkeypatch):
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 12, generator.integers(1, 40)).tolist() for _ in range(200)]
    whole = TrigramTable.from_ids(sequences, 12)
    monkeypatch.setattr("szilard.speculative.trigram_table._CHUNK", 50)
    pieces = TrigramTable.from_ids(sequences[::-1], 12)
    assert [whole.row(a, b) for a in range(12) for b in range(12)] == [
        pieces.row(a, b) for a in range(12) for b in range(12)
    ]


def test_memory_stays_within_its_bounds():
    table = TrigramTable.empty(1000, max_online_rows=50, max_successors_online=4)
    generator = np.random.default_rng(0)
    for _ in range(400):
        table.update(generator.integers(0, 40, 16).tolist())
        assert len(table._online) <= 50
    assert max(len(entries) for entries in table._online.values()) <= 4
    assert table.entries <= 200
    busy = TrigramTable.empty(1000, max_online_rows=2)
    for ids in ([1, 2, 3], [4, 5, 6], [1, 2, 3], [7, 8, 9]):
        busy.update(ids)
    assert busy.row(1, 2)[0] and not busy.row(4, 5)[0]  # the one that was not used for longest went


def test_a_saved_table_is_the_same_table_with_its_updates(tmp_path):
    table = TrigramTable.from_ids([[1, 2, 3, 1, 2, 4, 1, 2, 3]], 10)
    table.update([5, 1, 2, 9, 1])
    table.save(tmp_path / "table")
    table.save(tmp_path / "table")  # over itself
    loaded = TrigramTable.load(tmp_path / "table")
    pairs = [(a, b) for a in range(10) for b in range(10)]
    for pair in pairs:
        assert list(loaded.row(*pair)[0]) == list(table.row(*pair)[0])
        assert list(loaded.row(*pair)[1]) == pytest.approx(list(table.row(*pair)[1]))
    assert TrigramTable.load(tmp_path / "table", top_k=1).row(1, 2)[0] == [3]
    assert not list(tmp_path.glob(".*"))


def test_damaged_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no tri-gram table"):
        TrigramTable.load(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        TrigramTable.empty(10).save(tmp_path)
    folder = TrigramTable.from_ids([[1, 2, 3]], 10).save(tmp_path / "table")
    file = folder / "trigrams.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is damaged"):
        TrigramTable.load(folder)
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | {"version": 9}))
    with pytest.raises(ValueError, match="has version 9"):
        TrigramTable.load(folder)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        TrigramTable.from_ids([[1, 2, 10]], 10)


def test_a_method_refuses_a_folder_without_a_table(tmp_path):
    with pytest.raises(ValueError, match="holds no tri-gram table"):
        Aded(table=str(tmp_path / "none")).check()
    folder = TrigramTable.from_ids([[1, 2, 3]], 10).save(tmp_path / "table")
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | {"vocab_size": 3}))
    with pytest.raises(ValueError, match="outside its vocabulary"):
        Aded(table=str(folder)).check()


def test_an_overlay_keeps_its_updates_to_itself():
    table = TrigramTable.from_ids([[1, 2, 3]], 10)
    above = table.overlay()
    above.update([1, 2, 4])
    assert weights(above, 1, 2) == {3: 1.0, 4: 0.04} and weights(table, 1, 2) == {3: 1.0}


def test_the_search_visits_in_proportion_to_the_weights():
    rows = {(0, 1): ((2, 3, 4), (0.6, 0.3, 0.1))}
    found = mcts(lambda a, b: rows.get((a, b), ((), ())), 0, 1, **SETTINGS | {"keep": 3}, random=Random(0))
    assert found == [(2,), (3,), (4,)]
    from szilard.speculative import tree_search

    visits = []
    original = tree_search._collect
    try:
        tree_search._collect = lambda node, path, into: visits.extend(child.visits for child in node.children)
        tree_search.mcts(
            lambda a, b: rows.get((a, b), ((), ())), 0, 1, **SETTINGS | {"exploration": 1e6}, random=Random(0)
        )
    finally:
        tree_search._collect = original
    assert visits == [90, 45, 15]


def test_a_path_ends_in_the_likeliest_next_token():
    chain = {(n, n + 1): ((n + 2, 50), (0.9, 0.1)) for n in range(10)}
    found = mcts(lambda a, b: chain.get((a, b), ((), ())), 0, 1, **SETTINGS, random=Random(0))
    assert (2, 3, 4, 5) in found and max(map(len, found)) == 4
    assert greedy_chain(lambda a, b: chain.get((a, b), ((), ())), 0, 1, depth=3) == [(2, 3, 4)]


def test_best_first_takes_the_largest_products():
    rows = {(0, 1): ((2, 3), (0.6, 0.4)), (1, 2): ((5, 6), (0.9, 0.1)), (1, 3): ((7,), (1.0,))}
    found = best_first(lambda a, b: rows.get((a, b), ((), ())), 0, 1, max_nodes=4, depth=4)
    assert found == [(2,), (2, 5), (3,), (3, 7)]


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("search", ["mcts", "best_first", "greedy"])
def test_the_table_and_the_seed_never_change_the_text(rows, search):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    plain = run(model, inputs)
    generator = np.random.default_rng(1)
    noise = TrigramTable.from_ids(generator.integers(3, VOCAB, (40, 60)).tolist(), VOCAB)
    knows = TrigramTable.from_ids(plain.sequences.tolist(), VOCAB)
    for table, seed in ((noise, 0), (noise, 9), (knows, 0), (None, 0)):
        out = run(model, inputs, Aded(table, search=search, seed=seed, observe_prompt=True))
        assert torch.equal(out.sequences, plain.sequences)
    assert run(model, inputs, Aded(knows, search=search)).cost.counters["accepted"] > 5 * rows


def test_a_second_run_is_faster_unless_updates_are_kept_apart():
    model, inputs = tiny_model("llama"), prompt_batch(2)
    for share, grows in ((True, True), (False, False)):
        table = TrigramTable.empty(VOCAB)
        method = Aded(table, share_updates=share)
        first, second = (run(model, inputs, method).cost.counters for _ in range(2))
        assert (second["accepted"] > first["accepted"]) is grows
        assert bool(len(table)) is grows


def test_sampling_with_one_row_draws_the_same_tokens():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    options = {"do_sample": True, "temperature": 0.8}
    plain = run(model, inputs, **options)
    out = run(model, inputs, Aded(TrigramTable.from_ids(plain.sequences.tolist(), VOCAB)), **options)
    assert torch.equal(out.sequences, plain.sequences) and out.cost.counters["accepted"] > 0


def test_a_table_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocabulary of 500, but"):
        run(tiny_model("llama"), prompt_batch(1), Aded(TrigramTable.empty(500)))


def test_a_table_of_another_tokenizer_is_refused_and_an_empty_one_becomes_the_models(tmp_path):
    model = tiny_model("llama")
    engine = TransformersEngine(model, tiny_tokenizer())
    table = TrigramTable.empty(VOCAB)
    engine.generate("w3 w4", Aded(table), max_new_tokens=8)
    assert table.spelling
    again = TrigramTable.load(table.save(tmp_path / "table"))
    assert again.spelling == table.spelling and len(again) == len(table)
    engine.generate("w3 w4", Aded(again), max_new_tokens=4)
    other = TrigramTable.from_ids([[1, 2, 3]], VOCAB, spelling=[1, 2, 3])
    with pytest.raises(ValueError, match="another tokenizer"):
        engine.generate("w3 w4", Aded(other), max_new_tokens=4)
