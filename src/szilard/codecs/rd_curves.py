"""Rate-distortion curves, and how far one lies from another: BD-rate and BD-PSNR.

Bjøntegaard, "Calculation of Average PSNR Differences between RD-Curves", VCEG-M33, 2001. Two curves of rates R (bits
per pixel) and qualities Q (dB), four points or more each; log R is interpolated as a function of Q, and

    BD-rate = (exp(mean of log R_test(Q) - log R_anchor(Q) over the common range of Q) - 1) 100 %

Negative: the test needs fewer bits. BD-PSNR swaps the roles: Q as a function of log10 R, in dB, positive: better. The
integrals are those of the package bjontegaard. Papers interpolate by "pchip" or by the classic "cubic" polynomial,
which differ by tenths: name the method; and never compare BD-rates of different anchors.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from szilard.options import check_choice
from szilard.whole_folder import write_whole

METHODS = ("pchip", "akima", "cubic")
METRICS = ("psnr", "ms-ssim")
LEAST = 4  # points of a curve
OVERLAP = 0.75  # below this share of a curve's range the result says little of the curve


@dataclass(frozen=True)
class RDCurve:
    """A codec's points, by rising rate.

    Attributes:
        name: of the codec.
        rates: bits per pixel.
        psnr: dB, a number for each rate; empty where it was not measured.
        ms_ssim: in dB, -10 log10(1 - MS-SSIM); empty where it was not measured.
    """

    name: str
    rates: tuple[float, ...]
    psnr: tuple[float, ...] = ()
    ms_ssim: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.rates:
            raise ValueError(f"the curve {self.name!r} has no points.")
        for what, values in (("psnr", self.psnr), ("ms_ssim", self.ms_ssim)):
            if values and len(values) != len(self.rates):
                raise ValueError(f"the curve {self.name!r} has {len(self.rates)} rates but {len(values)} of {what}.")
        if not self.psnr and not self.ms_ssim:
            raise ValueError(f"the curve {self.name!r} has rates but no qualities: give psnr or ms_ssim.")
        for number in (*self.rates, *self.psnr, *self.ms_ssim):
            if not math.isfinite(number):
                raise ValueError(f"the curve {self.name!r} holds {number}, which is no measurement.")
        if min(self.rates) <= 0:
            raise ValueError(f"the curve {self.name!r} has a rate of {min(self.rates)}; rates must be positive.")
        order = sorted(range(len(self.rates)), key=self.rates.__getitem__)
        for name in ("rates", "psnr", "ms_ssim"):
            values = getattr(self, name)
            object.__setattr__(self, name, tuple(float(values[place]) for place in order) if values else ())

    def quality(self, metric: str = "psnr") -> tuple[float, ...]:
        """dB, by rising rate.

        Raises:
            ValueError: another metric, or one that was not measured.
        """
        check_choice("metric", metric, METRICS)
        found = self.psnr if metric == "psnr" else self.ms_ssim
        if not found:
            raise ValueError(f"the curve {self.name!r} has no {metric}.")
        return found

    @classmethod
    def from_json(cls, file: Path | str) -> RDCurve:
        """Of a file of results: CompressAI's ("results": {"bpp", "psnr-rgb", "ms-ssim-rgb"}), MLIC's (the same lists
        without "results", as "bpp", "psnr", "ms-ssim"), or of `to_json`. MS-SSIM is read as the plain number.

        Raises:
            ValueError: another file.
        """
        path = Path(file)
        try:
            read: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"there is no file {str(path)!r}.") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{str(path)!r} is no JSON file: {error}.") from None
        results = read.get("results", read) if isinstance(read, dict) else {}
        if not isinstance(results, dict) or not _numbers(results.get("bpp")):
            raise ValueError(f'{str(path)!r} holds no curve: it needs a list "bpp" beside "psnr-rgb" or "psnr".')
        psnr: list[float] = next((results[name] for name in ("psnr-rgb", "psnr") if _numbers(results.get(name))), [])
        named = (results[name] for name in ("ms-ssim-rgb", "ms-ssim") if _numbers(results.get(name)))
        similar: list[float] = next(named, [])
        if any(not 0 <= value < 1 for value in similar):
            raise ValueError(f"{str(path)!r} has MS-SSIM outside of [0, 1).")
        return cls(str(read.get("name", path.stem)), tuple(results["bpp"]), tuple(psnr), tuple(map(decibels, similar)))

    def to_json(self, file: Path | str) -> None:
        """Write a file that `from_json` and CompressAI's plots read; whole or not at all."""
        results: dict[str, list[float]] = {"bpp": list(self.rates)}
        if self.psnr:
            results["psnr-rgb"] = list(self.psnr)
        if self.ms_ssim:
            results["ms-ssim-rgb"] = [1 - 10 ** (-value / 10) for value in self.ms_ssim]
        text = json.dumps({"name": self.name, "description": "szilard", "results": results}, indent=2)
        write_whole(Path(file), text + "\n")


def decibels(similarity: float) -> float:
    """-10 log10(1 - MS-SSIM), at most 100."""
    return -10 * math.log10(max(1 - similarity, 1e-10))


def bd_rate(anchor: RDCurve, test: RDCurve, method: str = "pchip", metric: str = "psnr") -> float:
    """Percent of bits that `test` needs more than `anchor` for the same quality; negative: fewer.

    Args:
        anchor: what is compared with.
        test: what is judged.
        method: "pchip", "akima", or "cubic": one polynomial through all points.
        metric: "psnr" or "ms-ssim".

    Raises:
        ValueError: fewer than four points, a point whose quality does not rise with its rate, or curves without a
            common range of quality.
    """
    check_choice("method", method, METHODS)
    qualities = [_checked(curve, metric) for curve in (anchor, test)]
    _check_overlap(anchor, test, qualities[0], qualities[1], "quality", "dB")
    found = _package().bd_rate(
        anchor.rates, qualities[0], test.rates, qualities[1], method, require_matching_points=False, min_overlap=0
    )
    return float(found)


def bd_psnr(anchor: RDCurve, test: RDCurve, method: str = "pchip", metric: str = "psnr") -> float:
    """dB that `test` is better than `anchor` at the same rate; see `bd_rate`."""
    check_choice("method", method, METHODS)
    qualities = [_checked(curve, metric) for curve in (anchor, test)]
    logs = [[math.log10(rate) for rate in curve.rates] for curve in (anchor, test)]
    _check_overlap(anchor, test, logs[0], logs[1], "rate", "log10 of bits per pixel")
    found = _package().bd_psnr(
        anchor.rates, qualities[0], test.rates, qualities[1], method, require_matching_points=False, min_overlap=0
    )
    return float(found)


def _checked(curve: RDCurve, metric: str) -> tuple[float, ...]:
    found = curve.quality(metric)
    if len(found) < LEAST:
        raise ValueError(f"the curve {curve.name!r} has too few points: {len(found)}; {LEAST} are needed at least.")
    for place in range(1, len(found)):
        if found[place] <= found[place - 1] or curve.rates[place] <= curve.rates[place - 1]:
            raise ValueError(
                f"the curve {curve.name!r} does not rise at point {place + 1}: {found[place - 1]:g} dB at "
                f"{curve.rates[place - 1]:g} bits per pixel, {found[place]:g} dB at {curve.rates[place]:g}; "
                "leave one out."
            )
    return found


def _check_overlap(
    anchor: RDCurve, test: RDCurve, one: Sequence[float], other: Sequence[float], what: str, unit: str
) -> None:
    low, high = max(one[0], other[0]), min(one[-1], other[-1])
    if high <= low:
        raise ValueError(
            f"the curves {anchor.name!r} ({one[0]:.3g} to {one[-1]:.3g}) and {test.name!r} ({other[0]:.3g} to "
            f"{other[-1]:.3g}) have no common range of {what} ({unit}): measure points that meet."
        )
    for curve, values in ((anchor, one), (test, other)):
        share = (high - low) / (values[-1] - values[0])
        if share < OVERLAP:
            warnings.warn(
                f"only {share:.0%} of the range of {what} of {curve.name!r} is common to {anchor.name!r} and "
                f"{test.name!r}.",
                stacklevel=3,
            )


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
    )


def _package() -> Any:
    try:
        import bjontegaard
    except ModuleNotFoundError:
        raise ValueError("BD-rate needs the package bjontegaard: pip install 'szilard[codecs]'") from None
    return bjontegaard
