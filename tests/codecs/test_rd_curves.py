"""BD-rates are those of the reference curves, and curves that have none are refused with a sentence."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.codecs.rd_curves import METHODS, RDCurve, bd_psnr, bd_rate, decibels

pytest.importorskip("bjontegaard")

ANCHOR = RDCurve("anchor", (0.1, 0.2, 0.4, 0.8), (28.0, 31.0, 34.0, 37.0))
TEST = RDCurve("test", (0.09, 0.19, 0.37, 0.70), (28.2, 31.3, 34.1, 37.0))


@pytest.mark.parametrize(("method", "wanted"), [("cubic", -11.260918), ("pchip", -11.249057), ("akima", -11.249192)])
def test_bd_rate_of_the_reference_curves(method: str, wanted: float) -> None:
    assert bd_rate(ANCHOR, TEST, method) == pytest.approx(wanted, abs=1e-6)


def test_bd_psnr_of_the_reference_curves() -> None:
    assert bd_psnr(ANCHOR, TEST) == pytest.approx(0.510818, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_tenth_fewer_bits_are_minus_ten_percent_and_the_same_curve_is_zero(method: str) -> None:
    saved = replace(ANCHOR, name="saved", rates=tuple(0.9 * rate for rate in ANCHOR.rates))
    assert bd_rate(ANCHOR, saved, method) == pytest.approx(-10, abs=1e-9)
    assert bd_rate(ANCHOR, ANCHOR, method) == pytest.approx(0, abs=1e-9)
    assert bd_psnr(ANCHOR, ANCHOR, method) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("method", "wanted"), [("cubic", -5.6953), ("pchip", -5.7051)])
def test_mlicpp_against_mlic_on_their_published_points(method: str, wanted: float) -> None:
    mlic = RDCurve(
        "MLIC",
        (0.1162, 0.1896, 0.2908, 0.4375, 0.6136, 0.8415),
        (29.2291, 30.7639, 32.3709, 34.1024, 35.7542, 37.4026),
    )
    mlicpp = RDCurve(
        "MLIC++",
        (0.1075, 0.1747, 0.2721, 0.4129, 0.5923, 0.8025),
        (29.161, 30.7137, 32.3345, 34.1702, 35.8161, 37.3229),
    )
    assert bd_rate(mlic, mlicpp, method) == pytest.approx(wanted, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.tuples(st.floats(0.1, 1.0), st.floats(0.3, 3.0)), min_size=4, max_size=8),
    factor=st.floats(0.4, 2.5),
    method=st.sampled_from(METHODS),
)
def test_a_curve_of_scaled_rates_has_that_bd_rate(steps: list[tuple[float, float]], factor: float, method: str) -> None:
    rates = tuple(math.exp(sum(step for step, _ in steps[: place + 1]) - 4) for place in range(len(steps)))
    quality = tuple(25 + sum(gain for _, gain in steps[: place + 1]) for place in range(len(steps)))
    anchor, test = RDCurve("a", rates, quality), RDCurve("b", tuple(factor * rate for rate in rates), quality)
    assert bd_rate(anchor, test, method) == pytest.approx(100 * (factor - 1), abs=1e-5)
    back = bd_rate(test, anchor, method)
    assert (1 + back / 100) * factor == pytest.approx(1, abs=1e-6)


def test_points_come_in_any_order() -> None:
    mixed = RDCurve("mixed", TEST.rates[::-1], TEST.psnr[::-1])
    assert mixed.rates == TEST.rates
    assert bd_rate(ANCHOR, mixed) == bd_rate(ANCHOR, TEST)


@pytest.mark.parametrize("quality", [(28.0, 31.0, 31.0, 37.0), (28.0, 31.0, 30.0, 37.0)])
def test_a_point_that_is_no_better_for_more_bits_is_named(quality: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"'flat' does not rise at point 3: 31 dB at 0.2 .* at 0.4"):
        bd_rate(ANCHOR, RDCurve("flat", ANCHOR.rates, quality))


def test_curves_without_a_common_range_are_refused() -> None:
    far = RDCurve("far", ANCHOR.rates, (40.0, 41.0, 42.0, 43.0))
    with pytest.raises(ValueError, match=r"no common range of quality"):
        bd_rate(ANCHOR, far)
    with pytest.raises(ValueError, match=r"no common range of rate"):
        bd_psnr(ANCHOR, replace(ANCHOR, rates=(1.0, 2.0, 3.0, 4.0)))


def test_a_small_common_range_is_told_and_a_large_one_is_not() -> None:
    above = RDCurve("above", ANCHOR.rates, (32.0, 33.0, 35.0, 38.0))
    with pytest.warns(UserWarning, match=r"only 56% of the range of quality of 'anchor'"):
        bd_rate(ANCHOR, above)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bd_rate(ANCHOR, TEST)


def test_three_points_are_too_few() -> None:
    with pytest.raises(ValueError, match=r"too few points: 3; 4 are needed"):
        bd_rate(ANCHOR, RDCurve("short", (0.1, 0.2, 0.3), (28.0, 30.0, 32.0)))


def test_bad_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="has no points"):
        RDCurve("x", ())
    with pytest.raises(ValueError, match="2 rates but 1 of psnr"):
        RDCurve("x", (0.1, 0.2), (30.0,))
    with pytest.raises(ValueError, match="rates must be positive"):
        RDCurve("x", (0.0, 0.2), (30.0, 31.0))
    with pytest.raises(ValueError, match="no measurement"):
        RDCurve("x", (0.1, math.nan), (30.0, 31.0))
    with pytest.raises(ValueError, match="no qualities"):
        RDCurve("x", (0.1, 0.2))
    with pytest.raises(ValueError, match="has no ms-ssim"):
        bd_rate(ANCHOR, TEST, metric="ms-ssim")
    with pytest.raises(ValueError, match="method"):
        bd_rate(ANCHOR, TEST, "linear")


def test_results_of_compressai_and_of_mlic_are_read(tmp_path: Path) -> None:
    results = {"bpp": [0.4, 0.2], "psnr-rgb": [33.0, 30.0], "ms-ssim-rgb": [0.99, 0.9], "encoding_time": [1, 2]}
    (tmp_path / "one.json").write_text(json.dumps({"name": "BPG", "description": "", "results": results}))
    curve = RDCurve.from_json(tmp_path / "one.json")
    assert (curve.name, curve.rates, curve.psnr) == ("BPG", (0.2, 0.4), (30.0, 33.0))
    assert curve.ms_ssim == pytest.approx((10.0, 20.0))
    (tmp_path / "mlic.json").write_text(json.dumps({"psnr": [29.0, 31.0], "bpp": [0.1, 0.2]}))
    assert RDCurve.from_json(tmp_path / "mlic.json") == RDCurve("mlic", (0.1, 0.2), (29.0, 31.0))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    curve = replace(ANCHOR, ms_ssim=(8.0, 10.0, 12.0, 14.0))
    curve.to_json(tmp_path / "curve.json")
    again = RDCurve.from_json(tmp_path / "curve.json")
    assert (again.name, again.rates, again.psnr) == (curve.name, curve.rates, curve.psnr)
    assert again.ms_ssim == pytest.approx(curve.ms_ssim)
    assert decibels(0.9) == pytest.approx(10) and decibels(1.0) == 100


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"bpp": []}', '{"results": {"bpp": ["a"]}}', '{"results": 3}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json"):
        RDCurve.from_json(tmp_path / "x.json")
    with pytest.raises(ValueError, match="there is no file"):
        RDCurve.from_json(tmp_path / "y.json")
