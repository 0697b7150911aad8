"""FiRST's training: what its gradients are, what it leaves alone, and that a stopped run goes on."""

from __future__ import annotations

import pytest
import torch
import yaml

import szilard
from szilard.attention.first.config import FirstConfig
from szilard.attention.first.routers import LayerRouters
from szilard.attention.first.training import BridgeObjective, RouterObjective, cross_entropy, mixed, train_first
from szilard.attention.layer_calls import around_layers
from szilard.cli.main import main
from szilard.training import low_rank
from szilard.training.target import Target
from tests.attention.routers import deciding_routers, fixed_routers
from tests.conftest import PAD, prompt_batch
from tests.speculative.test_medusa import counting, engine_of  # noqa: F401 - a fixture

SMALL = FirstConfig(steps=30, batch_size=4, window=40, learning_rate=0.03, save_every=10, held_out=0.1, alpha=0.05)


def batch():
    ids = prompt_batch(1)["input_ids"].repeat(2, 1)
    answer = torch.arange(ids.shape[1]).expand_as(ids) >= 5
    return {"ids": ids, "answer": answer, "valid": torch.ones_like(answer)}


def objective_of(routers, **options):
    target = Target(engine_of("llama"))
    return RouterObjective(target, routers, FirstConfig(protect="", **options), steps=9)


def test_the_loss_pulls_at_every_router_and_would_not_in_the_printed_form():
    routers = deciding_routers().double()
    objective = objective_of(routers, alpha=0.0, regulariser=0.0)
    objective(**batch())["loss"].backward()
    assert all(float(row.norm()) > 1e-4 for row in routers.weight.grad)
    routers.zero_grad()

    def printed(index, hidden, run):
        rho, part = routers.keep_probability(index, hidden)[..., None], run() - hidden
        return hidden + rho * part + (1 - rho) * part

    given = batch()
    with around_layers(objective.layers, printed):
        logits = objective.target.model(given["ids"], use_cache=False).logits
    cross_entropy(logits, given["ids"], given["answer"]).backward()
    assert float(routers.weight.grad.abs().max()) < 1e-12


def test_pressure_pulls_every_layer_down():
    routers = deciding_routers().double()
    objective = objective_of(routers, alpha=20.0, regulariser=0.0, binarise="off")
    before = float(objective(**batch())["kept"])
    optimiser = torch.optim.SGD([routers.bias], lr=0.3)
    for _ in range(5):
        optimiser.zero_grad()
        objective(**batch())["loss"].backward()
        optimiser.step()
    assert float(objective(**batch())["kept"]) < before - 0.1


@pytest.mark.parametrize("probabilities", [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
def test_gates_of_0_and_1_are_layers_skipped_in_the_prompt_too(llama, probabilities):
    routers = fixed_routers(probabilities).double()
    with torch.no_grad():
        routers.bias.copy_(torch.where(torch.tensor(probabilities) > 0.5, 800.0, -800.0))
    ids = batch()["ids"]

    def gated(index, hidden, run):
        return mixed(hidden, run(), routers.keep_probability(index, hidden))

    objective = objective_of(routers)
    soft = objective.logits(ids, gated)
    with szilard.First(routers, prefill="skip", protect=())(llama) as run:
        hard = llama(ids).logits
    assert torch.allclose(soft, hard, atol=1e-10) and run.kept[0].tolist() == [p > 0.5 for p in probabilities]


@pytest.mark.parametrize("binarise", ["sequence", "token"])
def test_hard_gates_are_0_or_1_and_pass_gradients(binarise):
    objective = objective_of(deciding_routers().double(), binarise=binarise)
    rho = torch.tensor([[0.2, 0.9, 0.3], [0.8, 0.6, 0.4]], dtype=torch.double, requires_grad=True)
    gate = objective.gate(rho, torch.ones(2, 3, dtype=torch.bool), hard=True)
    wanted = [[0.0], [1.0]] if binarise == "sequence" else [[0, 1, 0], [1, 1, 0]]
    assert torch.allclose(gate, torch.tensor(wanted).double())
    gate.sum().backward()
    assert bool((rho.grad > 0).all())


def test_the_pressure_adapts_to_the_wanted_rate():
    objective = objective_of(deciding_routers().double(), alpha=0.5, target_rate=0.34, alpha_step=0.1, binarise="off")
    skipped = float(objective(**batch())["skipped"])
    assert float(objective.alpha) == pytest.approx(0.5 + 0.1 * (0.34 - skipped))


def test_routers_are_trained_and_a_stopped_training_goes_on(tmp_path, counting, monkeypatch):  # noqa: F811
    engine = engine_of("llama")
    untouched = [parameter.clone() for parameter in engine.model.parameters()]
    whole = train_first(engine, counting, SMALL, tmp_path / "whole")
    assert all(torch.equal(*pair) for pair in zip(untouched, engine.model.parameters(), strict=True))
    assert "forward" not in {name for module in engine.model.modules() for name in vars(module)}
    forward, calls = RouterObjective.forward, []

    def stop(self, **given):
        calls.append(1)
        if len(calls) == 16:
            raise KeyboardInterrupt
        return forward(self, **given)

    monkeypatch.setattr(RouterObjective, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        train_first(engine, counting, SMALL, tmp_path / "cut")
    assert train_first(engine, counting, SMALL, tmp_path / "cut") == whole and len(calls) == 16 + 20
    made = [LayerRouters.from_pretrained(tmp_path / name) for name in ("whole", "cut")]
    assert made[0].fingerprint == made[1].fingerprint and bool(made[0].weight.any())
    method = szilard.First(routers=str(tmp_path / "whole"), rate=0.34)
    result = engine.generate("w10 w11", attention=method, max_new_tokens=8, suppress_tokens=[PAD])
    assert result.cost.counters["layers_run_share"] == pytest.approx(2 / 3)


def test_bridges_lower_the_loss_of_skipping_and_come_with_the_routers(tmp_path, counting):  # noqa: F811
    config = FirstConfig(steps=20, batch_size=4, window=40, save_every=10, held_out=0.1, target_rate=0.34, lora=True)
    engine = engine_of("llama")
    before = engine.model(torch.tensor([[5, 6, 7]])).logits
    bridged = train_first(
        engine, counting, FirstConfig(**{**vars(config), "lora_learning_rate": 0.01}), tmp_path / "out"
    )
    assert torch.equal(before, engine.model(torch.tensor([[5, 6, 7]])).logits)
    alone = yaml.safe_load((tmp_path / "out/routers/held-out.yaml").read_text())
    assert bridged["nll"] < alone["nll"] - 0.5 and bridged["skipped"] == pytest.approx(1 / 3)
    made = LayerRouters.from_pretrained(tmp_path / "out")
    assert made.tuned is not None and made.base["fingerprint"] == engine.fingerprint
    with szilard.First(made, rate=0.34)(engine.model):
        assert not torch.equal(before, engine.model(torch.tensor([[5, 6, 7]])).logits)
    assert torch.equal(before, engine.model(torch.tensor([[5, 6, 7]])).logits)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_kept_changes_are_those_that_were_trained(architecture):
    target = Target(engine_of(architecture))
    objective = BridgeObjective(target, deciding_routers(), FirstConfig(target_rate=0.34, rank=2))
    ids = batch()["ids"]
    try:
        with torch.no_grad():
            for parameter in objective.tuned:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
            inside = target.model(ids).logits
        made = objective.add_on(target.base)
    finally:
        low_rank.remove(target.model)
    with made.applied(target.model):
        assert torch.allclose(target.model(ids).logits, inside, atol=1e-5)


def test_the_command_trains_and_writes(tmp_path, counting, model_folder, capsys):  # noqa: F811
    out = tmp_path / "out"
    options = ["--steps", "2", "--batch-size", "2", "--window", "40", "--log-every", "1", "--save-every", "1"]
    code = main(["train", "first", "--data", str(counting), "-o", str(out), "--model", model_folder, *options])
    assert code == 0, capsys.readouterr().err
    assert LayerRouters.from_pretrained(out).layers == 3
    assert main(["train", "first", "--data", str(counting), "-o", str(out), "--protect", "a,b"]) == 2
    assert "protect must be layer numbers" in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused(tmp_path, counting):  # noqa: F811
    with pytest.raises(ValueError, match="lies beyond the 3 layers"):
        train_first(engine_of("llama"), counting, FirstConfig(steps=2, window=40, protect="0,7"), tmp_path / "a")
    with pytest.raises(ValueError, match="protect leaves 1"):
        train_first(engine_of("llama"), counting, FirstConfig(steps=2, window=40, target_rate=0.9), tmp_path / "b")
