"""The loop resumes exactly, loses no more than an interval, and says what it cannot do."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from szilard.training.config import TrainingConfig, read_config
from szilard.training.loop import fit, last_checkpoint, read_metrics

ROOT = Path(__file__).parents[2]


class Points(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        x = torch.randn(4, generator=torch.Generator().manual_seed(index))
        return {"x": x, "y": x.sum()}


class Line(nn.Module):
    """A regression with noise on its input, so that a resumed run must have the draws, too."""

    def __init__(self, stop_at=None, how=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)
        self.calls, self.stop_at, self.how = 0, stop_at, how

    def forward(self, x, y):
        self.calls += 1
        if self.calls == self.stop_at:
            self.how()
        error = self.layer(x + 0.1 * torch.randn_like(x))[:, 0] - y
        return {"loss": error.square().mean(), "bias": error.mean()}


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


CONFIG = TrainingConfig(steps=20, batch_size=4, save_every=4, log_every=2, learning_rate=0.05)


def _stop():
    raise KeyboardInterrupt


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole = Line()
    expected = fit(whole, Points(), CONFIG, tmp_path / "whole", collate=collate, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        fit(Line(11, _stop), Points(), CONFIG, tmp_path / "cut", collate=collate, device="cpu")
    resumed = Line()
    found = fit(resumed, Points(), CONFIG, tmp_path / "cut", collate=collate, device="cpu")
    assert resumed.calls == 12  # from the checkpoint of step 8
    assert found == expected and [row["step"] for row in found] == list(range(2, 21, 2))
    assert found[-1]["loss"] < found[0]["loss"] and "bias" in found[0]
    assert torch.equal(whole.layer.weight, resumed.layer.weight)


def test_each_parameter_learns_at_the_rate_that_the_objective_gives_it(tmp_path):
    class Rated(Line):
        def learning_rate_of(self, name):
            return {"layer.weight": 0.05, "layer.bias": 0.0}[name]

    start, one = Line(), Rated()
    fit(one, Points(), CONFIG, tmp_path / "one", collate=collate, device="cpu")
    assert torch.equal(one.layer.bias, start.layer.bias)
    assert not torch.allclose(one.layer.weight, start.layer.weight)
    cut = Rated(stop_at=10, how=_stop)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, Points(), CONFIG, tmp_path / "cut", collate=collate, device="cpu")
    again = Rated()
    fit(again, Points(), CONFIG, tmp_path / "cut", collate=collate, device="cpu")
    assert torch.equal(again.layer.weight, one.layer.weight)


def test_a_killed_process_goes_on_from_its_last_checkpoint(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.training.test_loop import *\n"
        "fit(Line(11, lambda: os.kill(os.getpid(), signal.SIGKILL)), Points(), CONFIG, Path(sys.argv[1]), "
        "collate=collate, device='cpu')"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, timeout=240, cwd=ROOT)
    assert killed.returncode == -9
    half = tmp_path / "checkpoints" / "checkpoint-12"  # what a kill in the middle of saving leaves
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    found = fit(Line(), Points(), CONFIG, tmp_path, collate=collate, device="cpu")
    expected = fit(Line(), Points(), CONFIG, tmp_path / "whole", collate=collate, device="cpu")
    assert found == expected


def test_half_a_checkpoint_is_none(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    assert last_checkpoint(tmp_path) is None and not list(tmp_path.iterdir())


def test_a_cut_line_of_metrics_is_left_out(tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2')
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "loss": 2.0}]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    class Broken(Line):
        def forward(self, x, y):
            return {"loss": self.layer(x).sum() * float("nan")}

    with pytest.raises(ValueError, match="learning_rate"):
        fit(Broken(), Points(), CONFIG, tmp_path, collate=collate, device="cpu")


def test_nothing_to_train_on_is_said(tmp_path):
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(Line(), torch.utils.data.Subset(Points(), []), CONFIG, tmp_path, collate=collate)


def test_a_config_is_read_from_a_file_and_flags_go_before_it(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("learning-rate: 1e-4\nsteps: 30\nbatch_size: 2\n")
    config = read_config(TrainingConfig, file, {"steps": 40, "seed": None})
    assert (config.learning_rate, config.steps, config.batch_size, config.seed) == (1e-4, 40, 2, 0)
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert read_config(TrainingConfig, again, {}) == config


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rat: 1", "did you mean 'learning_rate'"),
        ("- 1", "name: value"),
        ("steps: many", "steps must be int or nothing"),
        ("batch_size: 0", "batch_size must be at least 1"),
        ("schedule: round", "schedule must be one of"),
        ("save_every: 7\nlog_every: 2", "multiple"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_config_is_refused_in_a_sentence(tmp_path, text, sentence):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises((ValueError, TypeError), match=sentence):
        read_config(TrainingConfig, tmp_path / "c.yaml", {})


# Accelerate shards on accelerators only: here a CPU passes for one.
FSDP_ON_CPU = (
    "import accelerate.state as state; from accelerate.utils import DistributedType as Kind\n"
    "begin = state.PartialState.__init__\n"
    "def began(self, *a, **k):\n"
    "    begin(self, *a, **k)\n"
    "    if self.distributed_type == Kind.MULTI_CPU: self.distributed_type = Kind.MULTI_GPU\n"
    "state.PartialState.__init__ = began\n"
)
FSDP = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize(
    "sharded", [pytest.param(False, id="DDP"), pytest.param(True, id="FSDP", marks=pytest.mark.slow)]
)
def test_two_processes_train_as_one_with_the_double_batch(tmp_path, sharded):
    """Two processes with 2 examples each take the gradient of 4. (The order of the data is the same.)"""
    script = (FSDP_ON_CPU if sharded else "") + (
        "import sys; from pathlib import Path; from tests.training.test_loop import *\n"
        "import dataclasses\n"
        "class Plain(Line):\n"
        "    def forward(self, x, y):\n"
        "        error = self.layer(x)[:, 0] - y\n"
        "        return {'loss': error.square().mean(), 'bias': error.mean()}\n"
        "line = Plain()\n"
        "config = dataclasses.replace(CONFIG, batch_size=int(sys.argv[2]))\n"
        "for steps in (8, 20):\n"  # the second part goes on from a checkpoint
        "    config = dataclasses.replace(config, steps=steps, schedule='constant', warmup=0.0)\n"
        "    fit(line, Points(), config, Path(sys.argv[1]), collate=collate, device='cpu')\n"
        f"if not {sharded}:\n"  # then two stages of a recipe, evaluated on the way
        "    from szilard.training.recipe import Stage, run_recipe\n"
        "    def score(_): return {'score': -float(line.layer.weight.sub(1).abs().sum())}\n"
        "    def stage(name):\n"
        "        whole = dict(evaluate=score, evaluate_every=6, best='score')\n"
        "        return Stage(name, config, lambda: line, Points, collate, **whole)\n"
        "    reached = run_recipe([stage('a'), stage('b')], Path(sys.argv[1]) / 'recipe', device='cpu')\n"
        "    assert [row['step'] for row in reached['b'].evaluations] == [0, 6, 12, 18, 20]\n"
        "if os.environ.get('RANK', '0') == '0': torch.save(line.state_dict(), sys.argv[1] + '/end.pt')\n"
    )
    file = tmp_path / "two.py"
    file.write_text(script)
    outcomes = []
    for name, batch, launcher in (
        ("one", 4, [sys.executable]),
        ("two", 2, [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        command = [*launcher, str(file), str(folder), str(batch)]
        settings = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        settings |= FSDP if sharded and name == "two" else {}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=settings)
        assert done.returncode == 0, done.stderr[-2000:]
        outcomes.append((torch.load(folder / "end.pt"), read_metrics(folder / "metrics.jsonl")))
    (one, alone), (two, together) = outcomes
    torch.testing.assert_close(two["layer.weight"], one["layer.weight"], atol=1e-5, rtol=1e-5)
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    assert together[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=1e-3)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_stepped_over(tmp_path, name):
    expected, again = Line(), Line()
    config = TrainingConfig(steps=9, batch_size=4, save_every=4, log_every=2, schedule="constant", warmup=0.0)
    fit(expected, Points(), config, tmp_path / "whole", collate=collate, device="cpu")
    fit(Line(), Points(), replace(config, steps=8), tmp_path / "cut", collate=collate, device="cpu")
    damaged = tmp_path / "cut" / "checkpoints" / "checkpoint-8" / name
    damaged.write_bytes(damaged.read_bytes()[:100])
    fit(again, Points(), config, tmp_path / "cut", collate=collate, device="cpu")
    assert again.calls == 5 and torch.equal(again.layer.weight, expected.layer.weight)


def test_a_finished_run_is_not_trained_on(tmp_path):
    first, again = Line(), Line()
    config = TrainingConfig(steps=7, batch_size=4, save_every=4, log_every=2, schedule="constant", warmup=0.0)
    found = fit(first, Points(), config, tmp_path, collate=collate, device="cpu")
    assert fit(again, Points(), config, tmp_path, collate=collate, device="cpu") == found
    assert again.calls == 0 and torch.equal(first.layer.weight, again.layer.weight)


def test_gradients_are_not_cut_while_they_are_scaled():
    with pytest.raises(ValueError, match="max_grad_norm"):
        TrainingConfig(precision="float16", max_grad_norm=0.0, max_grad_value=0.5)
