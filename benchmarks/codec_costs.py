"""Parts of benchmarks/codecs.py that measure what is trained, or needs no training: see there."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from codec_sets import CODECS, SMALL, contestant, count, peers, photographs, score
from codec_trainings import CONFIG, codec_of, trained
from results_store import Store
from torch import nn

from szilard.codecs.annealing import refine
from szilard.codecs.coding import decode, encode, padded_pixels
from szilard.codecs.container import Bitstream
from szilard.codecs.contestants import contestants
from szilard.codecs.evaluation import evaluate_codecs, psnr
from szilard.codecs.images import Picture
from szilard.codecs.learned_codec import Rounding
from szilard.codecs.mlicv2 import MLICv2
from szilard.codecs.peak_memory import peak_memory
from szilard.codecs.photographs import files_of

LAMBDA = 0.0067  # of the codecs that are measured here
POINTS = {
    "jpeg": "5,10,20,30,50,70,90",
    "webp": "1,10,30,50,70,80,90",
    "avif": "20,30,40,50,60,70,80",
    "heic": "10,20,30,40,50,60,70",
    "vvc": "42,37,32,27,22",
}
REFINED, REFINEMENT_STEPS, CROP = 8, 200, 256
SELECTION_STEPS = 300
SIZES = {"256 x 256": (256, 256), "768 x 512": (512, 768), "1536 x 1024": (1024, 1536)}


def standard(arguments: argparse.Namespace, store: Store) -> None:
    """Rows in the work folder, means in the store."""
    images = files_of(arguments.images)
    for name, points in POINTS.items():
        if arguments.only not in name:
            continue
        try:
            codecs = contestants(f"{name}:{points}")
        except ValueError as missing:
            print(f"{name} is left out: {missing}")
            continue
        keys = [{"part": "standard", "codec": name, "point": one.point, "pictures": len(images)} for one in codecs]
        if all(key in store for key in keys):
            continue
        found = evaluate_codecs(codecs, images, arguments.work / "standard")
        for key, row in zip(keys, found.summary(), strict=True):
            if key not in store:
                kept = ("bpp", "psnr", "ms_ssim", "encode_seconds", "decode_seconds")
                store.add(key, {one: round(row[one], 5) for one in kept if row[one] is not None})
                print(key, row["bpp"], row["psnr"], flush=True)


def selection(arguments: argparse.Namespace, store: Store) -> None:
    """Guided selective compression: bits, PSNR, and the share of elements that are coded."""
    pictures = photographs(arguments.images)
    for kind in ("off", "scale", "learned"):
        key = {"part": "selection", "gsc": kind, "lambda": LAMBDA, "seed": arguments.seed, "pictures": len(pictures)}
        if key in store:
            continue
        plain = codec_of("mlicv2", LAMBDA, arguments.seed, arguments.work)
        torch.manual_seed(arguments.seed)
        codec = MLICv2(replace(SMALL, gsc=kind))
        _adopt(codec, plain)
        if kind == "learned":
            for name, parameter in codec.named_parameters():
                parameter.requires_grad_(name.startswith("selection."))
            config = replace(CONFIG, steps=SELECTION_STEPS, lmbda=LAMBDA, seed=arguments.seed + 3000)
            trained(codec, config, arguments.work / f"selection-{arguments.seed}")
        codec.eval()
        shares = [coded_share(codec, picture) for picture in pictures]
        found = {"share_coded": round(float(np.mean(shares)), 4), **score(contestant(codec, kind, ""), pictures)}
        store.add(key, found)
        print(key, found, flush=True)


def _adopt(codec: MLICv2, plain: Any) -> None:
    """Weights of a codec without a predictor; tables are made anew."""
    own = {name: tensor for name, tensor in plain.state_dict().items() if not name.split(".")[-1].startswith("_")}
    wrong = codec.load_state_dict(own, strict=False).missing_keys
    assert all(name.startswith("selection.") or name.split(".")[-1].startswith("_") for name in wrong), wrong
    codec.update(force=True)


@torch.no_grad()
def coded_share(codec: MLICv2, picture: Picture) -> float:
    """Of the elements of y."""
    pixels, _ = padded_pixels(picture.samples, codec.stride)
    y = codec.g_a(pixels)
    z_hat = codec.entropy_bottleneck.quantize(codec.h_a(y))
    coded = codec.walk(codec.h_s(z_hat), Rounding(y)).coded
    return 1.0 if coded is None else float(coded.float().mean())


def sga(arguments: argparse.Namespace, store: Store) -> None:
    """True cost, file and PSNR of each crop before and after refinement."""
    pictures = photographs(arguments.images, CROP, REFINED)
    for name in ("mean-scale", "mlicv2"):
        codec: Any = None
        for place, picture in enumerate(pictures):
            key = {"part": "sga", "codec": name, "lambda": LAMBDA, "steps": REFINEMENT_STEPS, "picture": place}
            if key in store or arguments.only not in name:
                continue
            codec = codec_of(name, LAMBDA, arguments.seed, arguments.work) if codec is None else codec
            codec.arithmetic = "float32"
            start = time.process_time()
            pixels, _ = padded_pixels(picture.samples, codec.stride)
            better = refine(codec, pixels, LAMBDA, REFINEMENT_STEPS, lr=1e-2, rate=2 / REFINEMENT_STEPS)
            seconds = time.process_time() - start
            found = {"cost_before": better.before, "cost_after": better.after, "seconds": round(seconds, 1)}
            for when, latents in (("before", None), ("after", better)):
                replaced: Callable[..., Any] | None = (
                    None if latents is None else (lambda _, own=latents: (own.y, own.z))
                )
                file = encode(codec, picture, refine=replaced)
                decoded = decode(codec, Bitstream.from_bytes(file.to_bytes()))
                found |= {f"bpp_{when}": file.payload_bpp, f"psnr_{when}": psnr(picture.samples, decoded.samples)}
            store.add(key, found)
            print(key, found, flush=True)


def timing(arguments: argparse.Namespace, store: Store) -> None:
    """CPU seconds, the least of three runs of small codecs, and megabytes at the peak beyond the model's."""
    picture = photographs(arguments.images, 0, 1)[0]
    for name, arithmetic, build in _timed(arguments):
        codec: Any = None
        for size, (height, width) in SIZES.items():
            key = {"part": "timing", "codec": name, "arithmetic": arithmetic, "size": size}
            large = name.endswith("full size")
            if key in store or arguments.only not in name or (large and height > 512):
                continue
            codec = build() if codec is None else codec
            tested = contestant(codec, name, "", arithmetic)
            own = Picture(np.ascontiguousarray(np.tile(picture.samples, (2, 2, 1))[:height, :width]))
            with peak_memory() as encoding:
                coded = tested.encode(own)
            with peak_memory() as decoding:
                tested.decode(coded.data)
            memory = {"encode_megabytes": encoding.megabytes, "decode_megabytes": decoding.megabytes}
            best = {"encode_seconds": float("inf"), "decode_seconds": float("inf")}
            for _ in range(1 if large else 3):
                start = time.process_time()
                coded = tested.encode(own)
                middle = time.process_time()
                tested.decode(coded.data)
                best["encode_seconds"] = min(best["encode_seconds"], middle - start)
                best["decode_seconds"] = min(best["decode_seconds"], time.process_time() - middle)
            found = {one: round(value, 3) for one, value in best.items()}
            found |= {one: round(value) for one, value in memory.items() if value is not None}
            found |= {"parameters": count(codec), "bpp": round(8 * len(coded.data) / (height * width), 4)}
            store.add(key, found)
            print(key, found, flush=True)


def _timed(arguments: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[], nn.Module]]]:
    for name in CODECS:
        if name.startswith("compressai"):
            if peers() is not None:
                yield name, "float32", partial(codec_of, name, LAMBDA, arguments.seed, arguments.work)
            continue
        for arithmetic in ("exact", "float32"):
            yield name, arithmetic, partial(codec_of, name, LAMBDA, arguments.seed, arguments.work)
    for preset in ("mlicpp", "mlicv2"):
        for arithmetic in ("exact", "float32"):
            yield f"{preset}, full size", arithmetic, partial(_full_size, preset)


def _full_size(preset: str) -> MLICv2:
    torch.manual_seed(0)
    codec = MLICv2(preset)
    codec.update(force=True)
    return codec.eval()
