"""The stages: they learn, hold still what they should, resume exactly, and refuse what they cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from szilard.cli.main import main
from szilard.representation.lv_rae.config import LVRAETraining
from szilard.representation.lv_rae.model import LVRAE
from szilard.representation.lv_rae.objective import AutoencoderObjective, measure
from szilard.representation.lv_rae.sensitivity import decoder_sensitivity
from szilard.representation.lv_rae.small_backbone import small_vit, wavy_pictures
from szilard.representation.lv_rae.training import RobustDecoderTrainer, new_model, train_lv_rae
from tests.representation.lv_rae.tiny import CONFIG, autoencoder, awake, vision_model

PICTURES = wavy_pictures(48, 16)
SETTINGS = LVRAETraining(
    steps=6,
    robust_steps=4,
    adversarial_steps=4,
    batch_size=4,
    learning_rate=1e-3,
    save_every=2,
    log_every=2,
    held_out=0.2,
)


def hashes(model: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    return {} if model is None else {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_residual_brings_back_the_colours_that_the_vision_model_does_not_see() -> None:
    data = wavy_pictures(512, 16)
    vit = small_vit(16, 4, 16, 1, 2)
    settings = LVRAETraining(
        steps=300, robust_steps=0, adversarial_steps=0, batch_size=16, learning_rate=5e-3, log_every=50, held_out=0.1
    )
    found = {}
    for residual in (True, False):
        own = replace(CONFIG, residual=residual, noise="none", align_weight=0.1)
        found[residual] = train_lv_rae(new_model(own, vit, 0), data, None, settings, device="cpu").metrics
    assert found[True]["psnr"] > found[False]["psnr"] + 5
    assert found[True]["cosine"] > 0.9
    assert found[True]["psnr_without_residual"] < found[True]["psnr"] - 3


def test_stages_hand_over_and_stage_two_changes_the_decoder_alone(tmp_path: Path) -> None:
    model = awake(autoencoder())
    vision = hashes(model.backbone)
    train_lv_rae(
        model, PICTURES, tmp_path / "one", replace(SETTINGS, robust_steps=0, adversarial_steps=0), device="cpu"
    )
    encoder, norm, decoder = hashes(model.encoder), hashes(model.norm), hashes(model.decoder)
    result = RobustDecoderTrainer(model, PICTURES, SETTINGS, tmp_path / "two").train(device="cpu")
    assert list(result.stages) == ["stage-2", "stage-2-adversarial"]
    assert same(encoder, hashes(model.encoder)) and same(norm, hashes(model.norm))
    assert same(vision, hashes(model.backbone))
    assert not same(decoder, hashes(model.decoder))
    last = result.stages["stage-2-adversarial"].metrics[-1]
    assert last["weight"] > 0 and last["discriminator"] > 0
    card = (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    assert "L1 alone (no LPIPS)" in card and "psnr" in card
    back = LVRAE.from_pretrained(tmp_path / "two", vfm=vision_model())
    assert same(hashes(back.decoder), hashes(model.decoder))


def test_a_stopped_training_goes_on_exactly_in_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = autoencoder()
    torch.manual_seed(5)  # what the training draws comes from its own seed
    reference = train_lv_rae(whole, PICTURES, tmp_path / "whole", SETTINGS, device="cpu")
    original = AutoencoderObjective.forward
    for place, at in enumerate((3, 3, 3)):  # dies once in each stage, behind a checkpoint
        calls = iter(range(100))

        def dying(self: Any, pictures: torch.Tensor, at: int = at, stage: int = place, calls: Any = calls) -> Any:
            here = 0 if self.stage == 1 else 1 if self.discriminator is None else 2
            if here == stage and next(calls) == at:
                raise RuntimeError("killed")
            return original(self, pictures)

        monkeypatch.setattr(AutoencoderObjective, "forward", dying)
        torch.manual_seed(6)
        with pytest.raises(RuntimeError, match="killed"):
            train_lv_rae(autoencoder(), PICTURES, tmp_path / "cut", SETTINGS, device="cpu")
    monkeypatch.setattr(AutoencoderObjective, "forward", original)
    again = autoencoder()
    torch.manual_seed(7)
    found = train_lv_rae(again, PICTURES, tmp_path / "cut", SETTINGS, device="cpu")
    for name, stage in reference.stages.items():
        assert [row["loss"] for row in stage.metrics] == [row["loss"] for row in found.stages[name].metrics]
    assert same(hashes(whole.decoder), hashes(again.decoder)) and same(hashes(whole.encoder), hashes(again.encoder))
    assert found.metrics == reference.metrics


def test_another_training_in_the_folder_is_refused(tmp_path: Path) -> None:
    quick = replace(SETTINGS, steps=2, robust_steps=0, adversarial_steps=0)
    train_lv_rae(autoencoder(), PICTURES, tmp_path, quick, device="cpu")
    with pytest.raises(ValueError, match="other settings"):
        train_lv_rae(autoencoder(), PICTURES, tmp_path, replace(quick, batch_size=2), device="cpu")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model.safetensors").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        train_lv_rae(autoencoder(), PICTURES, tmp_path / "x", quick, device="cpu")


def test_what_cannot_be_trained_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must be an LVRAE"):
        train_lv_rae(torch.nn.Linear(2, 2), PICTURES, tmp_path, SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiples of the patch"):
        train_lv_rae(autoencoder(), PICTURES[..., :14, :14], tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="from_stage"):
        train_lv_rae(autoencoder(), PICTURES, tmp_path, SETTINGS, from_stage=3)
    with pytest.raises(ValueError, match="above 0"):
        nothing = replace(SETTINGS, robust_steps=0, adversarial_steps=0)
        train_lv_rae(autoencoder(), PICTURES, tmp_path, nothing, from_stage=2)
    with pytest.raises(ValueError, match="lpips"):
        train_lv_rae(autoencoder(), PICTURES, tmp_path, replace(SETTINGS, perceptual="lpips"))
    assert not list(tmp_path.iterdir())


def test_sensitivity_is_exact_without_noise_and_grows_with_it() -> None:
    model = awake(autoencoder())
    found = decoder_sensitivity(model.train(), PICTURES[:6], (0.0, 0.1, 1.0), batch_size=4)
    assert model.training
    assert found.psnr[0] == pytest.approx(measure(model.eval(), PICTURES[:6], ())["psnr"], abs=1e-4)
    assert found.gain[0] == 0 and found.gain[1] > 0
    assert found == decoder_sensitivity(model, PICTURES[:6], (0.0, 0.1, 1.0), batch_size=4)
    with pytest.raises(ValueError, match="at least one"):
        decoder_sensitivity(model, PICTURES, ())
    with pytest.raises(TypeError, match="a tensor"):
        decoder_sensitivity(model, [PICTURES])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an LVRAE"):
        decoder_sensitivity(torch.nn.Linear(1, 1), PICTURES)  # type: ignore[arg-type]


def test_the_gain_of_a_linear_decoder_is_its_jacobians() -> None:
    model = autoencoder()
    weight = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(weight)

        def forward(self, z: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
            return (z @ self.weight.T).reshape(len(z), 3, 16, 16)

    model.decoder = Linear()  # type: ignore[assignment]
    gain = decoder_sensitivity(model, PICTURES[:24], (0.1,)).gain[0]
    assert gain == pytest.approx(float(weight.square().sum() / 16) ** 0.5, rel=0.05)


def test_the_pictures_have_a_shape_and_a_coloured_ground_and_come_again() -> None:
    assert torch.equal(wavy_pictures(3, 16, seed=1), wavy_pictures(3, 16, seed=1))
    assert not torch.equal(PICTURES[:3], wavy_pictures(3, 16, seed=1))
    assert PICTURES.dtype == torch.uint8 and float(PICTURES.float().std((2, 3)).min()) > 1


SMALL = [
    "--vfm",
    "small",
    "--patch",
    "4",
    "--hidden",
    "16",
    "--heads",
    "2",
    "--encoder-depth",
    "1",
    "--decoder-depth",
    "1",
]
QUICK = ["--image-size", "16", "--limit", "40", "--batch-size", "4", "--log-every", "2", "--save-every", "2"]


def test_the_command_trains_and_makes_a_decoder_robust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("szilard.representation.lv_rae.small_backbone._STEPS", 50)
    command = ["train", "lv-rae", "--data", "shapes", *SMALL, *QUICK, "--adversarial-steps", "0", "--device", "cpu"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*command, "-o", str(first), "--steps", "4", "--robust-steps", "0"]) == 0
    assert main([*command, "-o", str(first), "--steps", "4", "--robust-steps", "0"]) == 0  # is there already
    assert main([*command, "-o", str(second), "--start", str(first), "--robust-steps", "2"]) == 0
    model = LVRAE.from_pretrained(second)
    assert same(hashes(model.encoder), hashes(LVRAE.from_pretrained(first).encoder))
    capsys.readouterr()
    other = [*command, "-o", str(tmp_path / "third"), "--start", str(first), "--robust-steps", "2"]
    assert main([*other, "--encoder-depth", "2"]) == 2
    assert "has encoder_depth=1, not 2" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--data", "nowhere"],
        ["--data", "shapes", "--image-size", "30"],
        ["--data", "shapes", "--noise", "much"],
        ["--data", "shapes", "--no-residual"],
        ["--data", "shapes", "--start", "nowhere"],
        ["--data", "shapes", "--perceptual", "lpips"],
        ["--data", "shapes", "--discriminator-vfm", "nowhere"],
        ["--data", "shapes", "--limit", "0"],
        ["--data", "shapes", "--start", "{out}"],
    ],
)
def test_the_command_refuses_what_it_cannot_do(options: list[str], tmp_path: Path, capsys: Any) -> None:
    given = [option.format(out=tmp_path / "out") for option in options]
    assert main(["train", "lv-rae", "-o", str(tmp_path / "out"), *SMALL, "--limit", "4", *given]) == 2
    assert capsys.readouterr().err.startswith("szilard: ")
    assert not (tmp_path / "out").exists()  # no vision model was trained first


def test_the_command_writes_nothing_beside_somebody_elses_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    assert main(["train", "lv-rae", "-o", str(tmp_path), *SMALL, "--data", "shapes", "--limit", "4"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
