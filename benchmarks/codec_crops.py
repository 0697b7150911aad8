"""The part "crops" of benchmarks/codecs.py: what codecs make of the same places at the same rate, as one picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from codec_sets import contestant, photographs
from codec_trainings import codec_of
from PIL import Image, ImageDraw, ImageFont
from results_store import Store

from szilard.codecs.evaluation import psnr
from szilard.codecs.images import Picture
from szilard.codecs.picture_codec import PictureCodec
from szilard.codecs.pillow_codec import PillowCodec

FILE = Path(__file__).parent.parent / "docs" / "pictures" / "codec-crops.png"
LAMBDA = 0.025
PLACES = {3: (120, 260), 5: (230, 480), 14: (150, 330)}  # of the folder's pictures, top and left
SIDE, SCALE, LINE = 144, 2, 34
STANDARDS = ("jpeg", "webp")


def crops(arguments: argparse.Namespace, store: Store) -> None:
    """Draw them, and record rate and PSNR of the whole pictures."""
    pictures = photographs(arguments.images)
    learned = {
        name: contestant(codec_of(name, LAMBDA, arguments.seed, arguments.work), name, "")
        for name in ("mlicv2", "mean-scale")
    }
    step = SIDE * SCALE
    sheet = Image.new("RGB", (step * (1 + len(STANDARDS) + len(learned)), (step + LINE) * len(PLACES)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, (place, (top, left)) in enumerate(PLACES.items()):
        picture, above = pictures[place], row * (step + LINE)
        shown: list[tuple[str, Picture, float | None]] = [("original", picture, None)]
        shown += list(_coded(picture, learned))
        for column, (name, own, bpp) in enumerate(shown):
            cut = Image.fromarray(np.ascontiguousarray(own.samples[top : top + SIDE, left : left + SIDE]))
            sheet.paste(cut.resize((step, step), Image.Resampling.NEAREST), (column * step, above + LINE))
            told = name
            if bpp is not None:
                quality = psnr(picture.samples, own.samples)
                told = f"{name}: {bpp:.3f} bpp, {quality:.2f} dB"
                key = {"part": "crops", "codec": name, "picture": place, "lambda": LAMBDA}
                if key not in store:
                    store.add(key, {"bpp": round(bpp, 4), "psnr": round(quality, 2)})
            pen.text((column * step + 4, above + 9), told, fill="black", font=font)
            print(told, flush=True)
    FILE.parent.mkdir(exist_ok=True)
    sheet.save(FILE, optimize=True)


def _coded(picture: Picture, learned: dict[str, PictureCodec]) -> Iterator[tuple[str, Picture, float]]:
    """Names, pictures, and bits per pixel of whole files: learned codecs, then standards at the first one's rate."""
    pixels, rate = picture.size[0] * picture.size[1], 0.0
    for name, codec in learned.items():
        data = codec.encode(picture).data
        rate = rate or 8 * len(data) / pixels
        yield name, codec.decode(data), 8 * len(data) / pixels
    for kind in STANDARDS:
        best: tuple[float, PillowCodec, bytes] | None = None
        for quality in range(1, 96):
            codec = PillowCodec(kind, quality)
            data = codec.encode(picture).data
            away = abs(8 * len(data) / pixels - rate)
            if best is None or away < best[0]:
                best = away, codec, data
            elif 8 * len(data) / pixels > 2 * rate:
                break
        assert best is not None
        yield f"{kind} {best[1].quality}", best[1].decode(best[2]), 8 * len(best[2]) / pixels
