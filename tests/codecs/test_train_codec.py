"""`szilard train codec` and `szilard train feds`: from a folder of pictures to a codec, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from szilard.cli.main import main
from szilard.codecs.building import new_codec, parse_settings, read_settings
from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.mlicv2 import PRESETS
from szilard.codecs.opening import open_codec
from szilard.codecs.training import CodecConfig, train_codec

SHORT = ["--steps", "2", "--batch-size", "1", "--crop", "64", "--log-every", "1", "--save-every", "1"]
CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of two pictures."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        image.fromarray(draw.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return str(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A codec whose channels carry something."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    codec = MeanScaleHyperprior(HyperpriorConfig(N=8, M=10))
    with torch.no_grad():
        codec.g_a[-1].weight *= 30
    codec.trained_on = {"lambda": 0.02}
    codec.save_pretrained(folder)
    return str(folder)


def test_a_codec_of_a_preset_with_other_sizes_is_trained_and_opened(photographs: str, tmp_path: Path) -> None:
    sizes = ["--preset", "mlicv2-tiny", "--set", "N=8", "--set", "M=8", "--set", "slices=2", "--set", "hgcp=off"]
    made = ["train", "codec", "--data", photographs, "-o", str(tmp_path / "codec"), *sizes, "--lmbda", "0.01"]
    assert main([*made, *SHORT, *CPU]) == 0
    codec = open_codec(tmp_path / "codec")
    settings = codec.plain_settings()["config"] if "config" in codec.plain_settings() else codec.plain_settings()
    assert (settings["N"], settings["M"], settings["hgcp"], settings["window"]) == (8, 8, "off", 3)
    assert codec.trained_on["lambda"] == 0.01 and codec.gaussian_conditional.updated
    assert main([*made, *SHORT, *CPU]) == 0  # a finished training is read back


def test_a_student_is_trained_from_the_command_line(
    photographs: str, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", "feds", "--teacher", teacher, "--data", photographs, "-o", str(tmp_path), "--json", *SHORT, *CPU]
    assert main([*run, "--steps", "3", "--feature-share", "0.34", "--channel-share", "0.34"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert set(found["phases"]) == {"phase-1", "phase-2", "phase-3"}
    assert found["student_parameters"] < found["teacher_parameters"]
    assert "phase-2, step 0: rate-distortion loss" in shown.err.replace("\n", " ")
    student = open_codec(tmp_path)
    assert isinstance(student, MeanScaleHyperprior) and student.trained_on["lambda"] == 0.02


def test_the_student_may_be_a_file(photographs: str, teacher: str, tmp_path: Path) -> None:
    file = tmp_path / "student.json"
    file.write_text('{"codec": "mean-scale", "N": 4, "M": 6}')
    run = ["train", "feds", "--teacher", teacher, "--data", photographs, "-o", str(tmp_path / "student")]
    assert main([*run, "--student-config", str(file), "--method", "feature", *SHORT, *CPU]) == 0
    assert open_codec(tmp_path / "student").latent_channels == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["codec", "--data", "nowhere"], "there is no folder 'nowhere'"),
        (["codec", "--data", "PICTURES", "--codec", "jpeg"], "codec must be one of 'mlicv2', 'mean-scale'"),
        (["codec", "--data", "PICTURES", "--preset", "mlicv3"], "preset must be one of"),
        (["codec", "--data", "PICTURES", "--codec", "mean-scale", "--preset", "mlicv2"], "presets are mlicv2's"),
        (["codec", "--data", "PICTURES", "--set", "slice=3"], "has no setting 'slice'; did you mean 'slices'?"),
        (["codec", "--data", "PICTURES", "--set", "N"], "a setting is written name=value"),
        (["codec", "--data", "PICTURES", "--set", "slices=7"], "must be slices=7 times a multiple of 4"),
        (["codec", "--data", "PICTURES", "--crop", "100"], "must be a multiple of 64"),
        (["codec", "--data", "PICTURES", "--lmbda", "0"], "lmbda must be between"),
        (
            ["codec", "--data", "PICTURES", "--distortion", "ms-ssim", "--crop", "192"],
            "for MS-SSIM papers take 2.4, 4.58",
        ),
        (["codec", "--data", "PICTURES", "--distortion", "ms-ssim", "--lmbda", "8.73", "--crop", "128"], "160 pixels"),
        (["feds", "--data", "PICTURES"], "give a trained codec as --teacher"),
        (["feds", "--data", "PICTURES", "--method", "scratch"], "say what the student is"),
        (["feds", "--data", "PICTURES", "--teacher", "PICTURES"], "holds no learned codec"),
        (
            ["feds", "--data", "PICTURES", "--teacher", "T", "--student-config", "x.json", "--codec", "mlicv2"],
            "not in both",
        ),
        (
            ["feds", "--data", "PICTURES", "--teacher", "TEACHER", "--student-config", "x.json"],
            "there is no file 'x.json'",
        ),
        (["feds", "--data", "PICTURES", "--teacher", "TEACHER", "--distance", "kl"], "compares channels one by one"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], said: str, photographs: str, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [{"PICTURES": photographs, "TEACHER": teacher}.get(one, one) for one in arguments]
    assert main(["train", *given, "-o", str(tmp_path / "run"), *([] if "--crop" in given else SHORT)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_settings_are_typed_by_their_fields(tmp_path: Path) -> None:
    found = parse_settings("mlicv2", ["N=32", "rope=false", "gsc=off", "hidden=0.25", "transform=residual"])
    assert found == {"N": 32, "rope": False, "gsc": "off", "hidden": 0.25, "transform": "residual"}
    file = tmp_path / "student.yaml"
    file.write_text("codec: mlicv2\npreset: mlicv2-tiny\ngsc: off\nrope: off\nN: 8\n")
    assert read_settings(file) == ("mlicv2", "mlicv2-tiny", {"gsc": "off", "rope": False, "N": 8})
    file.write_text("- 1\n")
    with pytest.raises(ValueError, match="must hold settings by name"):
        read_settings(file)
    toml = tmp_path / "student.toml"
    toml.write_text('codec = "mean-scale"\nN = 4\n')
    pytest.importorskip("tomllib")
    assert read_settings(toml) == ("mean-scale", None, {"N": 4})
    toml.write_text("N = = 4\n")
    with pytest.raises(ValueError, match="cannot be read"):
        read_settings(toml)


def test_a_new_codecs_weights_are_its_seeds_and_chance_goes_on() -> None:
    before = torch.get_rng_state()
    first, same, other = (new_codec("mlicv2", "mlicv2-tiny", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.settings == PRESETS["mlicv2-tiny"]
    weights = [next(codec.g_a.parameters()) for codec in (first, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_folder_knows_its_pictures_and_steps_must_be_given(tmp_path: Path) -> None:
    pictures = {f"p{at}": np.full((64, 64 + at, 3), 40 * at, dtype=np.uint8) for at in range(2)}
    config = CodecConfig(steps=2, batch_size=1, crop=64, log_every=1, save_every=1)

    def train(own: dict[str, np.ndarray]) -> object:
        codec = new_codec("mean-scale", None, {"N": 4, "M": 4}, 0)
        return train_codec(codec, own, config, tmp_path / "codec", device="cpu")

    rows = train(pictures)
    assert train(pictures) == rows
    with pytest.raises(ValueError, match="other sizes, settings or pictures"):
        train({"p0": pictures["p0"]})
    with pytest.raises(ValueError, match="steps must be given"):
        CodecConfig(steps=None)


def test_pictures_are_looked_at_before_a_training_begins(
    photographs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image")
    data, output = tmp_path / "data", tmp_path / "codec"
    (data / "folder.png").mkdir(parents=True)  # is no picture
    image.open(f"{photographs}/a.png").save(data / "a.png")
    made = ["train", "codec", "--data", str(data), "-o", str(output), "--codec", "mean-scale", *SHORT, *CPU]
    for name, said in (("text.png", "cannot be read as PNG"), ("cmyk.jpg", "has mode CMYK")):
        file = data / name
        file.write_text("text")
        if name == "cmyk.jpg":
            image.new("CMYK", (80, 80)).save(file)
        assert main(made) == 2
        assert said in capsys.readouterr().err
        file.unlink()
        assert not output.exists()


def test_a_readme_of_something_else_is_not_written_over(photographs: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert main(["train", "codec", "--data", photographs, "-o", str(tmp_path), *SHORT, *CPU]) == 2
    assert main(["train", "codec", "--data", photographs, "-o", str(tmp_path / "a"), "--lmbda", "inf", *SHORT]) == 2
    assert (tmp_path / "README.md").read_text() == "mine"
