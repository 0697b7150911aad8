"""Learned image codecs on one CPU core: MLICv2 in a small form against the mean-scale hyperprior and CompressAI's models.

    python benchmarks/codecs.py --part train --images FOLDER --work FOLDER [--only mlicv2] [--seed 0]
    python benchmarks/codecs.py --part ablations --images FOLDER --work FOLDER [--only NAME] [--seed 0]

FOLDER of --images holds pictures to measure on (Kodak); training is on the photographs that scikit-image, scikit-learn and matplotlib
ship. Checkpoints go to --work: a killed command goes on with the run it was in, and what is recorded in
results/codecs.jsonl is not run again. CompressAI's models are trained where that package can be imported, by the same loop.
Minutes are those of a free core.

train       the same data, crops (128, batch 4), Adam 1e-3 and steps for all, about 1.4 M parameters each. Every codec is
            trained for 4,000 steps at lambda 0.013 first; each of its four lambdas then goes on from there for 600.
            Minutes, all of a codec: mlicv2 65, compressai-cheng2020-anchor 50, the mean-scale ones 18 each.
ablations   the transform of the zoo's mlicv2-q3 is frozen, and entropy models alone are trained on it, so that all have
            the same pictures and bits compare directly (latent residual prediction changes the pictures, too): 800 steps
            on 2 crops of 256. Minutes: 2 to 7 a variant, 14 variants.
transforms  4,000 steps at 0.013 with residual blocks instead of token mixing, and as MLIC++ (no guide, reweighting and
            rotation either). Minutes: 40 each.
selection   guided selective compression on the trained mlicv2 of 0.0067: off, by scale, and by a predictor that is
            trained for 300 steps with the codec frozen. Minutes: 6.
standard    JPEG, WebP, AVIF, and HEIC and VVC where their packages are there. Minutes: 5, with VVC 25.
sga         refined latents of mlicv2 and mean-scale (0.0067), 256 x 256, 200 steps. Minutes: mean-scale 4, mlicv2 12.
timing      CPU seconds of encoding and decoding by resolution, exact and float32, of the trained codecs, and of the
            full-size MLICv2 and MLIC++ with random weights. Minutes: 10.
crops       the same places of three pictures by mlicv2, mean-scale, JPEG and WebP at mlicv2's rate. Minutes: 1.
zoo         the trained mlicv2 in half precision as checkpoints of the zoo, with cards; nothing is recorded. Minutes: 5.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from codec_costs import selection, sga, standard, timing
from codec_crops import crops
from codec_sets import CODECS, SMALL, contestant, count, peers, photographs, score
from codec_trainings import BASE_STEPS, CONFIG, FIRST, LAMBDAS, OTHER_TRANSFORMS, STEPS, base, codec_of, trained
from codec_zoo import zoo
from results_store import Store
from torch import Tensor, nn

from szilard.codecs.evaluation import measure
from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.mlicv2 import MLICv2
from szilard.codecs.training import CodecConfig, RateDistortion, bits_per_pixel
from szilard.codecs.zoo import codec_of_quality

ENTROPY_STEPS = 800
CROP = 256  # of the ablations' measurement, centres of pictures


def train(arguments: argparse.Namespace, store: Store) -> None:
    pictures = photographs(arguments.images)
    for name in CODECS:
        if arguments.only not in name or (name.startswith("compressai") and peers() is None):
            continue
        for lmbda in LAMBDAS:
            key = {"part": "train", "codec": name, "lambda": lmbda, "seed": arguments.seed, "pictures": len(pictures)}
            key["steps"] = BASE_STEPS + STEPS
            if key in store:
                continue
            codec = codec_of(name, lmbda, arguments.seed, arguments.work)
            found = {"parameters": count(codec), **score(contestant(codec, name, str(lmbda)), pictures)}
            store.add(key, found)
            print(key, found, flush=True)


class EntropyOnly(RateDistortion):
    """Trains what predicts y of a frozen transform: the loss is bits, and with a latent residual the distortion, too."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        codec: Any = self.codec
        if getattr(codec.settings, "lrp", False):
            return super().forward(pixels)
        synthesis, codec.g_s = codec.g_s, nn.Identity()
        try:
            bpp = bits_per_pixel(codec(pixels)["likelihoods"], pixels)
        finally:
            codec.g_s = synthesis
        return {"loss": bpp + 1e-4 * codec.aux_loss(), "bpp": bpp.detach()}


FULL = replace(SMALL, lrp=False)
NONE = {"channel": False, "local": False, "inter": False, "intra": False, "hgcp": "off", "reweighting": False}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "hyperprior": None,
    "full": {},
    "two passes": {**NONE, "slices": 1},
    "slices": {**NONE, "channel": True},
    "slices, local": {**NONE, "channel": True, "local": True},
    "full, no channel": {"channel": False},
    "full, no local": {"local": False},
    "full, no inter": {"inter": False},
    "full, no intra": {"intra": False},
    "full, no HGCP": {"hgcp": "off"},
    "full, no reweighting": {"reweighting": False},
    "full, no RoPE": {"rope": False},
    "full, HGCP for both passes": {"hgcp": "anchor+nonanchor"},
    "full, LRP": {"lrp": True},
}


def ablations(arguments: argparse.Namespace, store: Store) -> None:
    pictures = photographs(arguments.images, CROP)
    config = replace(
        CONFIG, steps=ENTROPY_STEPS, crop=256, batch_size=2, halved=0.1, lmbda=FIRST, seed=arguments.seed + 2000
    )
    for name, changes in VARIANTS.items():
        key = {"part": "ablations", "entropy model": name, "seed": arguments.seed, "pictures": len(pictures)}
        key["steps"] = ENTROPY_STEPS
        if key in store or arguments.only not in name:
            continue
        found = on_frozen(name, changes, config, arguments)
        codec = found.pop("codec")
        rows = [measure(contestant(codec, name, ""), picture) for picture in pictures]
        found["payloads"] = [round(row["payload_bpp"], 5) for row in rows]
        for one in ("payload_bpp", "estimated_bpp", "psnr"):
            found[one] = round(statistics.fmean(row[one] for row in rows), 5)
        store.add(key, found)
        print(key, {one: value for one, value in found.items() if one != "curve"}, flush=True)


def on_frozen(
    name: str, changes: dict[str, Any] | None, config: CodecConfig, arguments: argparse.Namespace
) -> dict[str, Any]:
    """An entropy model trained on the frozen transform: "codec", and parameters of all but the transform."""
    transform = codec_of_quality(3)
    torch.manual_seed(arguments.seed)
    plain = HyperpriorConfig(N=FULL.M, M=FULL.M)
    codec: Any = MeanScaleHyperprior(plain) if changes is None else MLICv2(replace(FULL, **changes))
    codec.g_a, codec.g_s = transform.g_a, transform.g_s
    for part in (codec.g_a, codec.g_s):
        part.requires_grad_(False)
    objective = EntropyOnly(codec, config)
    slug = "".join(character if character.isalnum() else "-" for character in name)
    rows = trained(codec, config, arguments.work / f"entropy-{slug}-{arguments.seed}-{config.steps}", objective)
    codec.update(force=True, update_quantiles=True)
    learned = count(codec) - count(codec.g_a) - count(codec.g_s)
    curve = [[row["step"], round(row["bpp"], 4)] for row in rows]
    return {"codec": codec, "entropy_parameters": learned, "curve": curve}


def transforms(arguments: argparse.Namespace, store: Store) -> None:
    """What the transform is worth, trained with its entropy model; and MLICv2 without all that it adds."""
    pictures = photographs(arguments.images)
    for name in ("mlicv2", *OTHER_TRANSFORMS):
        key = {"part": "transforms", "codec": name, "seed": arguments.seed, "pictures": len(pictures)}
        if key in store or arguments.only not in name:
            continue
        codec: Any = base(name, arguments.seed, arguments.work)
        codec.update(force=True, update_quantiles=True)
        found = {"parameters": count(codec), **score(contestant(codec, name, ""), pictures)}
        found["cost"] = round(found["payload_bpp"] + FIRST * 255**2 * 10 ** (-found["psnr"] / 10), 4)
        store.add(key, found)
        print(key, found, flush=True)


PARTS = {
    "train": train,
    "ablations": ablations,
    "transforms": transforms,
    "selection": selection,
    "standard": standard,
    "sga": sga,
    "timing": timing,
    "crops": crops,
    "zoo": zoo,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="runs whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    PARTS[arguments.part](arguments, Store("codecs"))


if __name__ == "__main__":
    main()
