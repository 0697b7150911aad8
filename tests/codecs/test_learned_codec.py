"""What every learned codec here is: streams of each image, tables, a folder, an id of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.mlicv2 import MLICv2
from szilard.codecs.opening import open_codec
from szilard.codecs.quantizers import Rounding
from szilard.codecs.tables import CorruptStream
from tests.codecs.conftest import awake, pixels, tiny_codec


@pytest.mark.parametrize("arithmetic", ["exact", "float32"])
@pytest.mark.parametrize("which", ["mlicv2", "mean-scale"])
def test_a_batch_has_the_streams_of_its_images(which: str, arithmetic: str, trained: MeanScaleHyperprior) -> None:
    codec: LearnedCodec = tiny_codec() if which == "mlicv2" else trained
    with torch.no_grad():
        y = codec.g_a(pixels(3, 64, 128, seed=4)) * torch.tensor([1.0, 40.0, 0.01])[:, None, None, None]
        z = codec.h_a(y)
    codec.arithmetic = arithmetic
    try:
        together = codec.compress_latents(y, z)
        for row in range(3 if arithmetic == "exact" else 0):
            alone = codec.compress_latents(y[row : row + 1], z[row : row + 1])
            assert [one[0] for one in alone["strings"]] == [one[row] for one in together["strings"]]
            assert alone["checks"] == together["checks"][row : row + 1]
        codec.decode_latents(together["strings"], together["shape"], together["checks"])
    finally:
        codec.arithmetic = "exact"


def test_a_trained_codec_decodes_what_forward_shows(trained: MeanScaleHyperprior) -> None:
    x = pixels(2, 64, 64, seed=7)
    with torch.no_grad():
        found = trained(x)
    coded = trained.compress(x)
    decoded = trained.decompress(coded["strings"], coded["shape"], coded["checks"])["x_hat"]
    assert torch.equal(decoded, found["x_hat"].clamp(0, 1))


def test_files_in_float32_do_not_depend_on_the_callers_autocast(trained: MeanScaleHyperprior) -> None:
    x = pixels(1, 64, 128, seed=6)
    trained.arithmetic = "float32"
    try:
        coded = trained.compress(x)
        alone = trained.decompress(coded["strings"], coded["shape"], coded["checks"])["x_hat"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert trained.g_a(x).dtype == torch.bfloat16
            found = trained.decompress(coded["strings"], coded["shape"], coded["checks"])["x_hat"]
    finally:
        trained.arithmetic = "exact"
    assert torch.equal(found, alone)


def test_streams_have_the_size_that_their_tables_say(trained: MeanScaleHyperprior) -> None:
    x = pixels(1, 256, 256, seed=9)
    coded = trained.compress(x)
    y_bits, z_bits = (len(stream[0]) * 8 for stream in coded["strings"])
    with torch.no_grad():
        likelihoods = trained(x)["likelihoods"]
        y = trained.g_a(x)
        found = trained._predicted(trained.entropy_bottleneck.quantize(trained.h_a(y)), Rounding(y.double()))
        gaussian = trained.gaussian_conditional
        scales = gaussian.scale_table.double()[gaussian.indexes(found.scales)]
        by_table = -float(gaussian.likelihood((y - found.means).round(), scales).log2().sum())
    z_estimate = -float(likelihoods["z"].log2().sum())
    assert abs(y_bits - by_table) < 0.01 * by_table + 64
    assert abs(z_bits - z_estimate) < 0.01 * z_estimate + 64
    estimate = -float(likelihoods["y"].log2().sum())
    assert abs(y_bits - estimate) < 0.01 * estimate + 64


@pytest.mark.parametrize("which", ["mlicv2", "mean-scale"])
def test_a_saved_codec_is_the_same_and_reads_the_others_streams(
    which: str, trained: MeanScaleHyperprior, tmp_path: Path
) -> None:
    codec: LearnedCodec = tiny_codec() if which == "mlicv2" else trained
    coded = codec.compress(pixels())
    codec.save_pretrained(tmp_path / "codec")
    read = open_codec(tmp_path / "codec")
    assert type(read) is type(codec)
    assert read.weights_id() == codec.weights_id()
    assert read.trained_on == codec.trained_on
    assert read.settings == codec.settings  # type: ignore[attr-defined]
    decoded = read.decompress(coded["strings"], coded["shape"], coded["checks"])["x_hat"]
    assert torch.equal(decoded, codec.decompress(coded["strings"], coded["shape"])["x_hat"])
    assert "szilard encode" in (tmp_path / "codec" / "README.md").read_text()


def test_the_id_changes_with_tables_and_weights() -> None:
    torch.manual_seed(0)
    codec = MeanScaleHyperprior(HyperpriorConfig(4, 4))
    found = [codec.weights_id()]
    codec.update()
    found.append(codec.weights_id())
    codec.update()
    assert codec.weights_id() == found[-1]
    with torch.no_grad():
        codec.entropy_bottleneck.quantiles[:, :, 2] += 5
    found.append(codec.weights_id())
    codec.update(force=True)
    found.append(codec.weights_id())
    assert len(set(found)) == 4
    assert all(len(one) == 8 for one in found)


def test_tables_come_first(trained: MeanScaleHyperprior) -> None:
    codec = MeanScaleHyperprior(HyperpriorConfig(4, 4)).eval()
    with pytest.raises(ValueError, match=r"call update\(\)"):
        codec.compress(pixels())
    assert codec.update()
    assert not codec.update()


def test_streams_of_other_weights_are_refused(trained: MeanScaleHyperprior) -> None:
    coded = trained.compress(pixels(seed=3))
    other = MeanScaleHyperprior(HyperpriorConfig(12, 16)).eval()
    other.update()
    with pytest.raises(CorruptStream):
        other.decompress(coded["strings"], coded["shape"], coded["checks"])
    with pytest.raises(CorruptStream, match="not those that were written"):
        trained.decompress(coded["strings"], coded["shape"], [coded["checks"][0] ^ 1])


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(1, 3, 64, 65), torch.zeros(1, 3, 64, 64).int()],
)
def test_what_is_no_picture_is_told(wrong: torch.Tensor, trained: MeanScaleHyperprior) -> None:
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]|multiples of 64"):
        trained.compress(wrong)


def test_pictures_and_weights_without_numbers_are_refused(trained: MeanScaleHyperprior) -> None:
    with pytest.raises(ValueError, match="not finite"):
        trained.compress(pixels() * float("nan"))
    codec = MeanScaleHyperprior(HyperpriorConfig(4, 4)).eval()
    codec.update()
    with torch.no_grad():
        codec.h_s[-1].bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="not finite"):
        codec.compress(pixels())


def test_folders_of_something_else_are_told(tmp_path: Path, trained: MeanScaleHyperprior) -> None:
    with pytest.raises(ValueError, match="holds no learned codec"):
        open_codec(tmp_path)
    trained.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="open it with"):
        MLICv2.from_pretrained(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        open_codec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"codec": "jpeg"}))
    with pytest.raises(ValueError, match="codec must be one of"):
        open_codec(tmp_path)


def test_weights_are_exchanged_with_compressai(trained: MeanScaleHyperprior) -> None:
    models: Any = pytest.importorskip("compressai.models", exc_type=ImportError)
    torch.manual_seed(0)
    theirs = models.MeanScaleHyperprior(12, 16)
    theirs.load_state_dict(trained.state_dict())
    theirs.eval()
    x = pixels(2, 64, 128, seed=5)
    trained.arithmetic = "float32"
    try:
        with torch.no_grad():
            ours, other = trained(x), theirs(x)
    finally:
        trained.arithmetic = "exact"
    assert torch.allclose(ours["x_hat"], other["x_hat"], atol=1e-6)
    for name in ("y", "z"):
        assert torch.allclose(ours["likelihoods"][name], other["likelihoods"][name], atol=1e-6)
    back = MeanScaleHyperprior.from_state_dict(theirs.state_dict())
    assert back.weights_id() == trained.weights_id()
    theirs.update(force=True)
    mine = MeanScaleHyperprior.from_state_dict(theirs.state_dict())
    mine.update(force=True)
    for name in ("_quantized_cdf", "_offset", "_cdf_length"):
        own, his = (getattr(codec.gaussian_conditional, name) for codec in (mine, theirs))
        assert torch.equal(own, his), name


def test_weights_in_half_precision_take_half_the_room_and_are_read_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = MLICv2("mlicv2-tiny")
    awake(codec)
    codec.update(force=True)
    codec.save_pretrained(tmp_path / "whole")
    codec.round_to_half()
    codec.save_pretrained(tmp_path / "half")
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.75 * whole
    read = open_codec(tmp_path / "half")
    assert read.weights_id() == codec.weights_id()
    assert all(parameter.dtype == torch.float32 for parameter in read.parameters())
    assert read.compress(pixels())["strings"] == codec.eval().compress(pixels())["strings"]
