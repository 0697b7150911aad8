"""InfoMEC: modularity, explicitness and compactness of a representation."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from typer.testing import CliRunner

from szilard.cli.main import app
from szilard.information.infomec import (
    infomec,
    normalized_mutual_information,
    predictive_information,
)
from szilard.information.label_information import neighbor_information

GRID = np.array(list(itertools.product(range(3), range(4))) * 5)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_copies_of_the_sources_and_a_constant_are_perfect() -> None:
    found = infomec(GRID, np.column_stack([GRID, np.zeros(len(GRID))]), discrete=True)
    np.testing.assert_allclose(found.nmi, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    assert found.active.tolist() == [True, True, False]
    assert found.modularity == pytest.approx(1, abs=1e-12) and found.compactness == pytest.approx(1, abs=1e-12)
    assert found.explicitness > 0.999


def test_two_copies_of_each_source_are_modular_and_a_third_compact() -> None:
    found = infomec(GRID, np.column_stack([GRID, GRID]), discrete=True)
    assert found.modularity == pytest.approx(1) and found.compactness == pytest.approx(1 / 3)


def test_a_latent_that_mixes_two_sources_halves_both() -> None:
    found = infomec(GRID, np.column_stack([GRID[:, 0] + 3 * GRID[:, 1], GRID[:, 1]]), discrete=True)
    np.testing.assert_allclose(found.nmi, [[1, 0], [1, 1]], atol=1e-12)
    assert found.modularity == pytest.approx(0.5) and found.compactness == pytest.approx(0.5)


def test_the_neighbour_estimate_has_its_published_value() -> None:
    x = np.array([0, 0.1, 0.25, 0.45, 1, 1.15, 1.3, 1.6])
    y = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    assert neighbor_information(x / x.std(), y, neighbors=2) == pytest.approx(0.33869, abs=1e-5)


def brute_force(x: np.ndarray, y: np.ndarray, k: int) -> float:
    kept = np.array([np.sum(y == label) > 1 for label in y])
    x, y = x[kept], y[kept]
    terms = []
    for place in range(len(x)):
        same = np.sort(np.abs(np.delete(x, place) - x[place])[np.delete(y, place) == y[place]])
        least = min(k, len(same))
        radius = np.nextafter(same[least - 1], 0)
        near = np.sum(np.abs(x - x[place]) <= radius)
        terms.append(digamma(least) - digamma(len(same) + 1) - digamma(near))
    return max(0.0, digamma(len(x)) + float(np.mean(terms)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 40), st.integers(1, 6), st.integers(1, 12), st.booleans())
def test_the_neighbour_estimate_equals_its_definition(seed: int, n: int, classes: int, k: int, ties: bool) -> None:
    chance = np.random.default_rng(seed)
    y = chance.integers(0, classes, n)
    y[:2] = 0
    x = chance.standard_normal(n) + y
    x = np.round(x, 1) if ties else x
    assert neighbor_information(x, y, k) == pytest.approx(brute_force(x, y, k), abs=1e-12)


def test_the_neighbour_estimate_equals_scikit_learns() -> None:
    from sklearn.feature_selection import mutual_info_classif

    labels = np.random.default_rng(1).integers(0, 5, 600)
    column = labels + normal(600)
    column = (column - column.mean()) / column.std()
    theirs = mutual_info_classif(column[:, None], labels, n_neighbors=10, random_state=0)[0]
    assert neighbor_information(column, labels) == pytest.approx(theirs, abs=1e-6)


def test_disentangled_numbers_are_near_perfect_and_noise_is_near_nothing() -> None:
    sources = np.random.default_rng(0).integers(0, 5, (3000, 3))
    clean = infomec(sources, sources + 0.01 * normal(3000, 3), discrete=False)
    assert min(clean.modularity, clean.compactness, clean.explicitness) > 0.97
    noise = infomec(sources, normal(3000, 3), discrete=False)
    assert noise.explicitness < 0.02 and noise.nmi.max() < 0.03


@pytest.mark.parametrize("discrete", [True, False])
def test_names_of_values_and_order_and_sign_of_columns_do_not_matter(discrete: bool) -> None:
    chance = np.random.default_rng(2)
    sources = chance.integers(0, 4, (400, 3))
    latents = chance.integers(0, 6, (400, 4)) if discrete else sources @ normal(3, 4) + 0.3 * normal(400, 4, seed=1)
    found = infomec(sources, latents, discrete=discrete)
    order = [2, 0, 3, 1]
    moved = infomec(7 - 3 * sources, latents[:, order], discrete=discrete)
    np.testing.assert_allclose(moved.nmi, found.nmi[:, order], atol=1e-9)
    assert moved.modularity == pytest.approx(found.modularity) and moved.compactness == pytest.approx(found.compactness)
    changed = (latents * 7 + 3) % 1000 if discrete else -2.5 * latents + 4
    again = infomec(sources, changed, discrete=discrete)
    np.testing.assert_allclose(again.nmi, found.nmi, atol=1e-6)
    assert again.explicitness == pytest.approx(found.explicitness, abs=2e-3)


def test_a_latent_that_hardly_moves_is_not_active_and_one_may_set_the_threshold() -> None:
    latents = normal(200, 2) * [1, 0.01]
    sources = np.random.default_rng(0).integers(0, 2, (200, 2))
    assert infomec(sources, latents, discrete=False).active.tolist() == [True, False]
    assert infomec(sources, latents, discrete=False, active_fraction=0.001).active.all()


def test_without_features_every_source_costs_log_k_however_unbalanced() -> None:
    sources = np.array([0] * 90 + [1] * 8 + [2] * 2)
    assert predictive_information(np.zeros((100, 1)), sources) == pytest.approx(0, abs=1e-6)


def test_torch_and_numpy_give_the_same() -> None:
    latents = normal(300, 2).astype(np.float32)
    sources = np.random.default_rng(0).integers(0, 3, (300, 2))
    one = infomec(sources, latents, discrete=False)
    other = infomec(torch.from_numpy(sources), torch.from_numpy(latents).requires_grad_(), discrete=False)
    assert one.as_dict() == other.as_dict()


def test_bins_of_equal_counts_measure_numbers_as_labels_are() -> None:
    sources = np.random.default_rng(0).integers(0, 4, (4000, 1))
    nmi = normalized_mutual_information(sources, sources + 0.01 * normal(4000, 1), discrete=False, bins=4)
    assert nmi[0, 0] > 0.9


def test_linear_reading_of_numbers_is_their_explained_variance() -> None:
    features = normal(500, 3)
    labels = features @ [1.0, -2.0, 0.5] + 3
    assert predictive_information(features, labels, continuous=True) == pytest.approx(1)
    assert predictive_information(features, normal(500, seed=5), continuous=True) < 0.05


def test_an_exclusive_or_is_told_by_no_pair_and_no_line() -> None:
    bits = np.array(list(itertools.product(range(2), repeat=2)) * 50)
    found = infomec(np.column_stack([bits[:, 0] ^ bits[:, 1], bits[:, 0]]), bits, discrete=True)
    assert found.nmi[0].max() == pytest.approx(0, abs=1e-12) and found.explicitness_of[0] == pytest.approx(0, abs=1e-3)


def test_where_nothing_can_be_told_the_numbers_are_nought_and_not_nan() -> None:
    sources = GRID
    constant = infomec(sources, np.ones((len(sources), 3)), discrete=True)
    one = infomec(sources, sources[:, :1], discrete=True)
    unrelated = infomec(GRID[:12], np.column_stack([GRID[:12, 0], np.zeros(12)]), discrete=True)
    for found in (constant, one, unrelated):
        assert all(math.isfinite(value) for value in (found.modularity, found.compactness, found.explicitness))
    assert constant.modularity == constant.compactness == one.compactness == 0


def test_sources_may_be_words_and_labels_large_numbers() -> None:
    words = np.array(["red", "green", "blue"])[GRID[:, :1] % 3]
    for sources, latents in ((words, words), (GRID + 2**60, GRID + 2**60)):
        assert infomec(sources, latents, discrete=True).nmi[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-14, 1e200])
def test_no_scale_of_latents_is_too_small_or_too_large(scale: float) -> None:
    latents = normal(300, 3) + GRID[np.arange(300) % 60][:, [0, 1, 0]]
    sources = GRID[np.arange(300) % 60]
    one, other = (infomec(sources, latents * factor, discrete=False) for factor in (1, scale))
    np.testing.assert_allclose(other.nmi, one.nmi, atol=1e-6)
    assert other.active.tolist() == one.active.tolist()
    assert other.explicitness == pytest.approx(one.explicitness, abs=1e-6)


def test_more_bins_or_neighbours_than_samples_cost_nothing() -> None:
    many = normalized_mutual_information(GRID, normal(60, 1), discrete=False, bins=10**8)
    assert many == pytest.approx(np.ones((2, 1)))
    assert np.isfinite(normalized_mutual_information(GRID, normal(60, 1), discrete=False, neighbors=10**9)).all()


def test_what_is_no_table_of_numbers_or_labels_is_said() -> None:
    with pytest.raises(ValueError, match="leave bins out"):
        infomec(GRID, GRID, discrete=True, bins=3)
    with pytest.raises(TypeError, match="not of complex128"):
        infomec(GRID, normal(60, 2).astype(complex), discrete=False)
    with pytest.raises(TypeError, match="not of words"):
        infomec(GRID, np.full((60, 1), "a"), discrete=False)
    with pytest.raises(ValueError, match="one column"):
        predictive_information(normal(60, 2), GRID)
    with pytest.raises(ValueError, match=r"\[N\] each"):
        neighbor_information(normal(60, 2), GRID[:, 0])  # type: ignore[arg-type]


def test_the_gaps_are_largest_minus_second() -> None:
    found = infomec(GRID, GRID, discrete=True)
    assert found.modularity_gap == pytest.approx(1) and found.compactness_gap == pytest.approx(1)


@pytest.mark.parametrize(
    ("sources", "latents", "told"),
    [
        (np.zeros((10, 1)), normal(10, 2), "source 0 has one value only"),
        (np.arange(10)[:, None], normal(10, 2), "no value of source 0 occurs twice"),
        (GRID, normal(10, 2), "60 samples and latents 10"),
        (GRID, np.full((60, 2), np.nan), "latents must be finite; column 0"),
        (GRID, normal(60), "\\[samples, columns\\]"),
        (GRID[:1], normal(1, 2), "one sample"),
        (np.zeros((0, 2)), normal(0, 2), "at least one of each"),
    ],
)
def test_what_cannot_be_graded_is_said(sources: np.ndarray, latents: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        infomec(sources, latents, discrete=False)


@pytest.mark.parametrize("wrong", [{"neighbors": 0}, {"active_fraction": 2.0}, {"bins": 1}])
def test_settings_out_of_range_are_said(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        infomec(GRID, normal(60, 2), discrete=False, **wrong)  # type: ignore[arg-type]


def test_the_command_grades_files_and_writes_a_page(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", GRID)
    np.savetxt(tmp_path / "s.csv", GRID, delimiter=",")
    base = [
        "analyze",
        "infomec",
        "--latents",
        str(tmp_path / "z.npy"),
        "--sources",
        str(tmp_path / "s.csv"),
        "--discrete",
    ]
    page = tmp_path / "page.html"
    run = CliRunner().invoke(app, [*base, "--names", "shape,colour", "--html", str(page), "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["modularity"] == pytest.approx(1)
    assert "1: colour" in page.read_text(encoding="utf-8") and "source 0, latent 0" in page.read_text(encoding="utf-8")
    shown = CliRunner().invoke(app, base)
    assert "InfoM 1.000" in shown.stdout


def test_the_command_refuses_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "z.npy").write_text("nonsense", encoding="utf-8")
    np.save(tmp_path / "s.npy", GRID)
    for latents in ("z.npy", "none.npy"):
        with pytest.raises(ValueError, match=latents):
            CliRunner().invoke(
                app,
                ["analyze", "infomec", "--latents", str(tmp_path / latents), "--sources", str(tmp_path / "s.npy")],
                catch_exceptions=False,
            )
