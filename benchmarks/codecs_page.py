"""The reproduction page's part on learned image codecs, from results/codecs.jsonl."""

from __future__ import annotations

import re
import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markdown_table import table
from results_store import Store

from szilard.codecs.rd_curves import RDCurve, bd_psnr, bd_rate, decibels
from szilard.codecs.rd_picture import curves_svg

Record = dict[str, Any]
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
HEAD = """## MLICv2

**Claim** (Jiang et al. 2025, arXiv 2504.19119). With 84 M parameters and about two million training steps, BD-rates against
VTM-17.0 intra on Kodak: MLIC++ -13.39 %, MLICv2 -16.54 %, and MLICv2+, which refines the latents of each picture at
encoding, -20.46 %.

Here: a small form (1.46 M parameters, 4 slices of 12 channels) against the mean-scale hyperprior of this library and, where it was
installed, CompressAI's mean-scale hyperprior and cheng2020-anchor, all of about 1.4 M parameters, trained by one loop on the same crops of
the photographs that scikit-image, scikit-learn and matplotlib ship, 4,600 steps each: a four-hundredth of the paper's. Measured on Kodak pictures, none
of which was trained on. Rates are real: `bpp` of whole files, `payload` of the streams alone, which compare across containers.

```
python benchmarks/codecs.py --part train --images KODAK --work FOLDER   # ablations, transforms, selection, standard, sga, timing
```
"""
READINGS: dict[str, str] = {
    "train": """**Reading.** With equal steps and data and about equal parameters the small MLICv2 needs 20 % fewer bits than CompressAI's mean-scale
hyperprior for the same PSNR and 38 % fewer for the same MS-SSIM, and 27 % and 12 % fewer than its cheng2020-anchor, over what the curves have in common. Its
files are as long as its likelihoods say (within 0.1 %); those of CompressAI's models are 0.1 to 7 % longer. Above 26.2 dB it has nothing to show: its latent has 48
channels, the mean-scale codecs' 80, and 600 steps from lambda 0.013 do not bring it further. One seed; every curve flattens because the trainings are short.
""",
    "ablations": """**Reading.** The order of the large parts shows: slices save 2.5 % of the hyperprior's bits and with the local context 3.8 %, and without the earlier slices the others
lose 6 %; two passes without slices cost 2.2 % more than the hyperprior (so short a training does not fill in what the first pass cannot see). Of the finer parts the attention to other slices is worth 0.8 %,
rotation 0.4, guide and reweighting 0.2 each, and intra-slice attention and the local context inside the whole model nothing: on small latents (16 x 16) and after 800 steps, one seed, where differences
below half a per cent say little. The guide for both passes does not help; latent residual prediction gives 0.2 % and 0.04 dB. The paper's gains for each part come from two million steps.
""",
    "sga": """**Reading.** Two hundred steps of annealing lower the cost of a picture by a tenth, for both codecs and for every picture tried (at the worst by 6.6 %): at the
same rate 0.5 dB more. The paper's MLICv2+ takes 2,000 steps and 4.7 % fewer bits.
""",
    "standard": """**Reading.** The zoo's MLICv2 codecs (0.15 to 0.35 bpp, 25.2 to 26.2 dB, MS-SSIM 0.881 to 0.926) are above JPEG by MS-SSIM throughout and by PSNR below
0.3 bpp, and far below WebP and AVIF: an hour of training on 15 photographs learns a fair entropy model and a poor transform. That a learned codec trained in full beats VTM is the paper's to
show. HEIC and VVC were not installed.
""",
    "timing": """**Reading.** At 768 x 512 the mean-scale hyperprior of this library takes 0.15 and 0.23 s of a core, CompressAI's 0.14 and 0.21 s; MLICv2 (small) 0.64 and 0.68 s, about twice a
learned codec of CompressAI with slices and a checkerboard (ELIC at N 32, M 48, measured apart: 0.28 s each where MLICv2 took 0.53 and 0.59 s), and a tenth of what
cheng2020-anchor takes to decode pixel by pixel (6.4 s). Arithmetic that every machine repeats bit by bit costs 2.3 times as much to encode and 4.2 times to decode. At full size (81 M parameters)
MLICv2 takes 8 and 11 s in float32, 16 and 34 s exactly, MLIC++ about as much.
""",
    "selection": """**Reading.** The trained predictor leaves 6.5 % of the elements out, saves 1.6 % of the bits at 0.02 dB, and coding takes a tenth less time; selection by scale alone saves 0.3 %.
""",
}


def page() -> Iterator[str]:
    """Lines of the page; none where nothing was measured."""
    records = list(Store("codecs"))
    if not records:
        return
    yield HEAD
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        parts[record["key"]["part"]].append(record)
    for part, write in WRITERS.items():
        if parts[part]:
            yield from write(parts[part])
            if part in READINGS:
                yield READINGS[part]


def _train(records: Sequence[Record]) -> Iterator[str]:
    pictures = records[0]["key"]["pictures"]
    yield f"### Rate and distortion, {pictures} Kodak pictures\n"
    rows = []
    for (name, lmbda), own in _groups(records, "codec", "lambda").items():
        cells = [f"{_mean(own, what):.4f}" for what in ("payload_bpp", "estimated_bpp")]
        similar = f"{_mean(own, 'ms_ssim'):.4f}" if "ms_ssim" in own[0] else ""
        rows.append([name, f"{lmbda:g}", f"{own[0]['parameters']:,}", *cells, f"{_mean(own, 'psnr'):.2f}", similar])
    yield table(["codec", "lambda", "parameters", "payload bpp", "estimated bpp", "PSNR", "MS-SSIM"], rows)
    curves = _curves(records, "lambda", "payload_bpp")
    yield from _picture(curves, "codecs-learned", "Kodak, equal steps and parameters")
    for anchor in ("mean-scale", "compressai-mean-scale", "compressai-cheng2020-anchor"):
        yield from _deltas([curve for curve in curves if curve.name in ("mlicv2", anchor)], anchor)


def _standard(records: Sequence[Record]) -> Iterator[str]:
    yield f"### Standards on {records[0]['key']['pictures']} Kodak pictures\n"
    curves = _curves(records, "point", "bpp")
    groups = _groups(records, "codec", "point")
    rows = [
        [name, str(point), *_cells(own, "bpp", "psnr", "ms_ssim", "encode_seconds")]
        for (name, point), own in groups.items()
    ]
    yield table(["codec", "quality", "bpp", "PSNR", "MS-SSIM", "encode s"], rows)
    yield from _picture(curves, "codecs-standard", "Kodak, standards")
    yield from _deltas(curves, "jpeg")


def _ablations(records: Sequence[Record]) -> Iterator[str]:
    steps = records[0]["key"]["steps"]
    yield (
        f"### Entropy models on one frozen transform\n\nThe transform of the zoo's mlicv2-q3; {steps} steps each. All code the same latents of the same "
        "pictures (centres of 256 x 256), so that bits compare directly; latent residual prediction alone changes the pictures. Changes are those of the median picture.\n"
    )
    groups = _groups(records, "entropy model")
    rows = []
    for (name,), own in groups.items():
        against = [_median_change(own, groups.get((other,))) for other in ("hyperprior", "full")]
        rate = f"{_mean(own, 'payload_bpp'):.4f}"
        rows.append([name, f"{own[0]['entropy_parameters']:,}", rate, *against, f"{_mean(own, 'psnr'):.2f}"])
    yield table(["entropy model", "parameters", "payload bpp", "to the hyperprior", "to full", "PSNR"], rows)


def _median_change(own: Sequence[Record], other: Sequence[Record] | None) -> str:
    """Of the payloads, in percent."""
    if other is None:
        return ""
    pairs = zip(own[0]["payloads"], other[0]["payloads"], strict=True)
    return f"{100 * (statistics.median(one / base for one, base in pairs) - 1):+.1f} %"


def _transforms(records: Sequence[Record]) -> Iterator[str]:
    yield "### Transforms\n\nAfter 4,000 steps at lambda 0.013; cost is bits per pixel + lambda 255² MSE.\n"
    groups = _groups(records, "codec")
    rows = [
        [name, f"{own[0]['parameters']:,}", *_cells(own, "payload_bpp", "psnr", "cost")]
        for (name,), own in groups.items()
    ]
    yield table(["codec", "parameters", "payload bpp", "PSNR", "cost"], rows)


def _selection(records: Sequence[Record]) -> Iterator[str]:
    yield "### Guided selective compression, lambda 0.0067\n"
    names = ("share_coded", "payload_bpp", "psnr", "encode_seconds", "decode_seconds")
    rows = [[gsc, *_cells(own, *names)] for (gsc,), own in _groups(records, "gsc").items()]
    yield table(["selection", "elements coded", "payload bpp", "PSNR", "encode s", "decode s"], rows)


def _sga(records: Sequence[Record]) -> Iterator[str]:
    steps = records[0]["key"]["steps"]
    yield f"### Refined latents (stochastic Gumbel annealing), {steps} steps, 256 x 256, lambda 0.0067\n"
    rows = []
    for (name,), own in _groups(records, "codec").items():
        change = [100 * (one["cost_after"] / one["cost_before"] - 1) for one in own]
        rows.append(
            [
                name,
                str(len(own)),
                f"{statistics.fmean(change):+.1f} % ({max(change):+.1f} at worst)",
                *(f"{_mean(own, f'bpp_{when}'):.4f}" for when in ("before", "after")),
                *(f"{_mean(own, f'psnr_{when}'):.2f}" for when in ("before", "after")),
                f"{_mean(own, 'seconds'):.0f}",
            ]
        )
    yield table(["codec", "pictures", "cost", "bpp before", "after", "PSNR before", "after", "seconds"], rows)


def _timing(records: Sequence[Record]) -> Iterator[str]:
    yield (
        "### Time and memory, one core, CPU seconds\n\nThe least of three; full sizes have random weights, so that their rates mean nothing and only "
        "their networks' time counts. Exact arithmetic decodes on every machine.\n"
    )
    rows = []
    for (name, arithmetic, size), own in _groups(records, "codec", "arithmetic", "size").items():
        names = ("encode_seconds", "decode_seconds", "encode_megabytes", "decode_megabytes")
        rows.append([name, arithmetic, size, f"{own[0]['parameters']:,}", *_cells(own, *names)])
    yield table(
        ["codec", "arithmetic", "picture", "parameters", "encode s", "decode s", "encode MB", "decode MB"], rows
    )


def _crops(_: Sequence[Record]) -> Iterator[str]:
    yield "### Crops at the same rate\n\nJPEG and WebP at the quality whose file is nearest to MLICv2's in size.\n"
    yield "![crops of three pictures by five codecs](pictures/codec-crops.png)\n"


WRITERS = {
    "train": _train,
    "ablations": _ablations,
    "transforms": _transforms,
    "selection": _selection,
    "sga": _sga,
    "standard": _standard,
    "crops": _crops,
    "timing": _timing,
}


def _groups(records: Sequence[Record], *names: str) -> dict[tuple[Any, ...], list[Record]]:
    """Records that differ only in their seed."""
    found: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        found[tuple(record["key"][name] for name in names)].append(record)
    return dict(found)


def _mean(records: Sequence[Record], name: str) -> float:
    return statistics.fmean(record[name] for record in records)


def _cells(records: Sequence[Record], *names: str) -> list[str]:
    return [f"{_mean(records, name):.4g}" if name in records[0] else "" for name in names]


def _curves(records: Sequence[Record], point: str, rate: str) -> list[RDCurve]:
    """A curve per codec through the means over seeds."""
    by_name: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for (name, _), own in _groups(records, "codec", point).items():
        by_name[name].append((_mean(own, rate), _mean(own, "psnr"), decibels(_mean(own, "ms_ssim"))))
    return [RDCurve(name, *zip(*own, strict=True)) for name, own in by_name.items()]


def _picture(curves: Sequence[RDCurve], name: str, title: str) -> Iterator[str]:
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.svg").write_text(curves_svg(curves, "psnr", title), encoding="utf-8")
    yield f"![{title}](pictures/{name}.svg)\n"


def _deltas(curves: Sequence[RDCurve], anchor: str) -> Iterator[str]:
    """BD-rates against one curve, by pchip and by the classic cubic."""
    own = next((curve for curve in curves if curve.name == anchor), None)
    rows = []
    for curve in curves if own is not None else ():
        if curve is own:
            continue
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                rates = [f"{bd_rate(own, curve, method):+.1f} %" for method in ("pchip", "cubic")]
                similar = f"{bd_rate(own, curve, metric='ms-ssim'):+.1f} %"
                gain = f"{bd_psnr(own, curve):+.2f} dB"
            rows.append([curve.name, *rates, gain, similar, _shares(told)])
        except ValueError as error:
            rows.append([curve.name, "", "", "", "", str(error)])
    if rows:
        yield f"Against {anchor}:\n"
        columns = ["BD-rate, PSNR, pchip", "cubic", "BD-PSNR", "BD-rate, MS-SSIM, pchip", "common to both"]
        yield table(["codec", *columns], rows)


def _shares(told: Sequence[warnings.WarningMessage]) -> str:
    """The least share of a range that two curves have in common, where it is small."""
    found = [int(share) for one in told for share in re.findall(r"(\d+)%", str(one.message))]
    return f"at least {min(found)} % of each range" if found else ""


if __name__ == "__main__":
    print("\n".join(page()))
