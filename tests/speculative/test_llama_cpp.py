"""Draft trees on llama.cpp: a sequence per branch."""

import pytest
import torch

import szilard
from szilard.speculative.prompt_lookup import PromptLookup
from tests.conftest import embedded_installed
from tests.speculative.drafters import Replay

pytestmark = pytest.mark.skipif(not embedded_installed(), reason="the embedded model is not installed")

PROMPTS = ["The capital of France is", "One, two, three, four,", "Hello"]


@pytest.fixture(scope="module")
def engine():
    return szilard.load(engine="llama.cpp")


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("length", "siblings"), [(3, 0), (4, 4), (0, 5)])
def test_greedy_is_unchanged_by_any_tree(engine, rows, length, siblings):
    plain = engine.generate(PROMPTS[:rows], raw=True, max_new_tokens=20)
    method = Replay([r.tokens for r in plain], length, siblings, engine.vocab_size)
    out = engine.generate(PROMPTS[:rows], method, raw=True, max_new_tokens=20)
    assert [r.tokens for r in out] == [r.tokens for r in plain]
    if length:
        assert out[0].cost.counters["accepted"] > 0


def test_prompt_lookup_copies(engine):
    prompt = "a b c d e f g h a b c d e f g h a b c d"
    plain = engine.generate(prompt, raw=True, max_new_tokens=24)
    out = engine.generate(prompt, PromptLookup(), raw=True, max_new_tokens=24)
    assert out.tokens == plain.tokens
    assert out.cost.counters["target_forwards"] < 12


def test_the_logits_of_a_node_are_those_of_its_path(engine):
    from szilard.speculative.tree import DraftTree

    state = engine.state(PROMPTS, raw=True)
    state.commit(state.choose(state.prefill()))
    tree = DraftTree.from_paths(state.tokens[:, -1], [[[50, 60, 70], [50, 80], [90]], [[9]], [[7], [8, 5]]])
    fork = state.fork(1)
    logits = state.feed(tree=tree)
    for node, path in {2: [50, 60], 4: [50, 80], 5: [90]}.items():
        alone = fork.fork(1, torch.tensor([0]))
        ids = torch.tensor([[int(state.tokens[0, -1]), *path]])
        expected = alone.feed(ids)[0, -1]
        alone.close()
        torch.testing.assert_close(logits[0, node], expected, atol=2e-2, rtol=1e-2)
    state.keep(torch.tensor([[0, 1, 4], [0, 1, -1], [0, -1, -1]]), torch.tensor([3, 2, 1]))
    assert state.cached.tolist() == [
        length + more for length, more in zip(fork.cached.tolist(), (3, 2, 1), strict=True)
    ]
