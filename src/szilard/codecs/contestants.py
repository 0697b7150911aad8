"""Codecs of an evaluation by what a user names: standards with qualities, and folders of learned codecs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.opening import open_codec
from szilard.codecs.picture_codec import LearnedPictureCodec, PictureCodec
from szilard.codecs.pillow_codec import KINDS, QUALITIES, PillowCodec
from szilard.codecs.vvc_codec import QUANTISERS, VVCCodec

STANDARDS = (*KINDS, "vvc")


def contestants(
    text: str, *, tile: int | None = None, arithmetic: str = "exact", opened: Callable[[str], LearnedCodec] = open_codec
) -> list[PictureCodec]:
    """The points of a curve.

    Args:
        text: a standard, "webp" or "webp:30" or "webp:10,30,50" (qualities; QPs for vvc); or a learned codec: a folder
            or hub id, or a folder of such folders, a point each. NAME=... gives the curve a name, "mine=runs/mlicv2".
        tile: for learned codecs, see `coding.tiling_of`.
        arithmetic: for learned codecs, exact or float32.
        opened: opens a learned codec.

    Raises:
        ValueError: no such codec, or qualities that are no numbers.
    """
    name, equals, rest = text.partition("=")
    named, what = (name, rest) if equals else (None, text)
    if not what or named == "":
        raise ValueError(f"--codec {text!r} names no codec: give a standard ({', '.join(STANDARDS)}) or a folder.")
    kind, colon, listed = what.partition(":")
    if kind in STANDARDS and not Path(what).exists():
        if named is not None:
            raise ValueError(f"--codec {text!r}: a standard keeps its name; write {what}.")
        given = _numbers(text, listed) if colon else list(QUANTISERS if kind == "vvc" else QUALITIES)
        return [VVCCodec(one) if kind == "vvc" else PillowCodec(kind, one) for one in given]
    folder = Path(what)
    points = [folder]
    if folder.is_dir() and not (folder / "config.json").is_file():
        points = sorted(one.parent for one in folder.glob("*/config.json"))
        if not points:
            raise ValueError(f"{what!r} holds no learned codec, and none of its folders does.")
        named = folder.name if named is None else named
    found: list[PictureCodec] = []
    for point in points:
        codec = opened(what if point is folder else str(point))
        codec.arithmetic = arithmetic
        label = None if codec.trained_on.get("lambda") is not None else point.name
        found.append(LearnedPictureCodec(codec, named, label, tile))
    return found


def _numbers(text: str, listed: str) -> list[int]:
    try:
        return [int(one) for one in listed.split(",")]
    except ValueError:
        raise ValueError(
            f"--codec {text!r}: qualities are whole numbers with commas between them, as webp:10,50."
        ) from None
