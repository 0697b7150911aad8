"""Draft trees on llama.cpp: a sequence per branch."""

import pytest
import torch
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import MaxLengthCriteria

pytest.importorskip("llama_cpp")

from szilard.decoding.plain import plain_decode
from szilard.engines.llama_cpp_model import LlamaModel
from szilard.engines.llama_cpp_state import LlamaCppState
from szilard.speculative.aded import Aded
from szilard.speculative.prompt_lookup import PromptLookup
from szilard.speculative.tree import DraftTree
from tests.conftest import prompt_batch
from tests.speculative import tiny_gguf
from tests.speculative.drafters import Replay


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return LlamaModel(tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf"), "tiny", 1)


def opened(model, rows, *, new=24):
    inputs = prompt_batch(rows)
    limit = MaxLengthCriteria(inputs["input_ids"].shape[1] + new)
    return LlamaCppState(
        model, inputs["input_ids"], inputs["attention_mask"], stopping_criteria=StoppingCriteriaList([limit])
    )


def written(model, rows, decode):
    state = opened(model, rows)
    decode(state)
    state.close()
    return state.generated_tokens(), state.cost.counters


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("length", "siblings"), [(0, 0), (3, 0), (4, 4), (0, 5)])
def test_greedy_is_unchanged_by_any_tree(model, rows, length, siblings):
    plain, _ = written(model, rows, plain_decode)
    found, counters = written(model, rows, Replay(plain, length, siblings).decode)
    assert found == plain
    assert counters["accepted"] > 0 or not length


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("method", [Aded(), PromptLookup()])
def test_drafters_leave_the_text_alone(model, rows, method):
    assert written(model, rows, method.decode)[0] == written(model, rows, plain_decode)[0]


def test_the_logits_of_a_node_are_those_of_its_path_and_the_kept_path_is_the_cache(model):
    state = opened(model, 3, new=60)
    state.commit(state.choose(state.prefill()))
    for step in range(5):
        tree = DraftTree.from_paths(state.tokens[:, -1], [[[5, 6, 7], [5, 8], [9]], [[9, 9]], [[7], [8, 5, 5, 6]]])
        before = state.fork(1)
        logits = state.feed(tree=tree)
        for row in range(3):
            for node in range(int(tree.size[row])):
                alone = before.fork(1, torch.tensor([row]))
                expected = alone.feed(tree.tokens[row, tree.path(row, node)][None])[0, -1]
                alone.close()
                torch.testing.assert_close(logits[row, node], expected, atol=1e-4, rtol=1e-4)
        before.close()
        path = torch.tensor([[0, 1, 4 if step % 2 else 2], [0, 1, -1], [0, -1, -1]])
        counts = torch.tensor([3, 2, 1])
        state.keep(path, counts)
        kept = torch.gather(tree.tokens, 1, path.clamp(min=0))
        state.commit(torch.cat([kept[:, 1:], torch.full((3, 1), 4)], 1).scatter(1, counts[:, None] - 1, 4), counts)
        assert state.cached.tolist() == (state.lengths - 1).tolist()
    after = state.feed(state.tokens[:, -1])[:, -1]
    for row in range(3):  # the same texts in caches of their own
        ids = state.tokens[row : row + 1, -int(state.lengths[row]) :]
        fresh = LlamaCppState(model, ids, torch.ones_like(ids))
        torch.testing.assert_close(after[row], fresh.prefill()[0], atol=1e-4, rtol=1e-4)
        fresh.close()
    state.close()


def test_a_tree_beyond_the_window_is_cut(model):
    state = opened(model, 1, new=244)
    Replay([[5] * 600], 6).decode(state)
    assert int(state.lengths[0]) == 255
    state.close()
