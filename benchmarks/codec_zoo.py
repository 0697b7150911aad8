"""The part "zoo" of benchmarks/codecs.py: trained codecs as checkpoints of the zoo, in half precision, measured, with cards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from codec_sets import SMALL, contestant, count, photographs, score
from codec_trainings import BASE_STEPS, CONFIG, FIRST, LAMBDAS, STEPS, codec_of
from results_store import Store

from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.photographs import packaged_photographs

ZOO = Path(__file__).parent.parent / "zoo" / "szilard_zoo"
CARD = """---
license: apache-2.0
library_name: szilard
tags: [szilard, image-compression]
---

# mlicv2-q{quality}

A small MLICv2 (arXiv 2504.19119): a learned codec for photographs, quality {quality} of 4 (1: smallest files).

| | |
|---|---|
| sizes | N {N}, M {M}, {slices} slices, widths of the entropy networks x {hidden} |
| parameters | {parameters:,} (half precision, {megabytes:.1f} MB) |
| lambda | {lmbda:g} |
| licence | Apache-2.0 |

## Use

```
szilard encode photo.png photo.szc --quality {quality}
szilard decode photo.szc photo.png
```

A file names the weights that wrote it, and `szilard decode` finds them here.

## Data and recipe

Crops of {crop} pixels, {batch} a step, from the {pictures} photographs that scikit-image, scikit-learn and matplotlib ship: {base:,} steps at lambda
{first:g}, from there {steps:,} at {lmbda:g}, Adam at {rate:g} with a cosine; about forty minutes of one CPU core for the first and six for the second.
Weights were rounded to half precision afterwards.

```
make zoo-codecs IMAGES=kodak
```

## Measured

{seen} pictures of Kodak, none of which was trained on: {payload:.3f} bits per pixel ({file:.3f} with the file's header), PSNR {psnr:.2f} dB, MS-SSIM
{similar:.4f}. Beside JPEG, WebP and codecs trained alike: [docs/reproduction.md](../../../docs/reproduction.md).

## Limits

A four-hundredth of the paper's training on {pictures} photographs: good for trying a codec and its files, no rival of a codec trained in full, which
`szilard train codec` makes on a GPU.
"""


def zoo(arguments: argparse.Namespace, _: Store) -> None:
    """Write the checkpoints, and on their cards what they do."""
    pictures = photographs(arguments.images)
    for quality, lmbda in enumerate(LAMBDAS, start=1):
        codec: LearnedCodec = codec_of("mlicv2", lmbda, arguments.seed, arguments.work)
        codec.round_to_half()
        found = score(contestant(codec, "mlicv2", str(lmbda), "exact"), pictures)
        codec.trained_on = {"lambda": lmbda, "distortion": "mse", "steps": BASE_STEPS + STEPS, "seed": arguments.seed}
        folder = ZOO / f"mlicv2-q{quality}"
        codec.save_pretrained(folder)
        (folder / "README.md").write_text(_card(codec, folder, quality, lmbda, found, len(pictures)), encoding="utf-8")
        print(folder.name, found, flush=True)


def _card(codec: LearnedCodec, folder: Path, quality: int, lmbda: float, found: dict[str, Any], seen: int) -> str:
    return CARD.format(
        **vars(SMALL),
        quality=quality,
        lmbda=lmbda,
        parameters=count(codec),
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        crop=CONFIG.crop,
        batch=CONFIG.batch_size,
        rate=CONFIG.learning_rate,
        pictures=len(packaged_photographs()),
        base=BASE_STEPS,
        first=FIRST,
        steps=STEPS,
        seen=seen,
        payload=found["payload_bpp"],
        file=found["bpp"],
        psnr=found["psnr"],
        similar=found["ms_ssim"],
    )
