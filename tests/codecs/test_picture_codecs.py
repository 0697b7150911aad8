"""Standards and learned codecs keep one protocol: a picture to bytes and back."""

from __future__ import annotations

import hashlib
import os
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from szilard.codecs.contestants import contestants
from szilard.codecs.evaluation import psnr
from szilard.codecs.images import Picture, read_picture
from szilard.codecs.mlicv2 import MLICv2
from szilard.codecs.picture_codec import LearnedPictureCodec, PictureCodec
from szilard.codecs.pillow_codec import PillowCodec
from szilard.codecs.vvc_codec import VVCCodec

features = pytest.importorskip("PIL.features")
pytest.importorskip("constriction")


def scene(height: int = 72, width: int = 100) -> np.ndarray:
    """A smooth picture with an edge, uint8 [H, W, 3]."""
    rows, columns = np.mgrid[:height, :width] / 20.0
    waves = [np.sin(rows + shift) * np.cos(columns - shift) for shift in (0.0, 0.7, 1.9)]
    return np.rint(np.stack(waves, axis=-1) * 80 + 120 + 40 * (columns > rows)[..., None]).astype(np.uint8)


def learned() -> MLICv2:
    """An untrained codec with tables."""
    torch.manual_seed(0)
    codec = MLICv2("mlicv2-tiny")
    codec.update(force=True)
    return codec.eval()


def _available(kind: str) -> PictureCodec:
    try:
        return VVCCodec(30, "faster") if kind == "vvc" else PillowCodec(kind, 60)
    except ValueError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif", "heic", "vvc"])
def test_a_standard_gives_back_the_picture_within_its_loss(kind: str) -> None:
    codec, picture = _available(kind), Picture(scene(71, 101))
    coded = codec.encode(picture)
    decoded = codec.decode(coded.data)
    assert decoded.size == picture.size and decoded.samples.dtype == np.uint8
    assert psnr(picture.samples, decoded.samples) > 24
    assert 0 < coded.payload_bytes <= len(coded.data) < picture.samples.size
    assert codec.parameters == 0 and codec.estimated_bits(picture) is None
    assert (codec.name, codec.encode(picture)) == (kind, coded)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_more_quality_is_a_larger_and_better_file(kind: str) -> None:
    _available(kind)
    picture = Picture(scene())
    files = [PillowCodec(kind, quality).encode(picture).data for quality in (10, 50, 90)]
    decoded = [PillowCodec(kind, 50).decode(file).samples for file in files]
    assert len(files[0]) < len(files[1]) < len(files[2])
    assert psnr(picture.samples, decoded[0]) < psnr(picture.samples, decoded[2])


def test_grey_pictures_stay_grey() -> None:
    grey = Picture(np.repeat(scene()[..., :1], 3, axis=2), 1)
    for kind in ("jpeg", "webp"):
        found = PillowCodec(kind, 80).decode(PillowCodec(kind, 80).encode(grey).data)
        assert np.ptp(found.samples.astype(int), axis=2).max() <= 2


def test_a_learned_codec_keeps_the_protocol_and_estimates_its_bits() -> None:
    codec, picture = LearnedPictureCodec(learned()), Picture(scene())
    coded = codec.encode(picture)
    decoded = codec.decode(coded.data)
    assert decoded.size == picture.size
    estimated = codec.estimated_bits(picture)
    assert estimated is not None and estimated > 0
    assert coded.payload_bytes < len(coded.data)
    assert codec.parameters == sum(parameter.numel() for parameter in codec.codec.parameters())


def test_a_tiled_picture_has_no_estimate() -> None:
    codec = LearnedPictureCodec(learned(), tile=128)
    assert codec.estimated_bits(Picture(scene(140, 150))) is None


def test_other_weights_and_other_arithmetic_are_another_codec() -> None:
    first, second = learned(), learned()
    assert LearnedPictureCodec(first).identity() == LearnedPictureCodec(second).identity()
    second.arithmetic = "float32"
    assert LearnedPictureCodec(first).identity() != LearnedPictureCodec(second).identity()
    with torch.no_grad():
        next(first.parameters()).add_(1)
    second.arithmetic = "exact"
    assert LearnedPictureCodec(first).identity() != LearnedPictureCodec(second).identity()
    assert PillowCodec("webp", 10).identity() != PillowCodec("webp", 11).identity()


def test_what_a_standard_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        PillowCodec("gif", 10)
    with pytest.raises(ValueError, match="quality"):
        PillowCodec("webp", 101)
    with pytest.raises(TypeError, match="quality"):
        PillowCodec("webp", 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="8 bits a sample"):
        PillowCodec("webp", 10).encode(Picture(scene().astype(np.uint16)))
    with pytest.raises(ValueError, match="transparency"):
        PillowCodec("webp", 10).encode(Picture(scene(), 3, scene()[..., 0]))
    with pytest.raises(ValueError, match="no whole webp file"):
        PillowCodec("webp", 10).decode(b"RIFF")
    data = PillowCodec("jpeg", 50).encode(Picture(scene())).data
    with pytest.raises(ValueError, match="no whole jpeg file"):
        PillowCodec("jpeg", 50).decode(data[: len(data) // 2])


def test_contestants_are_standards_with_qualities_or_folders(tmp_path: Path) -> None:
    assert [one.point for one in contestants("webp:10,50")] == ["10", "50"]
    assert PillowCodec("webp") == PillowCodec("webp", 75)
    assert len(contestants("jpeg")) >= 4
    for lmbda in (0.01, 0.1):
        codec = learned()
        codec.trained_on = {"lambda": lmbda}
        codec.save_pretrained(tmp_path / "mine" / f"at-{lmbda}")
    points = contestants(str(tmp_path / "mine"))
    assert [(one.name, one.point) for one in points] == [("mine", "0.01"), ("mine", "0.1")]
    (single,) = contestants(f"best={tmp_path / 'mine' / 'at-0.1'}", arithmetic="float32")
    assert (single.name, single.point) == ("best", "0.1")
    assert isinstance(single, LearnedPictureCodec) and single.codec.arithmetic == "float32"


def test_contestants_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        contestants("webp:high")
    with pytest.raises(ValueError, match="names no codec"):
        contestants("mine=")
    with pytest.raises(ValueError, match="keeps its name"):
        contestants("mine=webp")
    with pytest.raises(ValueError, match="holds no learned codec"):
        contestants(str(tmp_path))


KODAK = Path(os.environ.get("SZILARD_KODAK", "kodak"))


@pytest.mark.skipif(not KODAK.is_dir(), reason="SZILARD_KODAK names no folder of Kodak's pictures")
def test_kodak_is_kodak_by_its_pixels_and_its_webp_files() -> None:
    """All 24, whose WebP points are published, or their first 16, whose points were measured here."""
    files = sorted(KODAK.glob("*.png"))
    pictures = [read_picture(file) for file in files]
    digest = hashlib.sha256(b"".join(picture.samples.tobytes() for picture in pictures)).hexdigest()
    known = {
        24: (
            "c2c749bf39d7af3358bd899102b179c2ac68dbfab84dd8bbd177f508735db8af",
            {10: (0.29634, 29.1512), 50: (0.72182, 33.2376)},
        ),
        16: (
            "e4e3ed55812495f0c6d18cf5ab5edd5ad312c60faffec31431191103a0ee1b12",
            {10: (0.30939, 29.1014), 50: (0.75209, 33.2662)},
        ),
    }
    assert len(pictures) in known, f"{len(pictures)} pictures: neither Kodak's 24 nor their first 16"
    wanted, points = known[len(pictures)]
    assert digest == wanted
    for quality, (rate, distortion) in points.items():
        codec = PillowCodec("webp", quality)
        coded = [codec.encode(picture).data for picture in pictures]
        rates = [8 * len(data) / picture.samples[..., 0].size for data, picture in zip(coded, pictures, strict=True)]
        decoded = [codec.decode(data).samples for data in coded]
        losses = [psnr(picture.samples, found) for picture, found in zip(pictures, decoded, strict=True)]
        assert statistics.fmean(rates) == pytest.approx(rate, abs=5e-5)
        assert statistics.fmean(losses) == pytest.approx(distortion, abs=5e-4)
