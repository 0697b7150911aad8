"""`szilard encode`, `decode`, and `info` of a coded picture."""

from __future__ import annotations

import errno
import inspect
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image, ImageCms

import szilard_zoo
from szilard.cli.decode import decode_command
from szilard.cli.main import main
from szilard.codecs.coding import MAX_DECODED, decode
from szilard.codecs.container import REFINED, Bitstream
from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.images import check_target


def run(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> str:
    assert main([str(argument) for argument in arguments]) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    codec = MeanScaleHyperprior(HyperpriorConfig(8, 8)).eval()
    codec.update()
    codec.trained_on = {"lambda": 0.01}
    folder = tmp_path_factory.mktemp("codec")
    codec.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)).save(file)
    return file


def test_a_picture_is_coded_described_and_decoded(
    capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path
) -> None:
    coded, decoded = tmp_path / "photo.szc", tmp_path / "photo.png"
    assert "70 x 40" in run(capsys, "encode", photo, coded, "--model", model)
    facts = json.loads(run(capsys, "info", coded, "--json"))
    assert (facts["width"], facts["height"], facts["codec"]) == (70, 40, "mean-scale")
    assert facts["bytes"] == coded.stat().st_size
    assert "bits per pixel" in run(capsys, "info", coded)
    run(capsys, "decode", coded, decoded, "--model", model)
    with Image.open(decoded) as opened:
        assert (opened.size, opened.mode) == ((70, 40), "RGB")


def test_json_of_both_commands(capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path) -> None:
    coded = tmp_path / "photo.szc"
    facts = json.loads(run(capsys, "encode", photo, coded, "--model", model, "--json"))
    assert facts["bytes"] == coded.stat().st_size
    assert facts["bpp"] == pytest.approx(facts["bytes"] * 8 / 2800)
    assert json.loads(run(capsys, "decode", coded, tmp_path / "a.png", "--model", model, "--json"))["width"] == 70


def test_a_refined_file_says_so(capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path) -> None:
    coded = tmp_path / "photo.szc"
    run(capsys, "encode", photo, coded, "--model", model, "--refine", "--steps", 3, "--arithmetic", "float32")
    assert Bitstream.load(coded).header.flags & REFINED
    facts = json.loads(run(capsys, "info", coded, "--json"))
    assert facts["refined"]
    assert facts["arithmetic"] == "float32"


def test_the_zoos_codec_is_found_by_quality_and_by_a_files_weights(
    capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(szilard_zoo, "names", lambda: ["mlicv2-q2", "mean-scale-q3"])
    monkeypatch.setattr(szilard_zoo, "path", lambda name: model)
    coded = tmp_path / "photo.szc"
    run(capsys, "encode", photo, coded, "--quality", 2)
    run(capsys, "decode", coded, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
    assert "has no codec mlicv2-q3 (it has mlicv2-q2, mean-scale-q3)" in run(capsys, "encode", photo, coded, code=2)
    run(capsys, "encode", photo, coded, "--codec", "mean-scale")
    monkeypatch.setattr(szilard_zoo, "names", list)
    assert "which the zoo does not have: name one with --model" in run(
        capsys, "decode", coded, tmp_path / "a.png", code=2
    )


def test_transparency_is_refused_unless_told(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    clear, coded = tmp_path / "clear.png", tmp_path / "clear.szc"
    values = np.random.default_rng(0).integers(0, 256, (10, 12, 4), dtype=np.uint8)
    Image.fromarray(values).save(clear)
    assert "has transparency" in run(capsys, "encode", clear, coded, "--model", model, code=2)
    assert not coded.exists()
    run(capsys, "encode", clear, coded, "--model", model, "--alpha", "keep")
    assert "JPEG has not" in run(capsys, "decode", coded, tmp_path / "a.jpg", "--model", model, code=2)
    run(capsys, "decode", coded, tmp_path / "a.png", "--model", model)
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(np.asarray(opened)[..., 3], values[..., 3])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("encode", "PHOTO", "OUT", "--steps", "5"), "belongs to --refine"),
        (("encode", "PHOTO", "OUT", "--model", "MODEL", "--quality", "2"), "give one of the two"),
        (("encode", "PHOTO", "OUT", "--quality", "5"), "between 1 and 4"),
        (("encode", "PHOTO", "OUT", "--codec", "jpeg"), "--codec must be one of"),
        (("encode", "PHOTO", "OUT", "--codec", "mlicv2", "--model", "MODEL"), "give one of the two"),
        (("encode", "PHOTO", "OUT", "--model", "MODEL", "--tile", "100"), "multiple of 64"),
        (("encode", "PHOTO", "OUT", "--alpha", "some"), "--alpha must be one of"),
        (("encode", "PHOTO", "OUT", "--arithmetic", "fast"), "--arithmetic must be one of"),
        (("encode", "none.png", "OUT", "--model", "MODEL"), "there is no file"),
        (("encode", "PHOTO", "none/out.szc", "--model", "MODEL"), "does not exist"),
        (("encode", "PHOTO", "OUT", "--model", "./none/none"), "holds no learned codec"),
        (("encode", "PHOTO", "OUT", "--model", "MODEL", "--device", "tpu9"), "is not available"),
        (("decode", "PHOTO", "a.png", "--model", "MODEL"), "does not begin with SZLC"),
        (("decode", "none.szc", "a.png", "--model", "MODEL"), "cannot be read"),
        (("info", "none.szc"), "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path
) -> None:
    named = {"PHOTO": photo, "MODEL": model, "OUT": tmp_path / "out.szc"}
    told = run(capsys, *(named.get(one, one) for one in arguments), code=2)
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_no_picture_is_written_over(
    capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path
) -> None:
    before = photo.read_bytes()
    (tmp_path / "link").symlink_to(photo)
    assert "name the coded file as photo.szc" in run(capsys, "encode", photo, photo, "--model", model, code=2)
    assert "is the file that is read" in run(capsys, "encode", photo, tmp_path / "link", "--model", model, code=2)
    assert photo.read_bytes() == before
    coded = tmp_path / "coded"
    run(capsys, "encode", photo, coded, "--model", model)
    coded = coded.rename(tmp_path / "coded.png")
    assert "is the file that is read" in run(capsys, "decode", coded, coded, "--model", model, code=2)


def test_links_are_followed_and_pipes_written_to(
    capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path
) -> None:
    coded, link, pipe = tmp_path / "photo.szc", tmp_path / "link.szc", tmp_path / "pipe.png"
    coded.write_bytes(b"")
    coded.chmod(0o600)
    link.symlink_to(coded)
    run(capsys, "encode", photo, link, "--model", model)
    assert link.is_symlink() and coded.stat().st_size and coded.stat().st_mode & 0o777 == 0o600
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    run(capsys, "decode", link, pipe, "--model", model)
    assert os.read(reading, 4) == b"\x89PNG" and pipe.is_fifo()
    os.close(reading)


def test_a_full_disk_is_told_and_leaves_what_was_there(
    capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = tmp_path / "photo.szc"
    coded.write_bytes(b"before")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    said = run(capsys, "encode", photo, coded, "--model", model, code=2)
    assert "cannot be written (No space left on device)" in said
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def test_a_read_only_file_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = tmp_path / "photo.szc"
    coded.write_bytes(b"before")
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not (path == coded and mode == os.W_OK))
    assert "must not be written" in run(capsys, "encode", photo, coded, "--model", "none", code=2)


def test_a_picture_that_its_format_cannot_hold_is_refused_before_it_is_decoded() -> None:
    check_target(Path("a.png"), size=(2, 20_000))
    with pytest.raises(ValueError, match="sides of WEBP are 16,383 pixels at most, not 20000 x 2"):
        check_target(Path("a.webp"), size=(2, 20_000))


def test_what_a_coded_file_does_not_keep_is_told(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    pages, plain, coded = tmp_path / "pages.tif", tmp_path / "plain.png", tmp_path / "a.szc"
    one = Image.new("RGB", (70, 40))
    one.save(pages, save_all=True, append_images=[one.copy(), one.copy()], icc_profile=b"none")
    one.save(plain, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert main(["encode", str(pages), str(coded), "--model", str(model)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "does not keep 2 of its 3 pictures" in said and "colour profile (unreadable)" in said
    assert main(["encode", str(plain), str(coded), "--model", str(model)]) == 0
    assert "keep" not in capsys.readouterr().err


def test_larger_pictures_than_allowed_are_refused_before_the_codec_is_opened(
    capsys: pytest.CaptureFixture[str], model: Path, photo: Path, tmp_path: Path
) -> None:
    coded = tmp_path / "photo.szc"
    run(capsys, "encode", photo, coded, "--model", model)
    said = run(capsys, "decode", coded, tmp_path / "a.png", "--model", "none", "--max-pixels", 2799, code=2)
    assert "70 x 40 pixels, more than the 2,799" in said
    run(capsys, "decode", coded, tmp_path / "a.png", "--model", model, "--max-pixels", 2800)


def test_the_two_limits_on_pixels_are_one() -> None:
    option = inspect.signature(decode_command).parameters["max_pixels"]
    assert option.default == MAX_DECODED == inspect.signature(decode).parameters["max_pixels"].default


def test_a_model_that_is_no_folder_and_no_hub_id_is_told_at_once(
    capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_hub(*_: Any) -> None:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("szilard.codecs.opening.hf_hub_download", no_hub)
    said = run(capsys, "encode", photo, tmp_path / "a.szc", "--model", "runs", code=2)
    assert "no such folder, and a hub id is written owner/name" in said
    said = run(capsys, "encode", photo, tmp_path / "a.szc", "--model", "runs/codec", code=2)
    assert "can be reached: no such folder, and the hub does not answer" in said


def test_pillow_says_nothing_beside_the_sentence(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many.tif"
    Image.new("RGB", (9, 9)).save(many, tiffinfo={})
    data = bytearray(many.read_bytes())
    place = data.index(b"\x15\x01\x03\x00\x01\x00\x00\x00")  # SamplesPerPixel
    data[place + 8 : place + 10] = (2048).to_bytes(2, "little")
    many.write_bytes(data)
    said = run(capsys, "encode", many, tmp_path / "a.szc", "--model", model, code=2)
    assert said.startswith("szilard: ") and said.count("\n") == 1
    assert not logging.getLogger("PIL.TiffImagePlugin").isEnabledFor(logging.ERROR)


def test_a_codecs_folder_is_described(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    facts = json.loads(run(capsys, "info", model, "--json"))
    assert (facts["codec"], facts["trained, lambda"], facts["N"]) == ("mean-scale", "0.01", "8")
    assert "weights" in run(capsys, "info", "zoo/mlicv2-q1")
