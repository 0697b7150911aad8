"""Flow matching on latents: the time shift, Euler's method, training that resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from szilard.information.frechet_distance import energy_distance
from szilard.representation.lv_rae.diffusion_transformer import LatentTransformer, PointNetwork
from szilard.representation.lv_rae.flow_matching import euler, flow_loss, shift_of, shifted
from szilard.representation.lv_rae.latent_diffusion import LatentFlow, train_latent_flow
from szilard.training.config import TrainingConfig

CONFIG = TrainingConfig(steps=12, batch_size=8, save_every=4, log_every=2, learning_rate=1e-2)


def test_the_time_shift_of_the_papers_latent() -> None:
    a = shift_of(16 * 16 * 768)
    assert a == pytest.approx(6.9282, abs=1e-4)
    found = shifted(torch.tensor([0.0, 1.0, 0.5, 0.25], dtype=torch.float64), a)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.87387, 0.69783]).double(), atol=1e-5, rtol=0)


def test_the_true_velocity_of_one_point_leads_there_in_any_number_of_steps() -> None:
    point = torch.tensor([1.0, -2.0, 0.5])

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (x - point) / t[:, None]

    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for steps, a in ((1, 1.0), (7, 4.0)):
        torch.testing.assert_close(euler(velocity, noise, steps, a), point.expand(5, 3), atol=1e-4, rtol=0)
    assert float(flow_loss(velocity, point.expand(4, 3), 2.0)) < 1e-6


def test_a_fresh_transformer_says_zero_and_learns_from_every_weight_but_the_gated_ones() -> None:
    network = LatentTransformer(8, width=16, depth=1, heads=2, head_width=24, head_depth=1)
    x = torch.randn(2, 6, 8)
    found = network(x, torch.tensor([0.2, 0.9]), (2, 3))
    assert found.shape == x.shape and float(found.detach().abs().max()) == 0
    found.sum().backward()
    assert float(network.out.weight.grad.abs().max()) >= 0
    with pytest.raises(ValueError, match="4 x heads"):
        LatentTransformer(8, width=18, depth=1, heads=2)


def test_a_flow_learns_two_clusters(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    data = torch.randn(1024, 3, generator=chance) * 0.1 + torch.tensor([2.0, 0.0, 5.0])
    data[::2] -= torch.tensor([4.0, 0.0, 0.0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = LatentFlow(PointNetwork(3, width=48, layers=3), (3,), decay=0.99)
    config = TrainingConfig(steps=250, batch_size=128, learning_rate=5e-3, save_every=250, log_every=50)
    train_latent_flow(flow, data, tmp_path, config, device="cpu")
    made = flow.sample(500, steps=30)
    assert energy_distance(made, data[:500]) < 0.15
    assert torch.equal(made, flow.sample(500, steps=30))
    assert float(made.mean(0)[2]) == pytest.approx(5, abs=0.2)  # de-standardised


def test_a_stopped_flow_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.randn(40, 4, 8, generator=torch.Generator().manual_seed(0))

    def fresh() -> LatentFlow:
        torch.manual_seed(0)
        return LatentFlow(LatentTransformer(8, width=16, depth=1, heads=2, head_width=16, head_depth=1), (4, 8))

    whole = fresh()
    rows = train_latent_flow(whole, data, tmp_path / "whole", CONFIG, device="cpu")
    original, calls = LatentFlow.forward, iter(range(100))

    def dying(self: LatentFlow, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        if next(calls) == 7:
            raise RuntimeError("killed")
        return original(self, latents)

    monkeypatch.setattr(LatentFlow, "forward", dying)
    with pytest.raises(RuntimeError, match="killed"):
        train_latent_flow(fresh(), data, tmp_path / "cut", CONFIG, device="cpu")
    monkeypatch.setattr(LatentFlow, "forward", original)
    again = fresh()
    assert [row["loss"] for row in train_latent_flow(again, data, tmp_path / "cut", CONFIG, device="cpu")] == [
        row["loss"] for row in rows
    ]
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


def test_latents_of_another_shape_are_refused() -> None:
    flow = LatentFlow(PointNetwork(3, 8, 2), (3,))
    with pytest.raises(ValueError, match=r"\[n, 3\]"):
        flow.standardise(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="steps"):
        flow.sample(2, steps=0)
