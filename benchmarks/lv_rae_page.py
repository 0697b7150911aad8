"""The reproduction page's part on LV-RAE, from results/lv-rae.jsonl."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curve_picture import Panel, picture, ticks_around
from markdown_table import table
from results_store import Store

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
CURVES = PICTURES / "lv-rae.svg"
_NO_NOISE = 0.01  # where sigma_bar = 0 stands on a logarithmic axis
Record = dict[str, Any]
HEAD = """## LV-RAE

**Claim** (Liu et al. 2026, arXiv 2602.08620; DINOv3-B, 256 pixels). A small residual on a frozen vision model's tokens brings PSNR on
COCO to 32.32 dB (SVG 21.71; fine-tuning the vision model 29.94 to 30.88) at CKNNA 0.987. Its decoder breaks under noise on the
latent (0.1: 17.72 dB, 0.2: 13.68); trained on latents with noise of random deviation it keeps 30.91 clean and 21.61 at 0.2, where a
fixed 0.1 gives 25.45 clean. Noise of about 0.08 to 0.1 on generated latents lowers FID.

Here everything is small: pictures of 32 pixels (one coloured shape on a coloured wavy ground), a ViT of four blocks and width 64 that was
trained for 100 steps to rebuild hidden patches and sees luminance alone, brought to mean 0 and deviation 1 in each picture, so that
its tokens cannot hold colours; E has 2 blocks, D 4. L1 without LPIPS or discriminator, AdamW at 1e-3, 500 steps of 32 pictures; stage
II 250 steps at 3e-4. PSNR (dB) is the mean over 128 pictures that were not trained on; CKNNA is of mean tokens of 1,000 pictures, k 10;
the gain is |D(z + 0.1 eps) - D(z)| / |0.1 eps|. A latent has 64 x 64 numbers, the picture 32 x 32 x 3: nothing is compressed.

```
python benchmarks/lv_rae.py --part small --seed 0         # and 1, 2
python benchmarks/lv_rae.py --part colour --seed 0        # and 1, 2
python benchmarks/lv_rae.py --part toy --seed 0           # and 1, 2
python benchmarks/lv_rae.py --part diffusion --seed 0
```
"""
READING = """**Reading.** *Reconstruction: holds.* The residual is worth 6.5 dB over decoding LN(u) (20.9 and 14.4, three seeds), at a cosine of 0.999 to the backbone's features; dropped, it leaves 13.9 dB.
With a loose alignment (eta 0.1) it is worth 13 dB and costs the neighbourhood of the features (CKNNA 0.66 instead of 0.97). The fine-tuned backbone cannot win here: it sees one channel.
*Robust decoder: holds in direction, smaller.* Stage II with noise wins 0.4 dB at noise 0.1, 1.5 at 0.2 and 2.1 at 0.4 over stage II without, for 0.5 dB of clean pictures; the paper wins 8 dB at 0.2, where its decoder
is far more fragile (18.6 dB lost at 0.2; here 2.4): 64 channels of a toy leave less room off the manifold than 768. Random and fixed deviations are alike at this size. A loose alignment
is the stronger knob of robustness (24.3 dB at 0.2).
*Generated latents: holds.* The decoder that learned with noise halves the distance of generated samples to true pictures (colours 0.58 for 1.22, vision model 0.108 for 0.158). Noise of 0.08 to 0.15 on the latents,
about the paper's best, brings their colours nearer still (0.51; stage I 1.14); by the vision model, which sees luminance alone, any noise is a loss. One seed; samples of RAE's latents were not drawn.
"""
_COLUMNS = {
    "clean": "psnr",
    "noise .1": "psnr_0.1",
    "noise .2": "psnr_0.2",
    "noise .4": "psnr_0.4",
    "r dropped": "psnr_without_residual",
}


def page() -> Iterator[str]:
    """Lines of the page; none where nothing was measured."""
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in Store("lv-rae"):
        parts[record["key"]["part"]].append(record)
    if not parts:
        return
    yield HEAD
    if parts["small"]:
        yield _reconstruction(parts["small"])
        yield from _shown(
            "lv-rae-reconstructions.png",
            "From above: true; what the vision model sees; RAE; LV-RAE; LV-RAE with its residual dropped; LV-RAE's latent "
            "with noise of 0.2, by the decoder of stage I, and of stage II.",
        )
    if parts["colour"]:
        yield "On a vision model of the same size that sees colours, what its tokens hold comes back without a residual:\n"
        yield _reconstruction(parts["colour"])
    if parts["toy"]:
        yield from _toy(parts["toy"])
    if parts["diffusion"]:
        yield from _diffusion(parts["diffusion"])
    if READING:
        yield READING


def _mean(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _reconstruction(records: list[Record]) -> str:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["key"]["model"]].append(record)
    rows = []
    for name, own in groups.items():
        cells = [_mean([one[key] for one in own if key in one]) for key in _COLUMNS.values()]
        cells += [_mean([one["cosine"] for one in own], 4), _mean([one["cknna"] for one in own], 3)]
        rows.append([name, str(len(own)), *cells, _mean([one["gain"][1] for one in own], 3)])
    return table(["model", "seeds", *_COLUMNS, "cos(z, LN u)", "CKNNA", "gain"], rows)


def _toy(records: list[Record]) -> Iterator[str]:
    yield (
        "The toy model of section 3.2: a plane in D dimensions, a decoder that is exact on it and turns by alpha outside; a "
        "flow (five layers of 512, 3,000 steps of 256 points) is trained on a spiral in the plane and its samples are decoded. "
        "Distance is the energy distance to true points; the last two columns are measured over closed form, with equal noise "
        "(0.3) on every coordinate and alpha 2: 1 for every D.\n"
    )
    groups: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["key"]["D"]].append(record)
    names = [name for name in records[0] if name.startswith("energy")]
    last = ["error over closed form", "Jacobian over closed form"]
    rows = []
    for width, own in sorted(groups.items()):
        cells = [_mean([one[name] for one in own], 3) for name in ("off manifold", *names, *last)]
        rows.append([str(width), str(len(own)), *cells])
    head = ["distance from the plane", *(name.replace("energy distance", "distance") for name in names)]
    yield table(["D", "seeds", *head, *last], rows)


def _diffusion(records: list[Record]) -> Iterator[str]:
    yield (
        "Flows on the latents (a transformer of 3 blocks and a head of 2, 2,000 steps of 32; 1,024 samples of 50 Euler steps), "
        "decoded with noise sigma_bar. Frechet distances of mean tokens of the vision model, and of 8 x 8 colours, to 2,048 true "
        "pictures; nearest: mean distance in pixels to the nearest of 8,192 pictures that were trained on.\n"
    )
    names = ["Frechet, vision model", "Frechet, 8 x 8 colours", "nearest"]
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {name: defaultdict(list) for name in names}
    groups: dict[tuple[str, str, float], list[Record]] = defaultdict(list)
    for record in records:
        key = record["key"]
        groups[key["latents"], key["decoder"], key["sigma_bar"]].append(record)
    rows = []
    for (latents, decoder, sigma), own in groups.items():
        means = [statistics.mean(one[name] for one in own) for name in names]
        rows.append([latents, decoder, f"{sigma:g}", *(f"{value:.3f}" for value in means)])
        for name, value in zip(names, means, strict=True):
            curves[name][f"{latents} / {decoder}"].append((max(sigma, _NO_NOISE), value))
    yield table(["latents", "decoder", "sigma_bar", *names], rows)
    panels = [
        Panel(name, own, "sigma_bar", ticks_around([y for points in own.values() for _, y in points]), unit="")
        for name, own in curves.items()
    ]
    across = [(_NO_NOISE, "0"), (0.02, "0.02"), (0.05, "0.05"), (0.1, "0.1"), (0.3, "0.3")]
    CURVES.write_text(picture(panels, across, columns=2), encoding="utf-8")
    yield from _shown(CURVES.name, "Samples decoded with growing noise.")
    yield from _shown(
        "lv-rae-samples.png",
        "The same samples: decoder of stage I without and with noise 0.1, decoder of stage II without and with it.",
    )


def _shown(name: str, words: str) -> Iterator[str]:
    if (PICTURES / name).is_file():
        yield f"![{words}](pictures/{name})\n\n{words}\n"
