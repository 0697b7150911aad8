"""Fuzzing of coded pictures: whatever bytes come, a reader ends with a picture or with one sentence.

    pip install atheris
    python tests/codecs/fuzz_container.py CORPUS -max_total_time=600 -print_final_stats=1

Mutated files get their checksums mended most of the time, so that what lies behind them is reached, too. Files that say
more than 2^18 pixels are parsed, but not decoded: a decoder works as long as for a picture of that size.
"""

from __future__ import annotations

import random
import struct
import sys
import zlib
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

try:
    import atheris
except ModuleNotFoundError:
    atheris = None
_WATCHED = [f"szilard.codecs.{name}" for name in ("container", "coding", "tables", "images", "quantizers")]
_fuzzing = atheris is not None and __name__ == "__main__"
with atheris.instrument_imports(include=_WATCHED) if _fuzzing else nullcontext():
    from szilard.codecs import container
    from szilard.codecs.coding import decode, encode
    from szilard.codecs.container import CHECKED, Bitstream, CorruptFile
    from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
    from szilard.codecs.images import Picture
    from szilard.codecs.learned_codec import LearnedCodec
    from szilard.codecs.mlicv2 import MLICv2, MLICv2Config

PIXELS = 1 << 18
_FLAGS = 5  # where a file's flags are
_MENDED = 0.8


@cache
def codecs() -> dict[str, LearnedCodec]:
    """Tiny codecs by name, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = MLICv2Config(N=8, M=8, slices=2, window=3, hidden=0.02, transform="residual", gsc="scale")
        found: dict[str, LearnedCodec] = {
            "mlicv2": MLICv2(small),
            "mean-scale": MeanScaleHyperprior(HyperpriorConfig(8, 8)),
        }
    for codec in found.values():
        for part in (codec.g_a, codec.h_a):  # large latents: untrained codecs find nothing worth coding
            list(part.parameters())[-2].data.mul_(40)
        codec.eval().update(force=True)
    return found


@cache
def seeds() -> list[bytes]:
    """Whole files of every kind: grey, deep, with alpha, in tiles, in float32."""
    draw = np.random.default_rng(0)
    files = []
    for codec in codecs().values():
        for arithmetic in ("exact", "float32"):
            codec.arithmetic = arithmetic
            for size, kind in (((17, 33), np.uint8), ((64, 65), np.uint16), ((140, 60), np.uint8)):
                samples = draw.integers(0, np.iinfo(kind).max, (*size, 3), dtype=kind, endpoint=True)
                grey = size == (17, 33)
                alpha = samples[..., 0].copy() if grey else None
                picture = Picture(samples[..., :1].repeat(3, axis=2) if grey else samples, 1 if grey else 3, alpha)
                files.append(encode(codec, picture, tile=128 if size[0] > 128 else 0).to_bytes())
    return files


def one_input(data: bytes) -> Bitstream | None:
    """Read a file and decode it.

    Raises:
        AssertionError: it parsed, but what was parsed is another file.
        Exception: anything but the two refusals that are meant.
    """
    try:
        coded = Bitstream.from_bytes(data)
    except CorruptFile:
        return None
    assert coded.to_bytes() == data, "a file has two forms"
    header = coded.header
    codec = codecs().get(header.codec)
    if codec is None or header.width * header.height > PIXELS:
        return coded
    try:
        picture = decode(codec, coded)
    except CorruptFile:
        return None
    except ValueError as error:
        assert "was written by" in str(error), error
        return None
    assert picture.size == (header.height, header.width)
    return coded


def mended(data: bytes) -> bytes:
    """With checksums that match, as far as there is a header."""
    found = bytearray(data)
    for _ in range(2):  # of the header, of the file
        lengths: list[int] = []
        spy = SimpleNamespace(crc32=lambda part, own=lengths: own.append(len(part)) or zlib.crc32(part))
        container.zlib, usual = spy, container.zlib  # type: ignore[assignment, attr-defined]
        try:
            Bitstream.from_bytes(bytes(found))
            break
        except CorruptFile:
            pass
        finally:
            container.zlib = usual  # type: ignore[attr-defined]
        if not lengths or lengths[-1] + 4 > len(found):
            break
        struct.pack_into("<I", found, lengths[-1], zlib.crc32(bytes(found[: lengths[-1]])))
    return bytes(found)


def mutated(data: bytes, draw: random.Random, change: Any = None, largest: int = 1 << 14) -> bytes:
    """Another file: of a few changed bytes, or by the fuzzer's own `change`."""
    if draw.random() < 0.02 or len(data) < 8:
        data = draw.choice(seeds())
    if change is not None:
        data = change(data, largest)
    else:
        own = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            own[draw.randrange(len(own))] = draw.randrange(256)
        data = bytes(own[: draw.randrange(len(own))] if draw.random() < 0.1 else own)
    if len(data) > _FLAGS and draw.random() < 0.2:
        data = data[:_FLAGS] + bytes([data[_FLAGS] & ~CHECKED]) + data[_FLAGS + 1 :]
    return mended(data)[:largest] if draw.random() < _MENDED else data


def main() -> None:
    """Fuzz until libFuzzer's limits."""
    if atheris is None:
        sys.exit("fuzzing needs atheris: pip install atheris")
    torch.set_num_threads(1)
    folders = [Path(name) for name in sys.argv[1:] if not name.startswith("-")]
    for folder in folders[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(seeds()):
            (folder / f"seed-{number}").write_bytes(file)

    def mutator(data: bytes, largest: int, seed: int) -> bytes:
        return mutated(data, random.Random(seed), atheris.Mutate, largest)

    def target(data: bytes) -> None:
        one_input(data)

    options = ["-timeout=60", "-rss_limit_mb=3072", "-max_len=16384"]
    atheris.Setup([*sys.argv, *options], target, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
