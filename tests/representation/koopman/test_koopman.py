"""Koopman models: linear latents of nonlinear systems."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from szilard.representation.koopman.baselines import DmdForecast, EdmdForecast
from szilard.representation.koopman.config import KoopmanConfig
from szilard.representation.koopman.model import InformationKoopman, ridge_operator, turns_per_second
from szilard.representation.koopman.objective import KoopmanObjective
from szilard.representation.koopman.pictures import eigenvalue_picture, leading_plane, manifold_picture
from szilard.representation.koopman.systems import STEPS, trajectories
from szilard.representation.koopman.training import rollout_errors, train_koopman
from szilard.representation.koopman.windows import Windows

TINY = KoopmanConfig(steps=12, batch_size=8, window=8, save_every=2, log_every=2, evaluations=3, horizon=5)


def turning(sequences: int = 6, length: int = 30) -> torch.Tensor:
    """x_{n+1} = A x_n, a slow spiral."""
    angle = 0.3
    matrix = 0.98 * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    state, path = torch.randn(sequences, 2, generator=torch.Generator().manual_seed(0)), []
    for _ in range(length):
        path.append(state)
        state = state @ matrix.T
    return torch.stack(path, 1)


def small(**changes: object) -> InformationKoopman:
    torch.manual_seed(0)
    return InformationKoopman([2], 4, hidden=16, layers=1, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "width"), [(20, 3), (3, 3), (2, 5)])
def test_the_ridge_operator_is_the_same_in_both_its_forms(length: int, width: int) -> None:
    z = torch.randn(4, length + 1, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, after = z[:, :-1], z[:, 1:]
    gram = before.transpose(1, 2) @ before + 0.1 * torch.eye(width, dtype=torch.float64)
    primal = torch.linalg.solve(gram, before.transpose(1, 2) @ after).mean(0)
    torch.testing.assert_close(ridge_operator(before, after, 0.1), primal, rtol=1e-9, atol=1e-9)


def test_the_operator_of_a_linear_system_is_found() -> None:
    states = turning().double()
    found = ridge_operator(states[:, :-1], states[:, 1:], 1e-12).T
    values = torch.linalg.eigvals(found)
    assert values.abs().tolist() == pytest.approx([0.98, 0.98], abs=1e-6)
    assert sorted(turns_per_second(values, 0.1).tolist()) == pytest.approx([-0.3 / 0.2 / math.pi, 0.3 / 0.2 / math.pi])


def test_no_gradient_runs_through_the_ridge_operator() -> None:
    z = torch.randn(2, 6, 3, requires_grad=True)
    assert not ridge_operator(z[:, :-1], z[:, 1:]).requires_grad


@pytest.mark.parametrize("operator", ["ridge", "learned"])
def test_without_information_terms_it_is_a_plain_koopman_autoencoder_to_the_bit(operator: str) -> None:
    config = KoopmanConfig(mutual_information_weight=0.0, entropy_weight=0.0, consistency_weight=0.3)
    model, states = small(operator=operator), turning()[:, :9]
    found = KoopmanObjective(model, config)(states)
    z = model.encode(states)
    matrix = ridge_operator(z[:, :-1], z[:, 1:]) if operator == "ridge" else model.forward_matrix
    moved = z[:, :-1] @ matrix
    plain = (model.decode_scaled(moved) - states[:, 1:]).square().mean((0, 2)).sum()
    plain = plain + 0.1 * (model.decode_scaled(z[:, :-1]) - states[:, :-1]).square().mean((0, 2)).sum()
    plain = plain + 0.3 * (z[:, 1:] - moved).square().mean()
    assert torch.equal(found["loss"], plain) and set(found) == {"loss", "forward", "identity", "consistency"}


def test_the_entropy_is_raised_and_a_negative_weight_lowers_it() -> None:
    states = trajectories("oscillator", 8, 20)
    dimensions = {}
    for weight in (0.5, 0.0, -0.5):
        torch.manual_seed(0)
        model = InformationKoopman([32], 8, hidden=32)
        settings = {
            "mutual_information_weight": 0.0,
            "entropy_weight": weight,
            "window": 8,
            "steps": 40,
            "save_every": 20,
        }
        found = model.fit(states, **settings)
        dimensions[weight] = found.evaluations[-1]["effective_dimension"]
    assert dimensions[0.5] > dimensions[0.0] > dimensions[-0.5]


def test_a_rollout_encodes_once_and_multiplies_by_powers_of_the_operator() -> None:
    model = small(operator="learned")
    with torch.no_grad():
        model.forward_matrix.copy_(0.5 * torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    start = torch.randn(3, 2)
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    path = model.rollout(start, 4)
    assert len(calls) == 1 and path.shape == (3, 4, 2)
    latent = model.encode(start) @ torch.linalg.matrix_power(model.operator.T, 4)
    torch.testing.assert_close(path[:, 3], model.decode(latent), rtol=1e-5, atol=1e-5)


def test_modes_are_eigenvectors_of_the_operator() -> None:
    model = small()
    with torch.no_grad():
        model.forward_matrix.copy_(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    values, vectors = model.modes()
    torch.testing.assert_close(model.operator.double().to(vectors.dtype) @ vectors, vectors * values)
    torch.testing.assert_close(values.abs(), model.eigenvalues().abs())


def test_a_linear_system_is_learned() -> None:
    model = small(operator="learned")
    found = model.fit(
        turning(16),
        steps=500,
        window=8,
        batch_size=32,
        learning_rate=1e-2,
        mutual_information_weight=0.0,
        entropy_weight=0.0,
        consistency_weight=1.0,
    )
    assert min(row["rollout_error"] for row in found.evaluations) < 0.3 * found.evaluations[0]["rollout_error"]


@pytest.mark.parametrize("operator", ["ridge", "learned"])
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(tmp_path: Path, operator: str) -> None:
    states = turning()
    whole = train_koopman(small(operator=operator), states, tmp_path / "whole", TINY, device="cpu")
    stopped = replace(TINY)

    class Stop(Exception):
        pass

    count = 0
    forward = KoopmanObjective.forward

    def dying(self: KoopmanObjective, *given: torch.Tensor, **named: torch.Tensor) -> dict[str, torch.Tensor]:
        nonlocal count
        count += 1
        if count == 8:
            raise Stop
        return forward(self, *given, **named)

    KoopmanObjective.forward = dying  # type: ignore[method-assign]
    try:
        with pytest.raises(Stop):
            train_koopman(small(operator=operator), states, tmp_path / "parts", stopped, device="cpu")
    finally:
        KoopmanObjective.forward = forward  # type: ignore[method-assign]
    again = train_koopman(small(operator=operator), states, tmp_path / "parts", stopped, device="cpu")
    assert [row["loss"] for row in again.metrics] == [row["loss"] for row in whole.metrics]
    one, other = (InformationKoopman.from_pretrained(tmp_path / name) for name in ("whole", "parts"))
    for (name, value), (_, known) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, known), name


def test_a_trained_model_is_read_back_with_its_operator_and_card(tmp_path: Path) -> None:
    model = small()
    train_koopman(model, turning(), tmp_path, TINY, device="cpu")
    read = InformationKoopman.from_pretrained(tmp_path)
    start = turning()[:, 0]
    torch.testing.assert_close(read.rollout(start, 3), model.rollout(start, 3))
    assert "alpha 2" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["latent_dim"] == 4


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    train_koopman(small(), turning(), tmp_path, TINY, device="cpu")
    with pytest.raises(ValueError, match="other settings"):
        train_koopman(small(), turning(), tmp_path, replace(TINY, entropy_weight=0.2), device="cpu")


def test_a_folder_of_other_trajectories_or_another_model_is_refused_and_can_be_begun_again(tmp_path: Path) -> None:
    train_koopman(small(), turning(), tmp_path, TINY, device="cpu")
    for model, states in ((small(), 2 * turning()), (small(operator="learned"), turning())):
        with pytest.raises(ValueError, match="other trajectories, or of another model"):
            train_koopman(model, states, tmp_path, TINY, device="cpu")
    train_koopman(small(), 2 * turning(), tmp_path, TINY, device="cpu", resume=False)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "model.safetensors").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        train_koopman(small(), turning(), tmp_path / "else", TINY, device="cpu")


def test_the_variational_form_takes_the_operator_of_its_batch() -> None:
    model, states = small(variational=True), turning()[:, :10]
    config = KoopmanConfig(consistency_weight=1.0)
    losses = []
    for scale in (1.0, 5.0):  # the kept operator is of the last evaluation
        with torch.no_grad():
            model.forward_matrix.copy_(scale * torch.eye(4))
        torch.manual_seed(1)
        losses.append(float(KoopmanObjective(model, config)(states)["loss"].detach()))
    assert losses[0] == losses[1]


def test_one_trajectory_one_window_a_step_and_all_but_one_held_out_can_be_learned(tmp_path: Path) -> None:
    small().fit(turning(1), steps=2, batch_size=1, window=8, save_every=2, log_every=2)
    small().fit(turning(2), steps=2, held_out=0.9, window=8, save_every=2, log_every=2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"entropy_wait": 0.1}, "did you mean 'entropy_weight'"),
        ({"window": 4}, "InfoNCE compares"),
        ({"controls": np.ones((6, 29, 1))}, "takes no controls"),
        ({"device": "gpu7"}, "gpu7"),
        ({"ridge": "a"}, "ridge"),
    ],
)
def test_settings_that_cannot_be_are_said(settings: dict[str, object], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        small().fit(turning(), **settings)


def test_channels_that_are_flat_only_beside_their_size_are_named() -> None:
    states = turning()
    states = torch.cat([states[..., :1], states[..., 1:] + 1e9], -1)
    with pytest.raises(ValueError, match="channel 1 of the trajectories is constant"):
        small().standardise(states)


def test_shapes_that_a_model_does_not_take_are_said() -> None:
    with pytest.raises(ValueError, match=r"states must be \[.., 2\]"):
        small().encode(torch.ones(5, 1))
    wrong = InformationKoopman([2], 4, encoder=nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"the encoder must give \[N, 4\]"):
        wrong.encode(torch.ones(5, 2))
    with pytest.raises(ValueError, match="give a ridge above 0"):
        ridge_operator(torch.ones(1, 2, 4), torch.ones(1, 2, 4), 0.0)
    with pytest.raises(ValueError, match="multiple"):
        trajectories("kuramoto", 1, 2, step=0.1)


def test_pictures_show_the_plane_and_its_share_of_the_variance() -> None:
    z = torch.zeros(3, 20, 4)
    z[..., 0], z[..., 2] = torch.randn(3, 20), 0.5 * torch.randn(3, 20)
    plane, share = leading_plane(z)
    assert plane.shape == (3, 20, 2) and share == pytest.approx(1)
    assert manifold_picture({"flat": z}).count("<circle") == 3 and "100 %" in manifold_picture({"flat": z})
    with pytest.raises(ValueError, match="two dimensions"):
        leading_plane(z[..., :1])
    with pytest.raises(ValueError, match="finite"):
        eigenvalue_picture({"a": torch.tensor([complex(math.nan, 0)])})


def test_controls_move_the_latent() -> None:
    chance = torch.Generator().manual_seed(0)
    acted = torch.randn(8, 19, 1, generator=chance)
    state, path = torch.randn(8, 2, generator=chance), []
    for at in range(20):
        path.append(state)
        if at < 19:
            state = 0.9 * state + acted[:, at] * torch.tensor([0.5, -0.3])
    states = torch.stack(path, 1)
    model = InformationKoopman([2], 4, hidden=16, layers=1, operator="learned", controls=1)
    with pytest.raises(ValueError, match="controls"):
        model.fit(states, steps=2, window=4, neighbors=1)
    model.fit(
        states,
        steps=4,
        window=4,
        mutual_information_weight=0.0,
        learning_rate=1e-2,
        save_every=2,
        log_every=2,
        controls=acted,
    )
    assert model.control_matrix is not None and bool((model.control_matrix != 0).any())
    assert model.rollout(states[:, 0], 5, acted[:, :5]).shape == (8, 5, 2)
    with pytest.raises(ValueError, match="controls must be"):
        model.rollout(states[:, 0], 5, acted[:, :4])


@pytest.mark.parametrize("operator", ["ridge", "learned"])
def test_the_variational_form_trains_and_its_prior_is_a_divergence(operator: str) -> None:
    model = small(variational=True, operator=operator)
    found = KoopmanObjective(model, KoopmanConfig(consistency_weight=1.0))(turning()[:, :10])
    assert float(found["prior"]) >= 0 and float(found["dissipated"]) >= 0
    found["loss"].backward()
    assert model.log_noise is not None and model.log_noise.grad is not None
    assert all(bool(torch.isfinite(one.grad).all()) for one in model.parameters() if one.grad is not None)


def test_pictures_go_through_convolutions() -> None:
    model = InformationKoopman([2, 16, 16], 3, hidden=2)
    pictures = torch.randn(2, 5, 2, 16, 16)
    assert model.encode(pictures).shape == (2, 5, 3) and model.rollout(pictures[:, 0], 4).shape == (2, 4, 2, 16, 16)
    model.standardise(pictures)
    scaled = (pictures - model.mean) / model.spread
    torch.testing.assert_close(scaled.mean((0, 1, 3, 4)), torch.zeros(2), atol=1e-5, rtol=0)


def test_networks_of_ones_own_are_taken() -> None:
    model = InformationKoopman([2], 2, encoder=nn.Identity(), decoder=nn.Identity())
    assert torch.equal(model.encode(torch.ones(3, 2)), torch.ones(3, 2))


def test_windows_overlap_and_stay_inside_their_sequence() -> None:
    states = torch.arange(10.0).view(2, 5, 1)
    windows = Windows(states, 2)
    assert (
        len(windows) == 6 and windows[2].flatten().tolist() == [2, 3, 4] and windows[3].flatten().tolist() == [5, 6, 7]
    )


@pytest.mark.parametrize("system", STEPS)
def test_systems_are_alike_for_a_seed_and_finite(system: str) -> None:
    one, same, other = (trajectories(system, 2, 12, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other) and bool(torch.isfinite(one).all())
    assert one.shape[:2] == (2, 12)


def test_the_pendulum_loses_energy_and_lorenz_stays_on_its_attractor() -> None:
    angle, speed = trajectories("pendulum", 4, 200).unbind(-1)
    energy = 0.5 * speed**2 - angle.cos()
    assert bool((energy[:, 1:] <= energy[:, :-1] + 1e-4).all())
    assert float(trajectories("lorenz", 4, 500).abs().max()) < 60


def test_noise_is_added_in_standard_deviations() -> None:
    clean, noisy = trajectories("duffing", 30, 60), trajectories("duffing", 30, 60, noise=0.1)
    assert torch.allclose((noisy - clean).std((0, 1)), 0.1 * clean.std((0, 1)), rtol=0.1)


def test_dmd_forecasts_a_linear_system_exactly() -> None:
    pytest.importorskip("pydmd")
    states = turning()
    model = DmdForecast().fit(states)
    torch.testing.assert_close(model.rollout(states[:, 0], 20), states[:, 1:21], rtol=1e-3, atol=1e-4)
    assert float(model.eigenvalues().abs().max()) == pytest.approx(1, abs=1e-6)  # of the constant


def test_polynomials_forecast_a_nonlinear_system_better_than_lines() -> None:
    pytest.importorskip("pydmd")
    learned, held = trajectories("pendulum", 20, 60, seed=1), trajectories("pendulum", 8, 60, seed=2)
    errors = [
        float((model.fit(learned).rollout(held[:, 0], 10) - held[:, 1:11]).square().mean())
        for model in (DmdForecast(), EdmdForecast())
    ]
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize(
    ("states", "window", "told"),
    [
        (torch.full((2, 20, 2), math.nan), 8, "sequence 0 is not"),
        (torch.ones(2, 8, 2), 8, "needs trajectories of 9 states"),
        (torch.ones(2, 20, 2), 8, "channel 0 of the trajectories is constant"),
        (torch.ones(2, 20, 3), 8, "\\[sequences, time, 2\\]"),
        (torch.ones(20, 2), 8, "\\[sequences, time, 2\\]"),
    ],
)
def test_trajectories_that_cannot_be_learned_are_said_before_any_work(
    tmp_path: Path, states: torch.Tensor, window: int, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        train_koopman(small(), states, tmp_path / "out", replace(TINY, window=window))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"state": [0]}, "state"),
        ({"state": [3, 10, 10]}, "multiple of 16"),
        ({"state": [2], "operator": "fitted"}, "operator"),
        ({"state": [2], "controls": 1}, "controls"),
        ({"state": [2], "latent_dim": 0}, "latent_dim"),
    ],
)
def test_models_that_cannot_be_are_said(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        InformationKoopman(**given)  # type: ignore[arg-type]


def test_a_rollout_from_no_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        small().rollout(torch.tensor([[math.nan, 0.0]]), 3)
    with pytest.raises(ValueError, match="batch, 2"):
        small().rollout(torch.zeros(2, 3), 3)


def test_an_exploding_rollout_counts_as_a_large_error_and_not_as_nan() -> None:
    model = small(operator="learned")
    with torch.no_grad():
        model.forward_matrix.mul_(1e30)
    found = rollout_errors(model, turning(), 20)
    assert found["rollout_error"] == 1e6 and np.isfinite(list(found.values())).all()
