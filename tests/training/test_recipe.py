"""Stages hand over their best weights, freeze what they should, and resume exactly wherever they were killed."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from szilard.training.config import TrainingConfig
from szilard.training.loop import fit
from szilard.training.optimizers import SeveralOptimizers
from szilard.training.recipe import Stage, own_chance, run_recipe

CONFIG = TrainingConfig(steps=12, batch_size=4, save_every=4, log_every=2, learning_rate=0.05)


class Points(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        x = torch.randn(4, generator=torch.Generator().manual_seed(index))
        return {"x": x, "y": x.sum()}


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class Stop(Exception):
    pass


class Parts(nn.Module):
    """What the stages share; the readout is used under two names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1)
        self.again = self.second
        self.register_buffer("seen", torch.tensor(0))


class Regression(nn.Module):
    def __init__(self, parts, stop_at=None):
        super().__init__()
        self.parts, self.stop_at, self.calls = parts, stop_at, 0

    def forward(self, x, y):
        self.calls += 1
        if self.calls == self.stop_at:
            raise Stop
        self.parts.seen += 1
        error = self.parts.again(self.parts.first(x + 0.1 * torch.randn_like(x)))[:, 0] - y
        return {"loss": error.square().mean()}


def recipe(parts, *, stop_at=(None, None), evaluate=None, config=CONFIG, best="score"):
    def drawn(_):  # the draw makes sure that evaluations take nothing from the training's random numbers
        return {"score": -float(parts.second.weight.square().sum()) + float(torch.rand(1))}

    def stage(name, learns, stop):
        return Stage(
            name=name,
            config=config,
            objective=lambda: Regression(parts, stop),
            data=Points,
            collate=collate,
            learns=lambda parameter: learns in parameter,
            evaluate=evaluate or drawn,
            evaluate_every=3,
            best=best,
        )

    return [stage("one", "second", stop_at[0]), stage("two", "first", stop_at[1])]


def whole(tmp_path, **options):
    parts = Parts()
    return parts, run_recipe(recipe(parts, **options), tmp_path / "whole", device="cpu")


@pytest.mark.parametrize(
    ("stop_at", "best"), [((2, None), "score"), ((12, None), "score"), ((None, 6), None), ((None, 11), "score")]
)
def test_a_recipe_stopped_anywhere_goes_on_as_if_it_had_not_been(tmp_path, stop_at, best):
    expected_parts, expected = whole(tmp_path, best=best)
    with pytest.raises(Stop):
        run_recipe(recipe(Parts(), stop_at=stop_at, best=best), tmp_path / "cut", device="cpu")
    parts = Parts()
    found = run_recipe(recipe(parts, best=best), tmp_path / "cut", device="cpu")
    for name in ("one", "two"):
        assert found[name].evaluations == expected[name].evaluations
        assert found[name].best_step == expected[name].best_step
        losses = [[row["loss"] for row in result[name].metrics] for result in (found, expected)]
        assert losses[0] == losses[1] and len(losses[0]) == 6
    for one, other in zip(parts.state_dict().values(), expected_parts.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_weights_of_the_best_evaluation_are_handed_on(tmp_path):
    parts, kept = Parts(), {}

    def evaluate(_):
        step = len(kept)
        kept[step] = parts.second.weight.detach().clone()
        return {"score": [0.0, 1.0, 3.0, 2.0, 3.0][step] if step < 5 else 0.0}

    first = recipe(parts, evaluate=evaluate)[:1]
    result = run_recipe(first, tmp_path, device="cpu")["one"]
    assert [row["step"] for row in result.evaluations] == [0, 3, 6, 9, 12]
    assert result.best_step == 6  # the first of two equal ones
    assert torch.equal(parts.second.weight, kept[2]) and not torch.equal(kept[2], kept[4])


def test_a_stage_changes_what_it_learns_and_nothing_else(tmp_path):
    before, after = Parts(), Parts()
    run_recipe(recipe(after, best=None)[:1], tmp_path, device="cpu")
    assert torch.equal(before.first.weight, after.first.weight)
    assert not torch.equal(before.second.weight, after.second.weight)
    assert all(parameter.requires_grad for parameter in after.parameters())


def test_finished_stages_are_read_and_not_run_again(tmp_path):
    parts, _ = whole(tmp_path)
    again = Parts()
    run_recipe(recipe(again, stop_at=(1, 1)), tmp_path / "whole", device="cpu")
    assert torch.equal(again.first.weight, parts.first.weight)
    assert not (tmp_path / "whole" / "one" / "checkpoints").exists()


def test_a_resumed_recipe_may_save_at_other_steps(tmp_path):
    _, expected = whole(tmp_path)
    with pytest.raises(Stop):
        run_recipe(recipe(Parts(), stop_at=(9, None)), tmp_path / "stopped", device="cpu")
    rarer = replace(CONFIG, save_every=6)
    found = run_recipe(recipe(Parts(), config=rarer), tmp_path / "stopped", device="cpu")
    assert found["one"].metrics == expected["one"].metrics


def test_other_settings_are_refused_before_any_stage_works(tmp_path):
    with pytest.raises(Stop):
        run_recipe(recipe(Parts(), stop_at=(7, None)), tmp_path, device="cpu")
    stages = recipe(Parts(), stop_at=(1, 1))
    with pytest.raises(ValueError, match="other settings"):
        run_recipe([replace(stages[0], config=replace(CONFIG, learning_rate=0.1)), stages[1]], tmp_path, device="cpu")
    with pytest.raises(Stop):  # forgotten, it begins anew
        run_recipe(
            [replace(stages[0], config=replace(CONFIG, learning_rate=0.1))], tmp_path, resume=False, device="cpu"
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "two"}, "different names"),
        ({"learns": lambda name: False}, "nothing learns"),
        ({"best": "accuracy"}, "gives no 'accuracy' but step, score"),
    ],
)
def test_a_wrong_recipe_is_said(tmp_path, change, sentence):
    stages = recipe(Parts())
    with pytest.raises(ValueError, match=sentence):
        run_recipe([replace(stages[0], **change), stages[1]], tmp_path, device="cpu")


def test_best_without_an_evaluation_is_refused():
    with pytest.raises(ValueError, match="evaluates nothing"):
        Stage("one", CONFIG, Parts, Points, collate, best="score")


def test_evaluations_leave_no_trace_in_the_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with own_chance(5):
        drawn = torch.rand(3)
    with own_chance(5):
        assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(torch.rand(2), expected)


class TwoWays(Regression):
    """The first layer by plain SGD, the second by the loop's AdamW; the second's bias neither decays nor is fast."""

    def optimizer_of(self, name):
        return "sgd" if ".first." in name else ""

    @property
    def optimizers(self):
        return {"sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9)}

    def learning_rate_of(self, name):
        return 0.01 if name.endswith("bias") else 0.05

    def weight_decay_of(self, name):
        return 0.0 if name.endswith("bias") else 0.1


def test_several_optimisers_step_as_they_would_alone(tmp_path):
    config = replace(CONFIG, batch_size=40, steps=5, save_every=5, log_every=1, schedule="constant", warmup=0.0)
    quiet = Parts()
    plain = Parts()
    loops = [torch.optim.SGD, torch.optim.AdamW]
    made = []
    for layer, kind in zip((plain.first, plain.second), loops, strict=True):
        extra = {"momentum": 0.9} if kind is torch.optim.SGD else {"eps": 1e-8}
        groups = [
            {"params": [layer.weight], "lr": 0.05, "weight_decay": 0.1},
            {"params": [layer.bias], "lr": 0.01, "weight_decay": 0.0},
        ]
        made.append(kind(groups, **extra))

    class Still(TwoWays):
        def forward(self, x, y):
            return {"loss": (self.parts.again(self.parts.first(x))[:, 0] - y).square().mean()}

    batch = collate([Points()[index] for index in range(40)])
    for _ in range(5):
        Still(plain)(**batch)["loss"].backward()
        nn.utils.clip_grad_norm_(plain.parameters(), config.max_grad_norm)
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad()
    fit(Still(quiet), Points(), config, tmp_path, collate=collate, device="cpu")
    for one, other in zip(quiet.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_several_optimisers_resume_exactly(tmp_path):
    expected = Parts()
    fit(TwoWays(expected), Points(), CONFIG, tmp_path / "whole", collate=collate, device="cpu")
    with pytest.raises(Stop):
        fit(TwoWays(Parts(), stop_at=7), Points(), CONFIG, tmp_path / "cut", collate=collate, device="cpu")
    parts = Parts()
    fit(TwoWays(parts), Points(), CONFIG, tmp_path / "cut", collate=collate, device="cpu")
    assert torch.equal(parts.first.weight, expected.first.weight)
    assert torch.equal(parts.second.weight, expected.second.weight)


def test_an_optimiser_that_is_not_there_is_said(tmp_path):
    class Wrong(TwoWays):
        optimizers = property(lambda self: {})

    with pytest.raises(ValueError, match="no optimiser 'sgd'"):
        fit(Wrong(Parts()), Points(), CONFIG, tmp_path, collate=collate, device="cpu")


def test_rates_that_a_schedule_writes_reach_every_member():
    parts = Parts()
    several = SeveralOptimizers(
        {"a": torch.optim.SGD(parts.first.parameters(), lr=1.0), "b": torch.optim.AdamW(parts.second.parameters())}
    )
    several.load_state_dict(json.loads(json.dumps(several.state_dict())))
    for group in several.param_groups:
        group["lr"] = 0.5
    assert all(group["lr"] == 0.5 for one in several.members.values() for group in one.param_groups)
