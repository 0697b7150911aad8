"""The node budget: chosen by measured costs and observed acceptance, without any effect on the text."""

import pytest
import torch

import szilard
from szilard.engines import step_profile
from szilard.engines.step_profile import StepProfile, measure
from szilard.speculative.budget import NodeBudget
from szilard.speculative.tree import DraftTree
from szilard.speculative.trigram_table import TrigramTable
from szilard.speculative.verify import Verdict

FREE = StepProfile("m", (1, 8, 64), (1.0, 1.0, 1.0))
DEAR = StepProfile("m", (1, 8, 64), (1.0, 8.0, 64.0))


def test_costs_between_measured_sizes_lie_on_a_line():
    profile = StepProfile("m", (1, 2, 4), (1.0, 2.0, 3.0))
    assert [profile(n) for n in (1, 2, 3, 4, 6)] == [1.0, 2.0, 2.5, 3.0, 4.0]


def test_all_nodes_where_they_are_free_and_none_where_each_costs_a_step():
    assert NodeBudget(FREE).nodes(20, rows=1) == 20
    assert NodeBudget(DEAR).nodes(20, rows=1) == 0


def test_what_is_accepted_is_verified_again():
    budget = NodeBudget(StepProfile("m", (1, 64), (1.0, 38.8)))  # 0.6 steps per node
    tree = DraftTree.chain(torch.tensor([5, 5]), [[1, 2, 3], [1, 2, 3]])
    running = torch.tensor([True, False])
    for _ in range(30):  # row 0 accepts two of three; the other row is finished and says nothing
        verdict = Verdict(torch.tensor([[0, 1, 2], [0, -1, -1]]), torch.tensor([3, 1]), torch.zeros(2, 3).long())
        budget.observe(tree, verdict, running)
    chances = budget.chances(3)
    assert chances[0] > 0.95 and chances[1] > 0.95 and chances[2] < 0.05
    assert budget.nodes(3, rows=1) == 2
    for _ in range(200):  # rejected from now on
        verdict = Verdict(torch.tensor([[0], [0]]), torch.tensor([1, 1]), torch.zeros(2, 1).long())
        budget.observe(tree, verdict, running)
    assert budget.nodes(3, rows=1) == 0


def test_a_profile_is_measured_kept_and_read_by_the_drafters(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path))
    state = engine.state("w9 w10", trace=False)
    assert step_profile.find(state) is None
    profile = measure(engine, sizes=(1, 2, 4), context=20, repeats=2)
    assert step_profile.find(state) == profile and list(profile.seconds) == sorted(profile.seconds)
    plain = engine.generate("w9 w10 w11", max_new_tokens=20)
    table = TrigramTable.from_ids([plain.tokens], engine.vocab_size)
    StepProfile("m", (1, 64), (1.0, 64.0)).save(state)  # every node costs a step: few are tried
    frugal = engine.generate("w9 w10 w11", method=szilard.Aded(table, update_increment=0.0), max_new_tokens=20)
    fixed = szilard.Aded(table, update_increment=0.0, budget="fixed")
    lavish = engine.generate("w9 w10 w11", method=fixed, max_new_tokens=20)
    assert frugal.tokens == lavish.tokens == plain.tokens
    assert frugal.cost.counters["nodes_verified"] < lavish.cost.counters["nodes_verified"]


def test_a_profile_needs_two_sizes(engine):
    with pytest.raises(ValueError, match="two sizes"):
        measure(engine, sizes=(4,))


def test_a_damaged_profile_is_none(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path))
    state = engine.state("w9 w10", trace=False)
    StepProfile("m", (1, 64), (1.0, 64.0)).save(state).write_text("{")
    assert step_profile.find(state) is None


def test_doctor_prints_the_profile(model_folder, tmp_path, monkeypatch, capsys):
    from szilard.cli.main import main

    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path))
    assert main(["doctor", "--profile", "--model", model_folder]) == 0
    assert "in steps of one" in capsys.readouterr().out
    assert len(list((tmp_path / "profiles").iterdir())) == 1


@pytest.mark.parametrize("value", ["sometimes", 3])
def test_a_wrong_budget_is_refused(value):
    with pytest.raises(ValueError, match="budget must be one of"):
        szilard.Aded(budget=value)


def test_a_draft_model_drafts_no_more_than_is_worth_it(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path))
    StepProfile("m", (1, 64), (1.0, 64.0)).save(engine.state("w9 w10", trace=False))
    plain = engine.generate("w9 w10 w11", max_new_tokens=20)
    for budget, nodes in (("auto", 2), ("fixed", 6)):
        method = szilard.DraftModel(draft=engine, draft_tokens=5, budget=budget)
        out = engine.generate("w9 w10 w11", method=method, max_new_tokens=20)
        assert out.tokens == plain.tokens
        counters = out.cost.counters
        assert counters["nodes_verified"] <= nodes * counters["target_forwards"]


def test_drafts_that_could_not_pay_if_all_were_accepted_are_known_beforehand():
    dear = NodeBudget(StepProfile("m", (1, 2, 64), (1.0, 1.9, 60.0)))
    assert dear.pays_at_best(4, 1)  # two tokens in the time of 1.9
    dear.per_node = 0.2
    assert not dear.pays_at_best(4, 1)
    assert not dear.pays_at_best(0, 1)


def test_a_draft_model_that_cannot_pay_never_reads_the_prompt(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path))
    state = engine.state("w8 w9", max_new_tokens=4)
    StepProfile("tiny", (1, 64), (1.0, 64.0)).save(state)  # every token costs a whole forward
    method = szilard.DraftModel(draft=engine, draft_tokens=5)
    result = engine.generate("w8 w9 w10", method, max_new_tokens=12)
    assert result.tokens == engine.generate("w8 w9 w10", max_new_tokens=12).tokens
    counters = result.cost.counters
    assert counters.get("draft_forwards", 0) == 0 and counters["accepted"] == 0
