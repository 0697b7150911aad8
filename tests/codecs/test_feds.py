"""FEDS: what a channel carries, what a student is told, and that the teacher and the folder stay clean."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Subset

from szilard.cli.main import main
from szilard.codecs.building import read_settings, smaller
from szilard.codecs.feds import FEDSConfig, FEDSTrainer, channel_entropy, select_channels, train_feds
from szilard.codecs.feds.distillation import ChannelMatch, FeatureMatch, LatentMatch, OutputMatch, gaussian_kl
from szilard.codecs.feds.objective import DistillationObjective, Progress, Term
from szilard.codecs.feds.signals import Tapped, Teacher, check_pair, find_taps
from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.mlicv2 import MLICv2, MLICv2Config
from szilard.codecs.opening import open_codec
from szilard.codecs.photographs import Crops
from szilard.codecs.training import CodecConfig, RateDistortion, train_codec
from szilard.training.loop import fit

DRAW = np.random.default_rng(3)
PICTURES = {f"p{at}": DRAW.integers(0, 256, (80, 100 + at, 3), dtype=np.uint8) for at in range(3)}
CONFIG = FEDSConfig(
    lmbda=0.01, steps=10, batch_size=2, crop=64, log_every=1, save_every=1, learning_rate=1e-3, final_learning_rate=1e-4
)
ATTENTIVE = MLICv2Config(N=8, M=16, slices=2, hidden=0.05, window=3, attention=True)
QUIET: dict[str, Any] = {"device": "cpu", "tell": lambda _: None}


def hyperprior(N: int = 6, M: int = 6, seed: int = 0) -> MeanScaleHyperprior:
    torch.manual_seed(seed)
    return MeanScaleHyperprior(HyperpriorConfig(N=N, M=M))


def lively(N: int = 6, M: int = 8, seed: int = 9) -> MeanScaleHyperprior:
    """A teacher whose channels carry something."""
    codec = hyperprior(N, M, seed)
    with torch.no_grad():
        codec.g_a[-1].weight *= 30
    return codec


def attentive() -> MLICv2:
    torch.manual_seed(5)
    return MLICv2(ATTENTIVE)


def pixels(seed: int = 0, batch: int = 2, side: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def state(codec: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in codec.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- channels


def test_the_published_example_of_a_selection() -> None:
    indices, weights = select_channels(torch.tensor([3.0, 0.0, 1.0, 2.0]), fraction=0.5)
    assert indices.tolist() == [0, 3]
    assert weights.tolist() == pytest.approx([0.6, 0, 0, 0.4])


@given(
    st.lists(st.floats(0, 8), min_size=1, max_size=30), st.floats(0.01, 1), st.sampled_from(["top", "random", "lowest"])
)
@settings(max_examples=60, deadline=None)
def test_weights_add_up_to_one_and_empty_channels_are_never_chosen(
    entropies: list[float], fraction: float, order: str
) -> None:
    values = torch.tensor(entropies, dtype=torch.float64)
    alive = values >= 1e-3
    if not alive.any():
        with pytest.raises(ValueError, match="no channel has an entropy"):
            select_channels(values, fraction)
        return
    indices, weights = select_channels(values, fraction, order=order)
    assert len(indices) == min(math.ceil(fraction * len(values)), int(alive.sum()))
    assert float(weights.sum()) == pytest.approx(1)
    outside = torch.ones(len(values), dtype=torch.bool)
    outside[indices] = False
    assert not weights[outside].any()
    assert alive[indices].all() and bool((weights[indices] > 0).all())
    if order == "top":
        assert not (alive & outside).any() or values[indices].min() >= values[alive & outside].max()


def test_random_channels_are_those_of_the_seed_and_lowest_ones_the_least() -> None:
    values = torch.tensor([3.0, 0.0, 1.0, 2.0, 0.5, 0.25])
    chosen = [select_channels(values, order="random", seed=seed)[0].tolist() for seed in (1, 1, 2, 3, 4)]
    assert chosen[0] == chosen[1] and len({tuple(one) for one in chosen}) > 1
    assert select_channels(values, order="lowest")[0].tolist() == [2, 4, 5]


@pytest.mark.parametrize("make", [hyperprior, attentive])
def test_the_entropies_of_channels_add_up_to_the_bits_of_y(make: Any) -> None:
    codec = make().eval()
    codec.arithmetic = "float32"
    x = pixels(1)
    with torch.no_grad():
        likelihoods = codec(x)["likelihoods"]["y"]
    batch, _, height, width = likelihoods.shape
    found = channel_entropy(codec, x)
    assert float(found.sum()) * batch * height * width == pytest.approx(float(-likelihoods.log2().sum()), rel=1e-5)
    parts = channel_entropy(codec, list(x.split(1)))
    assert torch.allclose(found, parts)


def test_measuring_changes_nothing() -> None:
    codec = hyperprior().train()
    before = state(codec)
    chance = torch.get_rng_state()
    channel_entropy(codec, pixels())
    assert codec.training and codec.arithmetic == "exact" and equal(before, state(codec))
    assert torch.equal(chance, torch.get_rng_state())


def test_every_part_has_its_own_mode_back() -> None:
    codec = hyperprior().train()
    codec.h_s.eval()  # as somebody leaves it who trains the rest
    channel_entropy(codec, pixels())
    assert codec.training and codec.g_a.training and not codec.h_s.training


def test_what_cannot_be_measured_is_refused() -> None:
    codec = hyperprior()
    for wrong in (pixels().numpy(), "a folder"):
        with pytest.raises(TypeError, match="must be tensors"):
            channel_entropy(codec, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="learned codecs, not a Linear"):
        channel_entropy(nn.Linear(1, 1), pixels())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        channel_entropy(codec, pixels() * float("nan"))
    with pytest.raises(ValueError, match="uint8"):
        channel_entropy(codec, (pixels() * 255).byte())
    assert torch.allclose(channel_entropy(codec, pixels().double()), channel_entropy(codec, pixels()))
    with pytest.raises(TypeError, match="a tensor"):
        select_channels([3.0, 1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [np.zeros((70, 70), np.uint8), np.zeros((70, 70, 4), np.uint8), np.zeros((70, 70, 3))]
)
def test_arrays_that_are_no_photographs_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\[H, W, 3\] of uint8"):
        Crops({"a": wrong}, 64, 2)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png.*cannot be read as PNG"):
        Crops([tmp_path / "a.png"], 64, 2)
    (tmp_path / "student.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"student\.toml.*cannot be read"):
        read_settings(tmp_path / "student.toml")


def test_a_constant_channel_at_the_smallest_scale_costs_nothing() -> None:
    codec = lively()
    with torch.no_grad():
        codec.g_a[-1].weight[2] = 0
        codec.g_a[-1].bias[2] = 0.25
        last = codec.h_s[-1]
        for row in (2, codec.latent_channels + 2):
            last.weight[row] = 0
        last.bias[2], last.bias[codec.latent_channels + 2] = -1.0, 0.25  # below the bound, the mean exact
    expected = -math.log2(math.erf(0.5 / 0.11 / math.sqrt(2)))
    assert expected == pytest.approx(7.9e-6, rel=0.01)
    found = channel_entropy(codec.double(), pixels().double())
    assert float(found[2]) == pytest.approx(expected, rel=1e-3)
    assert float(channel_entropy(codec, pixels().double(), "empirical")[2]) == 0
    assert 2 not in select_channels(found, 1.0)[0].tolist()


def test_the_empirical_entropy_is_that_of_the_histogram() -> None:
    codec = hyperprior().eval()
    codec.arithmetic = "float32"
    with torch.no_grad():
        codec.g_a[-1].weight *= 30
        y_hat = codec(pixels())["y_hat"].round()
    found = channel_entropy(codec, pixels(), "empirical")
    for channel in range(codec.latent_channels):
        counts = y_hat[:, channel].unique(return_counts=True)[1].double()
        shares = counts / counts.sum()
        assert float(found[channel]) == pytest.approx(float(-(shares * shares.log2()).sum()), abs=1e-9)
    assert float(found.max()) > 0.5


# ---- taps and terms


@pytest.mark.parametrize("make", [hyperprior, attentive])
def test_there_are_six_taps_at_three_resolutions(make: Any) -> None:
    taps = find_taps(make())
    assert [(tap.where, tap.scale) for tap in taps] == [
        ("g_a", 1 / 2), ("g_a", 1 / 4), ("g_a", 1 / 8), ("g_s", 1 / 8), ("g_s", 1 / 4), ("g_s", 1 / 2),
    ]  # fmt: skip


def test_taps_are_what_the_stages_give() -> None:
    codec = attentive().eval()
    codec.arithmetic = "float32"
    with torch.no_grad():
        found = Tapped(codec)(pixels())
        x = pixels()
        for part in codec.g_a.analysis_transform:
            before, x = x, part(x)
            if x.shape[-1] != before.shape[-1] and x.shape[-1] < 32:
                assert any(torch.equal(before, tap) for tap in found.taps)
    assert [tuple(tap.shape[1:]) for tap in found.taps[:3]] == [(8, 32, 32), (8, 16, 16), (8, 8, 8)]
    assert not any(module._forward_hooks for module in codec.modules())


@pytest.mark.parametrize("make", [hyperprior, attentive])
@pytest.mark.parametrize("match", ["auto", "project"])
@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_a_copy_of_the_teacher_has_nothing_to_learn(make: Any, match: str, distance: str) -> None:
    if (match, distance) == ("project", "kl"):
        return
    teacher = make()
    student = copy.deepcopy(teacher).train()
    wanted, own = Teacher(teacher)(pixels()), Tapped(student)(pixels())
    features = FeatureMatch(find_taps(student), find_taps(teacher))
    weights = torch.full((teacher.latent_channels,), 1 / teacher.latent_channels)
    indices = torch.arange(teacher.latent_channels)
    channels = ChannelMatch(indices, weights, *[teacher.latent_channels] * 2, distance=distance, match=match)
    for term in (features, channels):
        loss = term(own, wanted)
        assert float(loss.detach()) == pytest.approx(0, abs=1e-8)
        gradients = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True, retain_graph=True)
        assert all(one is None or float(one.abs().max()) < 1e-3 for one in gradients)


def test_the_divergence_of_gaussians_has_its_closed_form() -> None:
    zero, one, two = (torch.tensor(value, dtype=torch.float64) for value in (0.0, 1.0, 2.0))
    assert float(gaussian_kl(zero, one, zero, two)) == pytest.approx(0.318147, abs=1e-6)
    assert float(gaussian_kl(zero, two, zero, one)) != pytest.approx(0.318147, abs=1e-2)
    assert float(gaussian_kl(one, two, one, two)) == 0
    torch.manual_seed(0)
    m_t, s_t, m_s, s_s = torch.rand(4, 50, dtype=torch.float64).add(0.2)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(m_t, s_t), normal(m_s, s_s))
    assert torch.allclose(gaussian_kl(m_t, s_t, m_s, s_s), expected)


def test_each_layer_is_divided_by_the_teachers_energy() -> None:
    teacher, student = attentive(), hyperprior()
    features = FeatureMatch(find_taps(student), find_taps(teacher))
    own, wanted = Tapped(student)(pixels()), Teacher(teacher)(pixels())
    with torch.no_grad():
        for part in features.adapters:
            part.weight.zero_()
            part.bias.zero_()
        assert float(features(own, wanted)) == pytest.approx(1, rel=1e-5)  # silence misses all of the energy


def test_an_empty_channel_cannot_make_the_channel_term_explode() -> None:
    teacher, student = hyperprior(M=4), hyperprior(M=4, seed=1)
    with torch.no_grad():
        teacher.g_a[-1].weight[1] = 0
    weights = torch.full((4,), 0.25)
    term = ChannelMatch(torch.arange(4), weights, 4, 4)
    own = Tapped(student)(pixels())
    loss = term(own, Teacher(teacher)(pixels()))
    worst = float(own.found["y"].square().mean()) + float(teacher.g_a[-1].bias.square().max()) + 5
    assert math.isfinite(float(loss)) and float(loss) < 12 * 4 * worst


def test_channels_are_matched_one_by_one_in_the_order_of_the_teachers() -> None:
    teacher, student = hyperprior(M=8), hyperprior(M=4, seed=2)
    indices = torch.tensor([1, 4, 5, 7])
    weights = torch.zeros(8)
    weights[indices] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    term = ChannelMatch(indices, weights, 4, 8, distance="kl", match="identity")
    own, wanted = Tapped(student)(pixels()), Teacher(teacher)(pixels())
    bound = {name: [one.found[name] for one in (wanted, own)] for name in ("means", "scales")}
    expected = 0.0
    for mine, (channel, weight) in enumerate(zip(indices.tolist(), (0.1, 0.2, 0.3, 0.4), strict=True)):
        m_t, m_s = bound["means"][0][:, channel], bound["means"][1][:, mine]
        s_t, s_s = bound["scales"][0][:, channel].clamp(min=0.11), bound["scales"][1][:, mine].clamp(min=0.11)
        expected += weight * float(gaussian_kl(m_t, s_t, m_s, s_s).mean())
    assert float(term(own, wanted)) == pytest.approx(expected, rel=1e-5)


# ---- training


def test_terms_of_no_weight_leave_the_plain_trajectory(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=4)
    data = Crops(PICTURES, 64, 8, 0)
    states = []
    for place in ("plain", "silent"):
        student, teacher = hyperprior(), Teacher(lively())
        objective: nn.Module = RateDistortion(student, config)
        if place == "silent":
            indices, weights = torch.arange(4), torch.full((8,), 0.25)
            terms = [
                Term("feature", FeatureMatch(find_taps(student), teacher.taps), 0.0, 0.0),
                Term("entropy", ChannelMatch(indices, weights, 6, 8), 0.0, 0.0),
                Term("latents", LatentMatch(6, 8), 0.0, 0.0),
                Term("pictures", OutputMatch(), 0.0, 0.0),
            ]
            objective = DistillationObjective(student, config, teacher, terms)
        callbacks = [Progress()] if place == "silent" else []
        fit(objective, data, config, tmp_path / place, collate=Crops.collate, device="cpu", callbacks=callbacks)
        states.append(state(student))
    assert equal(*states)


def test_one_phase_without_weights_is_a_codecs_training(tmp_path: Path) -> None:
    plain, student = hyperprior(), hyperprior()
    shared = {"steps": 4, "batch_size": 2, "crop": 64, "log_every": 1, "save_every": 2, "learning_rate": 1e-3}
    train_codec(plain, PICTURES, CodecConfig(lmbda=0.01, **shared), tmp_path / "plain", device="cpu")
    config = FEDSConfig(lmbda=0.01, **shared, feature_share=1.0, channel_share=0.0, feature_weight=0.0)
    train_feds(lively(), student, PICTURES, config, tmp_path / "student", **QUIET)
    assert equal(state(plain), state(student))


def test_without_weights_the_three_phases_are_those_from_scratch(tmp_path: Path) -> None:
    silent, scratch = hyperprior(), hyperprior()
    config = replace(CONFIG, steps=5)
    weights = {"feature_weight": 0.0, "entropy_weight": 0.0}
    train_feds(lively(), silent, PICTURES, replace(config, **weights), tmp_path / "a", **QUIET)
    train_feds(None, scratch, PICTURES, replace(config, method="scratch"), tmp_path / "b", **QUIET)
    assert equal(state(silent), state(scratch))


def test_the_teacher_is_untouched_and_the_folder_is_a_plain_codec(tmp_path: Path) -> None:
    teacher, student = attentive(), hyperprior()
    teacher.train()
    before = state(teacher)
    told: list[str] = []
    results = train_feds(teacher, student, PICTURES, CONFIG, tmp_path, device="cpu", tell=told.append)
    assert equal(before, state(teacher)) and teacher.training and teacher.arithmetic == "exact"
    assert all(one.requires_grad and one.grad is None for one in teacher.parameters())
    assert set(load_file(tmp_path / "model.safetensors")) == set(hyperprior().state_dict())
    again = open_codec(tmp_path)
    assert again.trained_on["teacher"].startswith("mlicv2 ") and again.trained_on["steps"] == 10
    x = pixels(4)
    coded = again.compress(x)
    with torch.no_grad():
        assert torch.equal(again.decompress(coded["strings"], coded["shape"])["x_hat"], again(x)["x_hat"].clamp(0, 1))
    assert [len(results[f"phase-{at}"].metrics) for at in (1, 2, 3)] == [4, 4, 2]
    assert {"feature", "distillation"} < set(results["phase-1"].metrics[0])
    assert {"feature", "entropy", "distillation"} < set(results["phase-2"].metrics[0])
    assert "feature" not in results["phase-3"].metrics[0]
    assert [row["learning_rate"] for row in results["phase-3"].metrics][-1] == pytest.approx(1e-4)
    assert [line[:15] for line in told] == ["phase-1, step 0", "phase-2, step 0"]
    kept = json.loads((tmp_path / "channels.json").read_text())
    assert len(kept["entropies"]) == 16 and sum(kept["weights"]) == pytest.approx(1)
    saved = load_file(tmp_path / "phase-2" / "best.safetensors")
    assert any("adapter" in name for name in saved)  # they exist while the student trains, and only there
    assert not any(name.startswith("teacher") for name in saved)


class Stop(Exception):
    pass


def student_of(folder: Path, method: str = "feds") -> tuple[Any, dict[str, torch.Tensor]]:
    """Rows of a short training, and the student's weights."""
    student = hyperprior()
    found = train_feds(lively(), student, PICTURES, replace(CONFIG, method=method, steps=5), folder, **QUIET)
    return {name: one.metrics for name, one in found.items()}, state(student)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a training that nothing stopped."""
    return student_of(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_training_that_was_stopped_in_any_phase_goes_on_as_if_it_had_not_been(
    at: int, uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = RateDistortion.losses, iter(range(1000))

    def losses(self: Any, *given: Any) -> Any:
        if torch.is_grad_enabled() and next(calls) == at:
            raise Stop
        return original(self, *given)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(RateDistortion, "losses", losses)
        student_of(tmp_path)
    found, weights = student_of(tmp_path)
    assert found == uninterrupted[0] and equal(weights, uninterrupted[1])
    assert {name: len(rows) for name, rows in found.items()} == {"phase-1": 2, "phase-2": 2, "phase-3": 1}


def test_the_trainer_is_the_function_as_an_object(uninterrupted: Any, tmp_path: Path) -> None:
    student = hyperprior()
    FEDSTrainer(lively(), student, PICTURES, CONFIG, tmp_path).train(5, **QUIET)
    assert equal(state(student), uninterrupted[1])


def test_plain_distillation_hears_the_teacher_in_every_phase(tmp_path: Path) -> None:
    rows, weights = student_of(tmp_path, "kd")
    assert all({"latents", "pictures"} < set(row) for phase in rows.values() for row in phase)
    first = rows["phase-1"][0]
    told = 0.6 * first["rate_distortion"] + 0.2 * (first["latents"] + first["pictures"])
    assert first["loss"] == pytest.approx(told, rel=2e-2)  # the rest is the quantiles' own loss
    assert equal(weights, student_of(tmp_path, "kd")[1])  # read back


def test_the_features_weight_falls_evenly_to_a_tenth(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=4, feature_share=1.0, channel_share=0.0)
    rows = train_feds(lively(), hyperprior(), PICTURES, config, tmp_path, **QUIET)["phase-1"].metrics
    weights = [row["distillation"] * row["rate_distortion"] / row["feature"] for row in rows]
    assert weights == pytest.approx([1.0, 0.775, 0.55, 0.325], rel=1e-3)


def test_terms_can_be_scaled_to_a_share_of_the_loss_at_the_first_step(tmp_path: Path) -> None:
    told: list[str] = []
    config = replace(CONFIG, start_share=0.25, steps=5)
    train_feds(lively(), hyperprior(), PICTURES, config, tmp_path, device="cpu", tell=told.append)
    assert len(told) == 2 and all("they are 25 % of it" in line for line in told)


def test_every_method_has_the_same_steps() -> None:
    for method in ("feds", "feature", "kd", "scratch"):
        assert sum(phase.steps for phase in replace(CONFIG, method=method, steps=37).plan) == 37
    assert [phase.number for phase in replace(CONFIG, method="feature").plan] == [0, 2]
    assert [phase.steps for phase in CONFIG.plan] == [4, 4, 2]


def test_phases_see_different_crops_and_together_those_of_one_training() -> None:
    data = Crops(PICTURES, 64, 20, 0)
    parts = [Subset(data, range(start, end)) for start, end in ((0, 8), (8, 16), (16, 20))]
    assert sum(len(part) for part in parts) == len(data)
    assert torch.equal(parts[1][0], data[8])


def test_a_student_learns_the_channels_that_it_is_told(tmp_path: Path) -> None:
    teacher, student = lively(), hyperprior()
    config = replace(
        CONFIG, steps=30, feature_share=0.0, channel_share=1.0, entropy_weight=100.0, learning_rate=1e-2, save_every=30
    )
    rows = train_feds(teacher, student, PICTURES, config, tmp_path, **QUIET)["phase-2"].metrics
    assert np.mean([row["entropy"] for row in rows[-5:]]) < 0.7 * rows[0]["entropy"]


def test_a_student_of_the_teachers_kind_is_smaller() -> None:
    teacher = attentive()
    student = smaller(teacher)
    assert sum(p.numel() for p in student.parameters()) < 0.8 * sum(p.numel() for p in teacher.parameters())
    check_pair(teacher, student)
    check_pair(hyperprior(12, 20), smaller(hyperprior(12, 20)))
    with torch.device("meta"):
        full = MLICv2(MLICv2Config(attention=True, blocks=2))
    assert {"N": 128, "M": 192}.items() <= smaller(full).plain_settings().items()


# ---- bad input


class Coarse(MeanScaleHyperprior):
    stride = 128


class Shallow(MeanScaleHyperprior):
    def __init__(self) -> None:
        super().__init__(HyperpriorConfig(N=4, M=4))
        self.g_a[2], self.g_s[2] = nn.Conv2d(4, 4, 4, stride=4), nn.ConvTranspose2d(4, 4, 4, stride=4)
        self.g_a[4], self.g_s[4] = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (lambda: Coarse(HyperpriorConfig(N=4, M=4)), "multiples of 64, the student's of 128"),
        (Shallow, "stages of equal sizes"),
    ],
)
def test_codecs_that_do_not_fit_are_refused(student: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        train_feds(hyperprior(), student(), PICTURES, CONFIG, tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


def test_bad_input_is_told_before_any_work(tmp_path: Path) -> None:
    teacher, student = hyperprior(), hyperprior(4, 4)

    def refused(
        said: str, teacher: LearnedCodec | None = teacher, student: LearnedCodec = student, **changes: Any
    ) -> None:
        with pytest.raises(ValueError, match=said):
            train_feds(teacher, student, PICTURES, replace(CONFIG, **changes), tmp_path / "run", **QUIET)
        assert not (tmp_path / "run").exists()

    refused("are the same object", student=teacher)
    refused("needs a teacher", teacher=None)
    refused("which lambda", lmbda=0.0)
    refused("without a teacher there is no lambda", lmbda=0.0, method="scratch", teacher=None)
    with pytest.raises(TypeError, match="the teacher must be"):
        train_feds("teacher", student, PICTURES, CONFIG, tmp_path / "run", **QUIET)  # type: ignore[arg-type]
    refused("compares channels one by one", distance="kl")
    refused("too few for crops of 128", crop=128)
    refused("more than all steps", feature_share=0.7)
    refused("steps must be given", steps=None)
    refused("method must be one of", method="best")
    refused("channels must be one of", channels="highest")
    refused("fraction must be between", fraction=1.5)
    with pytest.raises(ValueError, match="finite"):
        select_channels(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="at least one picture"):
        channel_entropy(teacher, [])
    with pytest.raises(ValueError, match="kind must be"):
        channel_entropy(teacher, pixels(), "bits")


def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=2, method="scratch", feature_share=1.0, channel_share=0.0)
    train_feds(None, hyperprior(), PICTURES, config, tmp_path, **QUIET)
    for student, changed in ((hyperprior(), replace(config, steps=3)), (hyperprior(4), config)):
        with pytest.raises(ValueError, match="other codecs, settings or pictures"):
            train_feds(None, student, PICTURES, changed, tmp_path, **QUIET)
    fewer = dict(list(PICTURES.items())[1:])
    with pytest.raises(ValueError, match="other codecs, settings or pictures"):
        train_feds(None, hyperprior(), fewer, config, tmp_path, **QUIET)
    rows = train_feds(None, hyperprior(), PICTURES, replace(config, steps=3), tmp_path, resume=False, **QUIET)
    assert len(rows["phase-1"].metrics) == 3
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "model.safetensors").touch()
    with pytest.raises(ValueError, match="something else"):
        train_feds(lively(), hyperprior(), PICTURES, config, tmp_path / "else", **QUIET)


def test_the_command_never_writes_over_its_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = lively()
    teacher.update(force=True)
    teacher.save_pretrained(tmp_path)
    given = ["--teacher", str(tmp_path), "-o", str(tmp_path / "." / ""), "--data", "packaged", "--restart"]
    assert main(["train", "feds", *given]) == 2
    assert "are the same folder" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").is_file()


def test_a_teachers_lambda_of_another_distortion_is_not_taken(tmp_path: Path) -> None:
    teacher = lively()
    teacher.trained_on = {"lambda": 8.73, "distortion": "ms-ssim"}
    with pytest.raises(ValueError, match=r"the teacher's lambda, .*, is for ms-ssim, not mse"):
        train_feds(teacher, hyperprior(4, 8, 0), PICTURES, FEDSConfig(steps=5), tmp_path, device="cpu")
