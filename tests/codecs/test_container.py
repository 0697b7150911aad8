"""The file of a coded picture: one form, every damage told."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.codecs.container import (
    CHECKED,
    FLOAT32,
    REFINED,
    Bitstream,
    CorruptFile,
    Header,
    Tile,
    is_coded,
    read_header,
)
from tests.codecs.fuzz_container import mended, mutated, one_input, seeds

SHORT = st.binary(max_size=40)
TILES = st.builds(
    Tile,
    st.tuples(*[st.integers(0, 255)] * 4),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.lists(st.one_of(SHORT, st.binary(min_size=128, max_size=300)), max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
)
HEADERS = st.builds(
    Header,
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
    st.binary(min_size=8, max_size=8),
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.just(1024),
    st.integers(0, 500),
    st.sampled_from([8, 16]),
    st.sampled_from([1, 3]),
    st.integers(0, 7).map(lambda bits: CHECKED | (REFINED if bits & 1 else 0) | (FLOAT32 if bits & 2 else 0)),
)
FILES = st.builds(
    Bitstream,
    HEADERS,
    st.lists(TILES, min_size=1, max_size=3).map(tuple),
    st.dictionaries(st.integers(0, 255), SHORT, max_size=3),
)


@settings(max_examples=80, deadline=None)
@given(FILES)
def test_a_file_is_read_as_it_was_written_and_written_as_it_was_read(coded: Bitstream) -> None:
    data = coded.to_bytes()
    read = Bitstream.from_bytes(data)
    assert read.tiles == coded.tiles
    assert read.extra == coded.extra
    assert read.to_bytes() == data
    assert read.payload_bytes == sum(len(stream) for tile in coded.tiles for stream in tile.streams)


@settings(max_examples=20, deadline=None)
@given(FILES, st.data())
def test_every_flipped_byte_and_every_cut_is_told(coded: Bitstream, data: st.DataObject) -> None:
    whole = coded.to_bytes()
    place, change = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    for damaged in (
        whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :],
        whole[:place],
        whole + bytes([change]),
    ):
        with pytest.raises(CorruptFile):
            Bitstream.from_bytes(damaged)


def test_each_single_byte_of_a_real_file_is_guarded() -> None:
    whole = seeds()[1]
    for place in range(len(whole)):
        with pytest.raises(CorruptFile):
            Bitstream.from_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(CorruptFile):
            Bitstream.from_bytes(whole[:place])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    for file in (data, b"SZLC" + data, mended(b"SZLC\x01\x02\x06mlicv2" + data)):
        with suppress(CorruptFile):
            assert Bitstream.from_bytes(file).to_bytes() == file


def header_bytes(**changes: int) -> bytes:
    """A file of one empty tile, with fields of its header changed and checksums that match."""
    fields = {"width": 64, "height": 64, "tile": 0, "overlap": 0, "depth": 8, "channels": 3, "rows": 1, "columns": 1}
    fields |= {"version": 1, "flags": CHECKED, "tiles": 1, "streams": 2} | changes
    own = fields.__getitem__
    found = b"SZLC" + bytes([own("version"), own("flags"), 6]) + b"mlicv2" + bytes(8)
    found += struct.pack("<IIHHBB", *(own(n) for n in ("width", "height", "tile", "overlap", "depth", "channels")))
    found += bytes([0, own("tiles")]) + struct.pack("<4BHHB", 0, 0, 0, 0, own("rows"), own("columns"), own("streams"))
    found += bytes(own("streams")) + bytes(4)
    found += struct.pack("<I", zlib.crc32(found))
    return found + struct.pack("<I", zlib.crc32(found))


def test_the_smallest_file_is_read() -> None:
    assert Bitstream.from_bytes(header_bytes()).tiles == (Tile((0, 0, 0, 0), (1, 1), (b"", b"")),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "format version 2"),
        ({"flags": 64}, "features that this release does not know"),
        ({"width": 0}, "0 x 64 pixels"),
        ({"width": 70_000}, "70000 x 64 pixels"),
        ({"width": 65_535, "height": 65_535}, "65535 x 65535 pixels"),
        ({"depth": 12}, "of 12 bits"),
        ({"channels": 4}, "4 channels"),
        ({"tile": 128, "overlap": 128}, "tiles of 128 that overlap by 128"),
        ({"tile": 32}, "tiles of 32"),
        ({"tiles": 100}, "100 tiles"),
        ({"tiles": 0}, "0 tiles"),
        ({"streams": 65}, "65 streams"),
        ({"rows": 0}, "latent of 0 x 1"),
        ({"rows": 4000, "columns": 4000}, "latent of 4000 x 4000"),
    ],
)
def test_numbers_are_bounded_before_anything_is_made_for_them(changes: dict[str, int], said: str) -> None:
    with pytest.raises(CorruptFile, match=said):
        Bitstream.from_bytes(header_bytes(**changes))


def test_a_length_has_one_form() -> None:
    data = header_bytes()
    place = data.index(b"\x02\x00\x00", 40)  # two streams, both empty
    longer = mended(data[: place + 1] + b"\x80\x00" + data[place + 2 :])
    with pytest.raises(CorruptFile, match="a length in it is none"):
        Bitstream.from_bytes(longer)


def test_files_are_written_whole_and_told_from_others(tmp_path: Path) -> None:
    coded = Bitstream.from_bytes(seeds()[0])
    coded.save(tmp_path / "a.szc")
    assert Bitstream.load(tmp_path / "a.szc").to_bytes() == seeds()[0]
    assert is_coded(tmp_path / "a.szc")
    with (tmp_path / "a.szc").open("rb") as file:
        assert read_header(file) == coded.header
    (tmp_path / "b.szc").write_bytes(b"\x89PNG")
    with pytest.raises(CorruptFile, match="does not begin with SZLC"):
        Bitstream.load(tmp_path / "b.szc")
    with pytest.raises(ValueError, match="cannot be read"):
        Bitstream.load(tmp_path / "none.szc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.szc", "b.szc"]


def test_bits_per_pixel_are_of_the_whole_file_and_of_the_streams() -> None:
    coded = Bitstream.from_bytes(seeds()[1])
    area = coded.header.width * coded.header.height
    assert coded.bpp == len(seeds()[1]) * 8 / area
    assert coded.payload_bpp == coded.payload_bytes * 8 / area < coded.bpp


def test_mutated_files_end_in_a_picture_or_in_one_of_two_refusals() -> None:
    draw = random.Random(5)
    for _ in range(40):
        one_input(mutated(draw.choice(seeds()), draw))


def test_the_fuzzers_mending_reaches_what_is_behind_the_checksums() -> None:
    whole = seeds()[0]
    damaged = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    with pytest.raises(CorruptFile, match="its checksum does not match"):
        Bitstream.from_bytes(damaged)
    assert Bitstream.from_bytes(mended(damaged)).header == Bitstream.from_bytes(whole).header


def test_the_fuzzer_runs(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    script = Path(__file__).with_name("fuzz_container.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path), "-runs=40"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
