"""Drafters that rest for some steps draft afterwards as if they had not, and rest where drafts do not pay."""

import pytest
import torch

import szilard
from szilard.engines.step_profile import StepProfile
from szilard.speculative import drafter as loop
from szilard.speculative.budget import NodeBudget
from szilard.speculative.drafter import Drafter
from szilard.speculative.hidden_transfer.projections import HiddenTransferProjections
from szilard.speculative.medusa.heads import MedusaHeads
from szilard.speculative.tree import DraftTree
from szilard.training.target import Target
from tests.conftest import prompt_batch, tiny_model
from tests.speculative import test_chimera, test_flash
from tests.speculative.test_lossless import run
from tests.speculative.test_medusa import engine_of

FREE = StepProfile("m", (1, 8, 64), (1.0, 1.0, 1.0))


def randomised(add_on):
    torch.manual_seed(4)
    for parameter in add_on.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return add_on.double().eval()


def methods(name):
    base = Target(engine_of("llama")).base
    if name == "medusa":
        return szilard.Medusa(drafter=randomised(MedusaHeads(base=base, depth=3)))
    if name == "chimera":
        return szilard.Chimera(drafter=test_chimera.random_drafter("llama"))
    if name == "flash":
        return szilard.Flash(drafter=test_flash.random_drafter("llama"), rounds=2)
    if name == "hidden-transfer":
        return szilard.HiddenTransfer(drafter=randomised(HiddenTransferProjections(base=base, layers=[2, 1])))
    return szilard.DraftModel(draft=engine_of("qwen2"), draft_tokens=3)


class Scripted(NodeBudget):
    """Rests by a script, and notes the tree of every proposal under the length of its text."""

    def __init__(self, script):
        super().__init__(FREE)
        self.script, self.step, self.trees = script, 0, {}

    def rests(self, rows):
        self.step += 1
        self.rested = bool(self.script) and self.script[(self.step - 1) % len(self.script)]
        return self.rested


def trees_of(method, inputs, script, monkeypatch):
    budget = Scripted(script)
    monkeypatch.setattr(NodeBudget, "of", classmethod(lambda cls, *arguments, **options: budget))
    propose = loop._proposed

    def noted(state, drafter, budget, running):
        tree = propose(state, drafter, budget, running)
        if not budget.rested:
            for row, length in enumerate(state.lengths.tolist()):
                size = int(tree.size[row])
                budget.trees[row, length] = tree.tokens[row, :size].tolist(), tree.parent[row, :size].tolist()
        return tree

    monkeypatch.setattr(loop, "_proposed", noted)
    out = run(tiny_model("llama"), inputs, method, eos_token_id=None)
    monkeypatch.setattr(loop, "_proposed", propose)
    return out, budget.trees


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["medusa", "chimera", "flash", "draft-model", "hidden-transfer"])
def test_drafts_after_a_rest_are_those_without_one(name, rows, monkeypatch):
    inputs = prompt_batch(rows)
    plain = run(tiny_model("llama"), inputs, eos_token_id=None)
    _, known = trees_of(methods(name), inputs, [], monkeypatch)
    out, trees = trees_of(methods(name), inputs, [False, True, False, False, True, True, True], monkeypatch)
    assert torch.equal(out.sequences, plain.sequences)
    assert out.cost.counters["draft_rests"] >= 4
    both = {place for place in trees.keys() & known.keys() if len(trees[place][0]) > 1}  # (those cut by a limit differ)
    assert len(both) >= 3
    for place in both:
        length = min(len(trees[place][0]), len(known[place][0]))
        assert all(mine[:length] == base[:length] for mine, base in zip(trees[place], known[place], strict=True))


def fed(budget, nodes, kept, seconds, steps):
    """Steps of one row that keeps `kept` of `nodes` drafted tokens; how many went without drafts."""
    from szilard.speculative.verify import Verdict

    rests = 0
    for _ in range(steps):
        if budget.rests(1):
            rests += 1
            continue
        tree = DraftTree.chain(torch.tensor([5]), [list(range(nodes))])
        budget.drafted(seconds, nodes)
        path = torch.arange(kept + 1)[None]
        budget.observe(budget.cut(tree, 1), Verdict(path, torch.tensor([kept + 1]), torch.zeros_like(path)), _RUNNING)
    return rests


_RUNNING = torch.tensor([True])


def test_who_drafts_in_vain_rests_longer_and_longer():
    assert fed(NodeBudget(FREE), 3, kept=0, seconds=0.5, steps=300) > 240


def test_drafts_that_pay_and_cheap_ones_never_rest():
    assert fed(NodeBudget(FREE), 3, kept=3, seconds=0.5, steps=100) == 0
    assert fed(NodeBudget(FREE), 3, kept=0, seconds=0.001, steps=100) == 0


def test_a_rest_ends_when_drafts_begin_to_pay():
    budget = NodeBudget(FREE)
    fed(budget, 3, kept=0, seconds=0.5, steps=200)
    assert fed(budget, 3, kept=3, seconds=0.5, steps=200) < 100


def test_measured_chances_are_the_first_estimate():
    budget = NodeBudget(FREE, [0.9, 0.1])
    assert budget.chances(3) == pytest.approx([0.9, 0.1, 0.5 / 3**0.5])
    assert NodeBudget(StepProfile("m", (1, 64), (1.0, 19.9)), [0.9, 0.1]).nodes(2, rows=1) == 1


def test_the_published_tree_knows_its_chances():
    heads = MedusaHeads(base=Target(engine_of("llama")).base, depth=2)
    assert szilard.Medusa(drafter=heads).chances(heads) == []
    heads.accuracy[0, :2], heads.accuracy[1, :2] = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.125])
    method = szilard.Medusa(drafter=heads, max_nodes=4)
    assert method.shape(heads).choices() == [(0,), (1,), (0, 0), (1, 0)]
    assert method.chances(heads) == pytest.approx([0.5, 0.25, 0.25, 0.125])


def test_most_drafters_have_nothing_to_do_while_they_rest():
    class Silent(Drafter):
        def propose(self, state):
            raise AssertionError

    state = engine_of("llama").state("w9 w10", trace=False)
    state.commit(state.choose(state.prefill()))
    assert Silent().rest(state).tokens.tolist() == state.tokens[:, -1:].tolist()
