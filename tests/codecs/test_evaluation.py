"""Evaluations: a row per picture and codec, from real files, that a killed run need not measure again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from szilard.cli.main import main
from szilard.codecs.evaluation import (
    Evaluation,
    centre,
    eight_bits,
    evaluate_codecs,
    measure,
    psnr,
    read_rows,
    similarity,
)
from szilard.codecs.images import Picture
from szilard.codecs.mlicv2 import MLICv2
from szilard.codecs.peak_memory import peak_memory
from szilard.codecs.picture_codec import CodedPicture, LearnedPictureCodec
from szilard.codecs.pillow_codec import PillowCodec
from szilard.codecs.rd_curves import RDCurve
from szilard.codecs.rd_picture import crops_png, curves_svg
from tests.codecs.test_picture_codecs import learned, scene

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("constriction")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in (("a", (72, 100)), ("b", (64, 64))):
        Image.fromarray(scene(*size)).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


class Raw:
    """Writes samples as they are, and counts how often."""

    name, point, parameters, calls = "raw", "", 0, 0

    def identity(self) -> str:
        return "raw"

    def encode(self, picture: Picture) -> CodedPicture:
        self.calls += 1
        height, width = picture.size
        return CodedPicture(bytes([height, width]) + picture.samples.tobytes(), picture.samples.size)

    def decode(self, data: bytes) -> Picture:
        return Picture(np.frombuffer(data[2:], np.uint8).reshape(data[0], data[1], 3))

    def estimated_bits(self, picture: Picture) -> float | None:
        return 24.0 * picture.samples[..., 0].size


def test_a_row_counts_the_whole_file_over_the_pictures_own_pixels() -> None:
    row = measure(Raw(), Picture(scene(72, 100)))
    assert row["bpp"] == 24 + 16 / 7200 and row["payload_bpp"] == 24 and row["estimated_bpp"] == 24
    assert row["psnr"] == 100 and (row["width"], row["height"]) == (100, 72)
    assert row["encode_seconds"] > 0 and row["decode_seconds"] > 0


def test_a_learned_codecs_rows_are_those_of_its_files() -> None:
    codec, picture = LearnedPictureCodec(learned()), Picture(scene())
    row, coded = measure(codec, picture), codec.encode(picture)
    assert row["bpp"] == 8 * len(coded.data) / 7200 > row["payload_bpp"] == 8 * coded.payload_bytes / 7200
    assert row["psnr"] == psnr(picture.samples, codec.decode(coded.data).samples)
    assert row["parameters"] == codec.parameters


def test_psnr_is_of_eight_bits_over_all_channels() -> None:
    one = np.zeros((8, 8, 3), np.uint8)
    other = one.copy()
    other[..., 0] = 3
    assert psnr(one, other) == pytest.approx(10 * math.log10(255**2 / 3))
    assert psnr(one, one) == 100
    deep = np.array([[[0, 257, 65535], [128, 129, 386]]], np.uint16)
    assert eight_bits(deep).tolist() == [[[0, 1, 255], [0, 1, 2]]]


def test_ms_ssim_needs_sides_above_160() -> None:
    pytest.importorskip("pytorch_msssim")
    assert similarity(scene(160, 300), scene(160, 300)) is None
    assert similarity(scene(170, 170), scene(170, 170)) == pytest.approx(1)
    noisy = np.clip(scene(170, 170).astype(int) + np.random.default_rng(0).integers(-30, 30, (170, 170, 3)), 0, 255)
    found = similarity(scene(170, 170), noisy.astype(np.uint8))
    assert found is not None and found < 0.99


def test_curves_average_psnr_over_pictures(pictures: list[Path]) -> None:
    found = evaluate_codecs([PillowCodec("jpeg", quality) for quality in (10, 50)], pictures)
    assert len(found.rows) == 4
    (curve,) = found.curves()
    own = [row for row in found.rows if row["point"] == "50"]
    assert curve.psnr[1] == pytest.approx((own[0]["psnr"] + own[1]["psnr"]) / 2)
    assert curve.rates[1] == pytest.approx((own[0]["bpp"] + own[1]["bpp"]) / 2)
    sizes = [(row["width"], row["height"], row["pictures"]) for row in found.timing()]
    assert sorted(set(sizes)) == [(64, 64, 1), (100, 72, 1)]


def test_curves_average_plain_ms_ssim_and_then_take_decibels() -> None:
    row = {
        "codec": "a",
        "point": "1",
        "parameters": 0,
        "bpp": 1.0,
        "payload_bpp": 1.0,
        "estimated_bpp": None,
        "psnr": 30,
    }
    row |= {"encode_seconds": 1.0, "decode_seconds": 1.0, "peak_megabytes": None}
    (curve,) = Evaluation([row | {"ms_ssim": 0.99}, row | {"ms_ssim": 0.91}]).curves()
    assert curve.ms_ssim == pytest.approx((-10 * math.log10(0.05),))


def test_a_stopped_evaluation_goes_on_and_a_torn_line_is_measured_again(pictures: list[Path], tmp_path: Path) -> None:
    out, codec = tmp_path / "out", Raw()
    whole = evaluate_codecs([codec], pictures, out)
    assert codec.calls == 2
    file = out / "rows.jsonl"
    lines = file.read_text().splitlines()
    assert [json.loads(line)["picture"] for line in lines] == ["a.png", "b.png"]
    file.write_text(lines[0] + "\n" + lines[1][:40])
    again = evaluate_codecs([codec, PillowCodec("webp", 30)], pictures, out)
    assert codec.calls == 3
    assert len(list(read_rows(file))) == 4
    kept = [row for row in again.rows if row["codec"] == "raw"]
    assert kept[0] == whole.rows[0]
    assert [row["bpp"] for row in kept] == [row["bpp"] for row in whole.rows]
    assert evaluate_codecs([codec], pictures, out).rows == kept and codec.calls == 3


def test_rows_of_another_picture_or_codec_are_not_taken(pictures: list[Path], tmp_path: Path) -> None:
    out, codec = tmp_path / "out", Raw()
    evaluate_codecs([codec], pictures[:1], out)
    Image.fromarray(scene(72, 100)[::-1]).save(pictures[0])
    evaluate_codecs([codec], pictures[:1], out)
    assert codec.calls == 2
    first = evaluate_codecs([PillowCodec("webp", 30)], pictures[:1], out).rows[0]
    second = evaluate_codecs([PillowCodec("webp", 31)], pictures[:1], out).rows[0]
    assert first["codec_id"] != second["codec_id"]


def test_bad_evaluations_are_refused(pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs codecs and pictures; there are 0 and 2"):
        evaluate_codecs([], pictures)
    with pytest.raises(ValueError, match="webp 30 is given twice"):
        evaluate_codecs([PillowCodec("webp", 30)] * 2, pictures)
    raw = Raw()
    with pytest.raises(ValueError, match=r"call update\(\)"):
        evaluate_codecs([raw, LearnedPictureCodec(MLICv2("mlicv2-tiny"))], pictures)
    assert raw.calls == 0
    with pytest.raises(ValueError, match="same name"):
        evaluate_codecs([Raw()], [pictures[0]] * 2)
    with pytest.raises(ValueError, match=r"'b.png' has 64 x 64 pixels, too few"):
        evaluate_codecs([Raw()], pictures, crop=65)
    with pytest.raises(ValueError, match="is a file"):
        evaluate_codecs([Raw()], pictures, pictures[0] / "out")


def test_pictures_and_rows_are_looked_at_before_anything_is_measured(pictures: list[Path], tmp_path: Path) -> None:
    text, out = tmp_path / "z.png", tmp_path / "out"
    text.write_text("text")
    with pytest.raises(ValueError, match=r"z\.png' cannot be read"):
        evaluate_codecs([PillowCodec("webp", 50)], [*pictures, text], out)
    with pytest.raises(ValueError, match="too few for crops of 100000"):
        evaluate_codecs([PillowCodec("webp", 50)], pictures, out, crop=100_000)
    assert not out.exists()
    for other in (tmp_path / "folder", tmp_path / "bytes"):
        (other / "rows.jsonl").mkdir(parents=True) if other.name == "folder" else other.mkdir()
        if other.name == "bytes":
            (other / "rows.jsonl").write_bytes(b"\xff")
        with pytest.raises(ValueError, match="holds no rows of an evaluation"):
            evaluate_codecs([PillowCodec("webp", 50)], pictures, other)


def test_the_centre_of_a_picture() -> None:
    samples = scene(10, 14)
    assert np.array_equal(centre(Picture(samples), 6, "x").samples, samples[2:8, 4:10])


def test_peak_memory_sees_a_large_block() -> None:
    with peak_memory() as peak:
        block = np.ones(8_000_000)  # 61 MB
        del block
    assert peak.megabytes is None or 50 < peak.megabytes < 500


def test_curves_are_drawn_with_a_line_and_dots_each() -> None:
    curves = [
        RDCurve("a & b", (0.1, 0.5, 1.0), (28.0, 33.0, 36.0)),
        RDCurve("c", (0.2, 0.4), (30.0, 31.0), (9.0, 11.0)),
    ]
    root = ElementTree.fromstring(curves_svg(curves, title="<Kodak>"))
    circles = [part for part in root.iter() if part.tag.endswith("circle")]
    assert len(circles) == 5
    texts = [part.text for part in root.iter() if part.tag.endswith("text")]
    assert {"a & b", "c", "<Kodak>", "PSNR, dB", "bits per pixel"} <= set(texts)
    points = [(float(one.get("cx", 0)), float(one.get("cy", 0))) for one in circles]
    assert points[0][0] < points[1][0] and points[0][1] > points[1][1]  # more bits to the right, better above
    similar = ElementTree.fromstring(curves_svg(curves, "ms-ssim"))
    assert len([part for part in similar.iter() if part.tag.endswith("circle")]) == 2
    with pytest.raises(ValueError, match="nothing to draw"):
        curves_svg(curves[:1], "ms-ssim")


def test_crops_stand_side_by_side() -> None:
    import io

    codecs = [PillowCodec("jpeg", 5), PillowCodec("webp", 20)]
    sheet = Image.open(io.BytesIO(crops_png(codecs, Picture(scene()), top=8, left=20, size=32, columns=2)))
    assert sheet.size == (2 * 64 + 6, 2 * (64 + 34))
    first = np.asarray(sheet.convert("RGB"))[:64:2, :64:2]
    assert np.array_equal(first, scene()[8:40, 20:52])
    with pytest.raises(ValueError, match="not inside"):
        crops_png(codecs, Picture(scene()), top=60, left=0, size=32)


def _run(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = main(["evaluate-codecs", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_command_prints_tables_and_writes_curves(pictures: list[Path], tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("bjontegaard")
    learned().save_pretrained(tmp_path / "tiny")
    given = ["--images", str(pictures[0].parent), "--codec", "jpeg:10,30,60,90", "--codec", "webp:1,30,60,90"]
    given += ["--codec", str(tmp_path / "tiny"), "--anchor", "jpeg", "-o", str(tmp_path / "out")]
    code, out, _ = _run(capsys, *given)
    assert code == 0
    assert "means over 2 pictures" in out and "against jpeg, pchip" in out and "what they take, by size" in out
    assert {"rows.jsonl", "results.json", "psnr.svg", "curve-jpeg.json", "curve-webp.json"} <= {
        one.name for one in (tmp_path / "out").iterdir()
    }
    before = (tmp_path / "out" / "rows.jsonl").read_text()
    code, out, _ = _run(capsys, *given, "--json")
    found = json.loads(out)
    assert code == 0 and (tmp_path / "out" / "rows.jsonl").read_text() == before
    assert [row["codec"] for row in found["bd"]] == ["webp", "mlicv2"]
    assert found["bd"][0]["bd_rate"] < 0
    assert found["bd"][1]["bd_rate"] is None and "4 are needed" in found["bd"][1]["why not"]
    assert len(found["summary"]) == 9 and len(found["rows"]) == 18
    curve = RDCurve.from_json(tmp_path / "out" / "curve-jpeg.json")
    assert curve.psnr == pytest.approx(Evaluation(found["rows"][:4] + found["rows"][9:13]).curves()[0].psnr)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (("--codec", "webp:fine"), "whole numbers"),
        (("--codec", "src"), "holds no learned codec"),
        (("--codec", "webp", "--anchor", "vtm"), "anchor"),
        (("--codec", "webp", "--method", "linear"), "method"),
        (("--codec", "webp", "--tile", "100"), "tile"),
        (("--codec", "webp", "--curve", "nothing.json"), "no file"),
    ],
)
def test_bad_commands_are_told(
    pictures: list[Path], tmp_path: Path, capsys: Any, wrong: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "src").mkdir()
    wrong = tuple(str(tmp_path / "src") if text == "src" else text for text in wrong)
    code, _, err = _run(capsys, "--images", str(pictures[0].parent), "-o", str(tmp_path / "out"), *wrong)
    assert code == 2 and sentence in err
    assert not (tmp_path / "out").exists()
