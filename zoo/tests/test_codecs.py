"""The codecs of the zoo: files that decode exactly, as long as their likelihoods say, and better with the quality."""

# ruff: noqa: E402  (the extras are asked for first)
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _module in ("constriction", "skimage", "pytorch_msssim"):
    pytest.importorskip(_module)

from szilard.cli.main import main
from szilard.codecs.coding import decode, encode
from szilard.codecs.container import Bitstream
from szilard.codecs.evaluation import measure, psnr
from szilard.codecs.images import Picture, read_picture
from szilard.codecs.picture_codec import LearnedPictureCodec
from szilard.codecs.zoo import QUALITIES, codec_of_quality


@pytest.fixture(scope="module")
def picture() -> Picture:
    """Of odd sides, a crop of a photograph."""
    from skimage import data

    return Picture(np.ascontiguousarray(data.astronaut()[20:317, 100:391]))


@pytest.fixture(scope="module")
def rows(picture: Picture) -> list[Any]:
    """What each quality makes of it."""
    codecs = [codec_of_quality(quality) for quality in range(1, QUALITIES + 1)]
    return [measure(LearnedPictureCodec(codec, "mlicv2", str(place)), picture) for place, codec in enumerate(codecs)]


def test_files_are_as_long_as_the_likelihoods_say(rows: list[Any]) -> None:
    for row in rows:
        assert row["payload_bpp"] == pytest.approx(row["estimated_bpp"], rel=0.01)


def test_higher_qualities_cost_more_and_show_more(rows: list[Any]) -> None:
    rates, qualities = [row["bpp"] for row in rows], [row["psnr"] for row in rows]
    assert rates == sorted(rates) and qualities == sorted(qualities)
    assert rates[-1] > 1.5 * rates[0] and qualities[0] > 20


def test_a_file_is_decoded_without_naming_the_codec(tmp_path: Path, picture: Picture) -> None:
    from PIL import Image

    Image.fromarray(picture.samples).save(tmp_path / "in.png")
    assert main(["encode", str(tmp_path / "in.png"), str(tmp_path / "a.szc"), "--quality", "2"]) == 0
    assert main(["decode", str(tmp_path / "a.szc"), str(tmp_path / "out.png")]) == 0
    codec = codec_of_quality(2)
    coded = encode(codec, picture)
    assert Bitstream.load(tmp_path / "a.szc").to_bytes() == coded.to_bytes()
    expected = decode(codec, coded)
    assert np.array_equal(read_picture(tmp_path / "out.png").samples, expected.samples)
    assert psnr(picture.samples, expected.samples) > 20
