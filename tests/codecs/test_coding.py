"""Pictures to files and back: any size, grey, 16 bits, transparency, tiles."""

from __future__ import annotations

import copy
import io
import json
import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from szilard.codecs.coding import decode, encode, padded_pixels, tile_count, tiling_of
from szilard.codecs.container import CHECKED, FLOAT32, MAX_PIXELS, REFINED, Bitstream, CorruptFile
from szilard.codecs.deep_png import deep_png
from szilard.codecs.entropy_models import GaussianConditional
from szilard.codecs.hyperprior import MeanScaleHyperprior
from szilard.codecs.images import Picture, check_target, read_picture, write_picture
from szilard.codecs.mlicv2 import MLICv2
from szilard.codecs.opening import open_codec
from szilard.codecs.tables import Tables
from tests.codecs.conftest import samples, tiny_codec


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 33), (65, 64), (64, 64), (1, 130)])
def test_pictures_of_any_size_come_back_with_it(height: int, width: int) -> None:
    codec, picture = tiny_codec(), Picture(samples(height, width))
    coded = Bitstream.from_bytes(encode(codec, picture).to_bytes())
    decoded = decode(codec, coded)
    pixels, (left, right, top, bottom) = padded_pixels(picture.samples, 64)
    with torch.no_grad():
        expected = codec(pixels)["x_hat"].clamp(0, 1)[0, :, top : top + height, left : left + width]
    assert (left, top) == (0, 0)
    assert (height + bottom) % 64 == (width + right) % 64 == 0
    assert np.array_equal(decoded.samples, (expected * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))


def test_padding_repeats_the_edges() -> None:
    pixels, pad = padded_pixels(samples(3, 5), 4)
    assert pad == (0, 3, 0, 1)
    assert torch.equal(pixels[..., 3, :5], pixels[..., 2, :5])
    assert torch.equal(pixels[..., 5], pixels[..., 4])


def test_grey_pictures_come_back_as_the_mean_of_the_channels(trained: MeanScaleHyperprior) -> None:
    grey = Picture(samples(40, 50)[..., :1].repeat(3, axis=2), 1)
    coded = encode(trained, grey)
    decoded = decode(trained, coded)
    assert (decoded.channels, decoded.depth) == (1, 8)
    with torch.no_grad():
        tile = coded.tiles[0]
        x_hat = trained.decompress([[one] for one in tile.streams], tile.shape)["x_hat"][0, :, :40, :50]
    assert np.array_equal(decoded.samples[..., 0], (x_hat.mean(0) * 255).round().numpy().astype(np.uint8))
    assert (decoded.samples == decoded.samples[..., :1]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_stay_sixteen_bits(channels: int, trained: MeanScaleHyperprior) -> None:
    values = samples(40, 50, np.uint16)
    picture = Picture(values if channels == 3 else values[..., :1].repeat(3, axis=2), channels)
    decoded = decode(trained, Bitstream.from_bytes(encode(trained, picture).to_bytes()))
    assert decoded.samples.dtype == np.uint16
    assert (decoded.samples % 257 != 0).any()  # not eight bits that were widened


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_alpha_is_carried_without_loss(kind: Any) -> None:
    alpha = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (20, 30), dtype=kind)
    coded = encode(tiny_codec(), Picture(samples(20, 30, kind), 3, alpha))
    decoded = decode(tiny_codec(), Bitstream.from_bytes(coded.to_bytes()))
    assert decoded.alpha is not None
    assert decoded.alpha.dtype == kind
    assert np.array_equal(decoded.alpha, alpha)


def test_an_alpha_block_of_another_size_is_refused() -> None:
    coded = encode(tiny_codec(), Picture(samples(20, 30), 3, np.zeros((20, 30), dtype=np.uint8)))
    for block in (b"nothing", coded.extra[1][:45], _png(np.zeros((20, 31), dtype=np.uint8))):
        with pytest.raises(CorruptFile, match="alpha block is damaged"):
            decode(tiny_codec(), replace(coded, extra={1: block}))


def _png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def test_tiles_cover_a_picture_and_seams_are_faded(trained: MeanScaleHyperprior) -> None:
    picture = Picture(samples(200, 260))
    coded = encode(trained, picture, tile=128)
    assert len(coded.tiles) == tile_count(200, 260, 128) == 6
    done: list[tuple[int, int]] = []
    decoded = decode(trained, Bitstream.from_bytes(coded.to_bytes()), progress=lambda *now: done.append(now))
    assert done == [(number, 6) for number in range(1, 7)]
    assert decoded.size == (200, 260)
    first, last = Picture(picture.samples[:128, :128]), Picture(picture.samples[96:, 192:])
    assert np.array_equal(decoded.samples[:96, :96], decode(trained, encode(trained, first)).samples[:96, :96])
    assert np.array_equal(decoded.samples[128:, 224:], decode(trained, encode(trained, last)).samples[32:, 32:])


def test_large_pictures_are_cut_unless_told_otherwise() -> None:
    assert tiling_of(2048, 2048).tile == 0
    assert tiling_of(2049, 100).tile == 1024
    assert tiling_of(4000, 4000, 0).tile == 0
    assert tile_count(100, 100, 128) == 1


@pytest.mark.parametrize(
    ("size", "tile", "said"),
    [
        ((5000, 5000), 0, "choose tile=1024"),
        ((65_536, 1), None, "sides must be 1 to 65,535"),
        ((65_535, 65_535), None, f"{MAX_PIXELS:,} in all"),
        ((500, 500), 100, "multiple of 64"),
        ((500, 500), 64, "128 at least"),
    ],
)
def test_what_is_too_large_is_told_before_any_work(size: tuple[int, int], tile: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tile_count(*size, tile)


def test_flags_tell_the_arithmetic_and_the_search() -> None:
    codec, picture = tiny_codec(), Picture(samples(20, 30))
    codec.arithmetic = "float32"
    try:
        coded = encode(codec, picture)
    finally:
        codec.arithmetic = "exact"
    assert coded.header.flags == CHECKED | FLOAT32
    decode(codec, coded)
    assert codec.arithmetic == "exact"

    def refined(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            y = codec.g_a(x)
            return y, codec.h_a(y)

    found = encode(codec, picture, refine=refined)
    assert found.header.flags == CHECKED | REFINED
    assert found.tiles == encode(codec, picture).tiles


def test_other_weights_and_other_symbols_are_told(trained: MeanScaleHyperprior) -> None:
    coded = encode(tiny_codec(), Picture(samples(20, 30)))
    with pytest.raises(ValueError, match="give the model that wrote it"):
        decode(trained, coded)
    tile = replace(coded.tiles[0], check=coded.tiles[0].check ^ 1)
    with pytest.raises(CorruptFile, match="numerically different machine"):
        decode(tiny_codec(), replace(coded, tiles=(tile,)))
    unchecked = replace(coded, header=replace(coded.header, flags=0), tiles=(tile,))
    assert np.array_equal(decode(tiny_codec(), unchecked).samples, decode(tiny_codec(), coded).samples)


def test_tiles_of_another_picture_are_refused() -> None:
    coded = encode(tiny_codec(), Picture(samples(20, 30)))
    with pytest.raises(CorruptFile, match="a latent of"):
        decode(tiny_codec(), replace(coded, header=replace(coded.header, width=31)))
    with pytest.raises(CorruptFile, match="its size wants 4"):
        decode(tiny_codec(), replace(coded, header=replace(coded.header, width=200, height=200, tile=128, overlap=32)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_png_in_is_png_out(channels: int, kind: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(channels).integers(0, np.iinfo(kind).max, (7, 9, channels), dtype=kind)
    colours = values[..., :-1] if channels in (2, 4) else values
    grey = colours.shape[-1] == 1
    alpha = values[..., -1] if channels in (2, 4) else None
    picture = Picture(colours.repeat(3, axis=2) if grey else colours, 1 if grey else 3, alpha)
    write_picture(picture, tmp_path / "a.png")
    if kind == np.uint16 and channels == 2:
        with pytest.raises(ValueError, match="16 bits are read of PNG, RGB or RGBA"):
            read_picture(tmp_path / "a.png", "keep")
        return
    found = read_picture(tmp_path / "a.png", "keep")
    assert (found.channels, found.depth) == (picture.channels, picture.depth)
    assert np.array_equal(found.samples, picture.samples)
    assert (found.alpha is None) == (alpha is None)
    assert alpha is None or (found.alpha is not None and np.array_equal(found.alpha, alpha))


def test_a_transparent_colour_of_a_deep_png_is_its_alpha() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    data = deep_png(values)
    end = data.index(b"IDAT") - 4
    import zlib

    key = b"tRNS" + struct.pack(">HHH", *values[1, 2])
    data = data[:end] + struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key)) + data[end:]
    found = read_picture(data, "keep")
    assert found.alpha is not None
    assert np.array_equal(np.argwhere(found.alpha == 0), [[1, 2]])
    assert np.array_equal(found.samples, values)


def test_transparency_is_refused_dropped_or_kept(tmp_path: Path) -> None:
    values = np.full((4, 5, 4), 200, dtype=np.uint8)
    data = _png(values)
    with pytest.raises(ValueError, match="has transparency"):
        read_picture(data)
    assert read_picture(data, "drop").alpha is None
    assert read_picture(data, "keep").alpha is not None
    values[..., 3] = 255
    assert read_picture(_png(values)).alpha is None  # opaque: nothing is lost


def test_palettes_are_their_colours_and_cmyk_is_refused() -> None:
    values = np.random.default_rng(0).integers(0, 3, (5, 7, 3), dtype=np.uint8) * 100
    palette = io.BytesIO()
    Image.fromarray(values).quantize(27).save(palette, format="PNG")
    found = read_picture(palette.getvalue())
    assert (found.channels, found.samples.shape) == (3, (5, 7, 3))
    assert np.array_equal(found.samples, np.asarray(Image.open(palette).convert("RGB")))
    inks = io.BytesIO()
    Image.fromarray(values).convert("CMYK").save(inks, format="TIFF")
    with pytest.raises(ValueError, match="mode CMYK; grey and RGB pictures can be coded"):
        read_picture(inks.getvalue())


def test_a_cameras_rotation_is_applied() -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG", exif=exif)
    assert np.array_equal(read_picture(buffer.getvalue()).samples, np.rot90(values, -1))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.gif", {}, "pictures are written as"),
        ("a", {}, "pictures are written as"),
        ("a.jpg", {"has_alpha": True}, "JPEG has not"),
        ("a.jpg", {"depth": 16}, "written as .png only"),
        ("a.tif", {"depth": 16}, "written as .png only"),
        ("a.webp", {"depth": 16, "channels": 1}, "written as .png or .tif only"),
    ],
)
def test_names_that_cannot_hold_a_picture_are_told(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_target(Path(name), **options)


@pytest.mark.parametrize("data", [b"", b"GIF89a", deep_png(np.zeros((3, 3, 3), dtype=np.uint16))[:45]])
def test_what_is_no_picture_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|damaged"):
        read_picture(data)


def test_weights_that_were_changed_through_their_data_write_files_that_others_decode() -> None:
    codec, picture = copy.deepcopy(tiny_codec()), Picture(samples(20, 30))
    encode(codec, picture)
    codec.entropy_parameters_anchor[0].fusion[-1].bias.data.add_(0.7)
    coded = encode(codec, picture)
    other = MLICv2(codec.settings).eval()
    other.load_state_dict(codec.state_dict())
    assert np.array_equal(decode(other, coded).samples, decode(codec, coded).samples)


def test_one_sentence_of_a_damaged_or_deep_picture(tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    deep.write_bytes(deep_png(np.zeros((4, 5, 4), dtype=np.uint16)))
    with pytest.raises(ValueError, match="has transparency") as told:
        read_picture(deep)
    assert str(told.value).count("deep.png") == 1
    cut = tmp_path / "cut.tif"
    Image.new("L", (9, 9)).save(cut)
    cut.write_bytes(cut.read_bytes()[:20])
    with warnings.catch_warnings(), pytest.raises(ValueError, match="its bytes are of none of them"):
        warnings.simplefilter("error")
        read_picture(cut)


def test_damaged_weights_and_tables_are_told(trained: MeanScaleHyperprior) -> None:
    codec = copy.deepcopy(trained)
    picture = Picture(samples(20, 30))
    with torch.no_grad():
        codec.g_s[-1].bias.fill_(float("nan"))
    coded = encode(codec, picture)
    with pytest.raises(ValueError, match="pixels that are no numbers"):
        decode(codec, coded)
    codec = copy.deepcopy(trained)
    codec.gaussian_conditional._quantized_cdf.zero_()
    with pytest.raises(ValueError, match="tables are damaged"):
        Tables.of(*_buffers(codec.gaussian_conditional))
    cumulative, lengths, offsets = _buffers(trained.gaussian_conditional)
    with pytest.raises(ValueError, match="tables are damaged"):
        Tables.of(cumulative[:3], lengths, offsets)


def _buffers(model: GaussianConditional) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return model._quantized_cdf, model._cdf_length, model._offset


def test_what_does_not_fit_in_a_codecs_folder_is_named(trained: MeanScaleHyperprior, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    for field, value, said in (
        ("M", 24, "size mismatch for"),
        ("foo", 1, "is of no mean-scale that this release knows"),
    ):
        changed = kept | {"config": kept["config"] | {field: value}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=said):
            open_codec(tmp_path)
