"""What is counted is what was written, and what cannot run is cut or refused before it does."""

import copy

import pytest
import torch

import szilard
from szilard.engines import step_profile
from szilard.engines.pair import companion
from szilard.engines.step_profile import StepProfile
from szilard.speculative.chimera.method import Chimera
from szilard.speculative.drafter import Drafter, speculative_decode
from szilard.speculative.lud.method import Lud
from szilard.speculative.tree import SMALL_TREE, DraftTree, TreeShape
from szilard.speculative.trigram_table import TrigramTable
from tests.conftest import prompt_batch, tiny_model
from tests.speculative.drafters import Replay
from tests.speculative.test_chimera import random_drafter
from tests.speculative.test_lossless import answers, run
from tests.speculative.test_lud import untuned
from tests.speculative.test_medusa import random_heads


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("place", [3, 5, 6])
@pytest.mark.parametrize("trace", [False, True])
def test_drafts_behind_an_end_do_not_count(rows, place, trace):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    known = answers(run(model, inputs), inputs)
    end = known[0][place]
    width = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": end, "return_dict_in_generate": True}
    torch.manual_seed(3)
    out = model.generate(**inputs, custom_generate=Replay(known, length=4), **options)
    written = 0
    for row in out.sequences[:, width:].tolist():
        written += row.index(end) + 1 if end in row else len(row)
    counters = out.cost.counters
    assert written - rows == counters["row_steps"] + counters["accepted"]  # a row's first token comes with the prompt


def test_lud_counts_what_it_wrote_and_is_plain_at_one():
    model, adapter = untuned("llama")
    inputs = prompt_batch(2)
    plain = run(model, inputs)
    out = run(model, inputs, Lud(adapter=adapter, beta=1.0))
    assert torch.equal(out.sequences, plain.sequences)
    assert out.cost.counters["accepted"] == 0 and out.cost.counters["slots"] == out.cost.counters["row_steps"]
    end = answers(plain, inputs)[0][4]
    out = run(model, inputs, Lud(adapter=adapter, beta=0.0, stop_repeats=False), eos_token_id=end)
    width = inputs["input_ids"].shape[1]
    rows = out.sequences[:, width:].tolist()
    written = sum(row.index(end) + 1 if end in row else len(row) for row in rows)
    assert written - 2 == out.cost.counters["row_steps"] + out.cost.counters["accepted"]


def test_the_small_models_profile_is_found_whatever_its_role(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path))
    state = engine.state("w9 w10", trace=False)
    StepProfile("m", (1, 64), (1.0, 64.0)).save(state)
    assert step_profile.find(companion(engine, state, role="draft")) is not None


def test_the_first_nodes_of_a_grown_shape_are_the_best_shape_of_so_many():
    accuracy = [[0.6, 0.2, 0.1], [0.5, 0.1], [0.4]]
    whole = TreeShape.greedy(accuracy, 9).choices()
    for count in range(2, 9):
        assert TreeShape.greedy(accuracy, count).choices() == whole[: count - 1]
    ordered = SMALL_TREE.by_value([[0.5, 0.2, 0.1, 0.1], [0.9, 0.1, 0.1], [0.8, 0.1, 0.1], [0.7, 0.1, 0.1], [0.9, 0.1]])
    assert ordered.choices()[:5] == [(0,) * depth for depth in range(1, 6)]
    assert sorted(ordered.choices()) == sorted(SMALL_TREE.choices())
    strange = TreeShape.of([(0,), (1,), (0, 0)]).by_value([[0.1, 0.5], [1.0]])
    assert strange.choices() == [(1,), (0,), (0, 0)]  # parents first


def test_a_tree_is_cut_to_so_many_leaves():
    tree = DraftTree.from_paths(torch.tensor([3]), [[[1, 2], [1, 4], [5], [6, 7]]])
    assert [len(tree.truncate(max_leaves=count).leaves(0)) for count in (1, 2, 3, 9)] == [1, 2, 3, 4]
    assert tree.truncate(max_leaves=1).tokens.tolist() == [[3, 1, 2]]


class _Bushy(Drafter):
    def propose(self, state):
        return DraftTree.from_paths(state.tokens[:, -1], [[[token] for token in range(90)]] * state.batch_size)


def test_llama_cpp_gets_no_more_branches_than_it_has_sequences(tmp_path):
    pytest.importorskip("llama_cpp")
    from szilard.decoding.plain import plain_decode
    from szilard.engines.llama_cpp_model import LlamaModel
    from tests.speculative import tiny_gguf
    from tests.speculative.test_llama_cpp import written

    model = LlamaModel(tiny_gguf.write(tmp_path / "tiny.gguf"), "tiny", 1)
    found, counters = written(model, 4, lambda state: speculative_decode(state, _Bushy()))
    assert found == written(model, 4, plain_decode)[0]
    assert counters["nodes_verified"] > 200


def test_typical_acceptance_refuses_processors_that_forbid_tokens():
    model, inputs = tiny_model("llama"), prompt_batch(2)
    method = szilard.Medusa(drafter=random_heads(model).double(), acceptance="typical")
    with pytest.raises(ValueError, match=r"'typical' does not run with SuppressTokens"):
        run(model, inputs, method, suppress_tokens=[5, 6])
    run(model, inputs, method, do_sample=True, temperature=0.7, top_k=5)


def test_the_spine_of_any_shape_is_connected():
    model, drafter = tiny_model("llama"), random_drafter("llama", heads=3)
    shape = TreeShape.of([(0,), (1,), (0, 0), (1, 0), (1, 0, 0)])
    inputs = prompt_batch(2)
    out = run(model, inputs, Chimera(drafter=drafter, tree=shape))
    assert torch.equal(out.sequences, run(model, inputs).sequences)


def test_plain_transformers_refuses_a_drafter_of_other_weights():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    heads = random_heads(model).double()
    heads.base["fingerprint"] = "abc"
    with pytest.raises(ValueError, match="other weights"):
        run(model, inputs, szilard.Medusa(drafter=heads))


def test_a_loaded_table_knows_all_that_it_learned(tmp_path):
    table = TrigramTable.empty(50)
    for token in range(20):
        table.update([1, 2, token])
    assert len(TrigramTable.load(table.save(tmp_path / "table")).row(1, 2)[0]) == 20


def test_the_products_of_heads_are_counted():
    model, inputs = tiny_model("llama"), prompt_batch(2)
    heads = random_heads(model, depth=3).double()
    out = run(model, inputs, szilard.Medusa(drafter=heads))
    each = sum(weight.numel() for weight in heads.parameters()) * 2 + 3 * 2 * 97 * 32
    assert out.cost.extra_flops == 2 * each * out.cost.counters["draft_forwards"]


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_small_model_may_have_fewer_tokens(do_sample):
    model = tiny_model("llama")
    small = copy.deepcopy(model)
    small.resize_token_embeddings(50)
    inputs = prompt_batch(2)
    inputs["input_ids"] %= 50
    plain = run(model, inputs)
    assert int(plain.sequences.max()) >= 50  # the text holds what the small model does not know
    out = run(model, inputs, szilard.DraftModel(draft=small), do_sample=do_sample)
    assert do_sample or torch.equal(out.sequences, plain.sequences)
    assert out.cost.counters["draft_forwards"] > 0
