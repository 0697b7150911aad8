"""Codecs measured on pictures: real files, what their decoders make of them, and what it takes.

A row per picture and codec. Rates are of whole files, over the pixels of the picture as it was: `bpp`; of the streams
alone: `payload_bpp`; of the model's likelihoods: `estimated_bpp`. PSNR is of samples rounded to 8 bits, mean over RGB,
per picture; curves average it over pictures (which is not the PSNR of the mean error). MS-SSIM is averaged as a plain
number, and then told in dB, as in published curves.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from szilard.codecs.images import Picture, picture_size, read_picture
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.peak_memory import peak_memory
from szilard.codecs.picture_codec import LearnedPictureCodec, PictureCodec
from szilard.codecs.rd_curves import RDCurve, decibels
from szilard.whole_folder import check_folder, held

ROWS = "rows.jsonl"
MS_SSIM_LEAST = 160  # its five scales want longer sides than this
Row = dict[str, Any]


def evaluate_codecs(
    codecs: Sequence[PictureCodec | LearnedCodec],
    images: Sequence[Path],
    out: Path | None = None,
    *,
    crop: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure codecs on pictures.

    Args:
        codecs: under test; of equal names are points of one curve.
        images: files; transparency is dropped.
        out: folder of `rows.jsonl`; what it holds already of the same pictures and codecs is not measured again.
        crop: side of the centre that is taken of each picture; 0: all of it.
        progress: called with the number of rows that are there, and of all.

    Raises:
        ValueError: no codecs, no pictures, equal codecs, a codec without tables, or pictures that cannot be read or are
            smaller than `crop`.
    """
    own = [LearnedPictureCodec(one) if isinstance(one, LearnedCodec) else one for one in codecs]
    if not own or not images:
        raise ValueError(f"an evaluation needs codecs and pictures; there are {len(own)} and {len(images)}.")
    for codec in own:
        if isinstance(codec, LearnedPictureCodec):
            codec.codec.check_tables()  # before hours of other codecs
    identities = [codec.identity() for codec in own]
    if len(set(identities)) < len(own):
        twice = next(codec for codec, one in zip(own, identities, strict=True) if identities.count(one) > 1)
        raise ValueError(f"the codec {twice.name} {twice.point} is given twice: name each once.")
    names = [file.name for file in images]
    if len(set(names)) < len(names):
        raise ValueError("two pictures have the same name: rename one.")
    for image in images:  # as far as headers tell, before any is measured
        height, width = picture_size(image)
        _check_crop(height, width, crop, image.name)
    if out is None:
        return _measured(own, identities, images, None, crop, progress)
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    with held(out / ".lock", f"the evaluation in {str(out)!r}"):
        return _measured(own, identities, images, out / ROWS, crop, progress)


def _measured(
    codecs: Sequence[PictureCodec],
    identities: Sequence[str],
    images: Sequence[Path],
    file: Path | None,
    crop: int,
    progress: Callable[[int, int], None] | None,
) -> Evaluation:
    known = {(row["picture_id"], row["codec_id"]): row for row in read_rows(file)} if file is not None else {}
    found: list[Row] = []
    for image in images:
        picture = centre(read_picture(image, alpha="drop"), crop, image.name)
        picture_id = hashlib.sha256(picture.samples.tobytes() + repr(picture.samples.shape).encode()).hexdigest()[:16]
        for codec, identity in zip(codecs, identities, strict=True):
            codec_id = hashlib.sha256(identity.encode()).hexdigest()[:16]
            row = known.get((picture_id, codec_id))
            if row is None:
                row = {"picture": image.name, "picture_id": picture_id, "codec_id": codec_id, **measure(codec, picture)}
                if file is not None:
                    _append(file, row)
            found.append(row | {"picture": image.name, "codec": codec.name, "point": codec.point})
            if progress is not None:
                progress(len(found), len(images) * len(codecs))
    return Evaluation(found)


def measure(codec: PictureCodec, picture: Picture) -> Row:
    """Code and decode one picture; the numbers of `evaluate_codecs`."""
    height, width = picture.size
    estimated = codec.estimated_bits(picture)
    with peak_memory() as encoding:
        start = time.perf_counter()
        coded = codec.encode(picture)
        encoded = time.perf_counter() - start
    with peak_memory() as decoding:
        start = time.perf_counter()
        decoded = codec.decode(coded.data)
        seconds = time.perf_counter() - start
    if decoded.size != picture.size:
        raise ValueError(
            f"{codec.name} {codec.point} gave back {decoded.size[1]} x {decoded.size[0]} for {width} x {height}."
        )
    one, other = eight_bits(picture.samples), eight_bits(decoded.samples)
    peaks = [peak.megabytes for peak in (encoding, decoding) if peak.megabytes is not None]
    return {
        "codec": codec.name,
        "point": codec.point,
        "width": width,
        "height": height,
        "bpp": 8 * len(coded.data) / (height * width),
        "payload_bpp": 8 * coded.payload_bytes / (height * width),
        "estimated_bpp": None if estimated is None else estimated / (height * width),
        "psnr": psnr(one, other),
        "ms_ssim": similarity(one, other),
        "encode_seconds": encoded,
        "decode_seconds": seconds,
        "peak_megabytes": max(peaks) if peaks else None,
        "parameters": codec.parameters,
    }


def centre(picture: Picture, crop: int, named: str) -> Picture:
    """The middle of a picture, crop x crop; all of it for 0.

    Raises:
        ValueError: the picture is smaller.
    """
    if not crop:
        return picture
    height, width = picture.size
    _check_crop(height, width, crop, named)
    top, left = (height - crop) // 2, (width - crop) // 2
    return Picture(np.ascontiguousarray(picture.samples[top : top + crop, left : left + crop]), picture.channels)


def _check_crop(height: int, width: int, crop: int, named: str) -> None:
    if min(height, width) < crop:
        raise ValueError(f"{named!r} has {width} x {height} pixels, too few for crops of {crop}.")


def eight_bits(samples: np.ndarray) -> np.ndarray:
    """uint8 of uint8 or uint16 samples."""
    return samples if samples.dtype == np.uint8 else np.rint(samples / 257).astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB of uint8 samples; 100 for equal ones."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * math.log10(255**2 / error))


def similarity(one: np.ndarray, other: np.ndarray) -> float | None:
    """MS-SSIM of uint8 samples [H, W, 3]; None for sides of 160 pixels or less, and without pytorch-msssim."""
    if min(one.shape[:2]) <= MS_SSIM_LEAST:
        return None
    try:
        from pytorch_msssim import ms_ssim
    except ModuleNotFoundError:
        return None
    tensors = (torch.tensor(samples).permute(2, 0, 1)[None].double() for samples in (one, other))
    return float(ms_ssim(*tensors, data_range=255))


def read_rows(file: Path) -> Iterator[Row]:
    """Of a `rows.jsonl`; a line that a kill cut off is left out.

    Raises:
        ValueError: something else of that name.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{str(file)!r} holds no rows of an evaluation: name another folder.") from None
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and {"picture_id", "codec_id", "bpp", "psnr"} <= row.keys():
            yield row


def _append(file: Path, row: Row) -> None:
    """On disk, as a line of its own, before this returns."""
    with file.open("ab+") as opened:
        end = opened.seek(0, os.SEEK_END)
        torn = False
        if end:
            opened.seek(end - 1)
            torn = opened.read(1) != b"\n"
        opened.write((b"\n" if torn else b"") + json.dumps(row).encode() + b"\n")
        opened.flush()
        os.fsync(opened.fileno())


class Evaluation:
    """Rows, and what they say together.

    Attributes:
        rows: a dictionary per picture and codec.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def summary(self) -> list[Row]:
        """A row per codec and point: means over the pictures, and how many there are."""
        return [self._means(own) for own in self._grouped("codec", "point")]

    def timing(self) -> list[Row]:
        """A row per codec, point and resolution: mean seconds, and megapixels per second."""
        found = []
        for own in self._grouped("codec", "point", "width", "height"):
            means = self._means(own)
            peaks = means["peak_megabytes"]
            megapixels = own[0]["width"] * own[0]["height"] / 1e6
            row = {name: own[0][name] for name in ("codec", "point", "width", "height")} | {"pictures": len(own)}
            row |= {"peak_megabytes": peaks, "parameters": own[0]["parameters"]}
            for what in ("encode", "decode"):
                row[f"{what}_seconds"] = means[f"{what}_seconds"]
                row[f"{what}_megapixels_per_second"] = megapixels / max(means[f"{what}_seconds"], 1e-9)
            found.append(row)
        return found

    def curves(self) -> list[RDCurve]:
        """A curve per codec, through the means of its points."""
        by_name: dict[str, list[Row]] = {}
        for row in self.summary():
            by_name.setdefault(row["codec"], []).append(row)
        found = []
        for name, rows in by_name.items():
            similar = [row["ms_ssim"] for row in rows]
            decided = () if None in similar else tuple(map(decibels, similar))
            found.append(RDCurve(name, tuple(r["bpp"] for r in rows), tuple(r["psnr"] for r in rows), decided))
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"summary": self.summary(), "timing": self.timing(), "rows": self.rows}

    def _grouped(self, *names: str) -> list[list[Row]]:
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(tuple(row[name] for name in names), []).append(row)
        return list(groups.values())

    def _means(self, own: Sequence[Row]) -> Row:
        found: Row = {name: own[0][name] for name in ("codec", "point", "parameters")} | {"pictures": len(own)}
        names = ("bpp", "payload_bpp", "estimated_bpp", "psnr", "ms_ssim", "encode_seconds", "decode_seconds")
        for name in names:
            values = [row[name] for row in own]
            found[name] = None if None in values else statistics.fmean(values)
        peaks = [row["peak_megabytes"] for row in own]
        found["peak_megabytes"] = None if None in peaks else max(peaks)
        return found
