"""What latents cost, as CompressAI defines it, and the tables that code them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.codecs.entropy_models import EntropyBottleneck, GaussianConditional, scale_table
from szilard.codecs.tables import CorruptStream, SymbolReader, SymbolWriter, frequency_table

GAUSSIAN = GaussianConditional()
GAUSSIAN.update()


def test_the_scale_table_is_log_spaced_from_0_11_to_256() -> None:
    table = scale_table()
    assert len(table) == 64
    assert (table[0], table[-1]) == (pytest.approx(0.11), pytest.approx(256))
    assert table[10] == pytest.approx(0.376542, abs=1e-6)


def test_frequencies_of_four_symbols() -> None:
    assert frequency_table(torch.tensor([0.1, 0.2, 0.3, 0.4])).tolist() == [0, 6554, 19661, 39322, 65536]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60).filter(lambda found: sum(found) > 0))
def test_every_symbol_keeps_a_frequency_and_all_make_65536(weights: list[float]) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64)
    table = frequency_table(probabilities / probabilities.sum())
    assert (table[0], table[-1]) == (0, 65536)
    assert (table.diff() > 0).all()


def test_scales_whose_tables_would_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="65,536 symbols at most"):
        GaussianConditional().update([0.11, 6000.0])


def test_lengths_and_offsets_of_gaussian_tables() -> None:
    assert [int(GAUSSIAN._cdf_length[place]) for place in (0, 31, 63)] == [5, 65, 3133]
    assert [int(GAUSSIAN._offset[place]) for place in (0, 31, 63)] == [-1, -31, -1565]


def test_likelihoods_of_known_gaussians() -> None:
    values, scales, means = torch.tensor([0.0, -2.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])
    found = GAUSSIAN.likelihood(values, scales, means)
    assert found.tolist() == pytest.approx([0.382925, 0.120978], abs=1e-6)


def test_likelihoods_are_at_least_1e_9_and_scales_at_least_0_11() -> None:
    assert float(GAUSSIAN.likelihood(torch.tensor([1e4]), torch.tensor([1.0]))) == pytest.approx(1e-9)
    low, bound = (GAUSSIAN.likelihood(torch.zeros(1), torch.tensor([scale])) for scale in (-3.0, 0.11))
    assert torch.equal(low, bound)


def test_a_scale_has_the_table_of_the_nearest_by_ratio() -> None:
    table = GAUSSIAN.scale_table
    assert GAUSSIAN.indexes(table).tolist() == list(range(64))
    scales = torch.tensor([-1.0, 0.0, 0.116, 0.118, float(table[7]) * 1.06, float(table[7]) * 0.95, 256.0, 1e9])
    assert GAUSSIAN.indexes(scales).tolist() == [0, 0, 0, 1, 7, 7, 63, 63]
    assert GAUSSIAN.indexes(scales.double()).tolist() == GAUSSIAN.indexes(scales).tolist()


def test_a_gradient_raises_a_scale_below_its_bound_and_never_lowers_it_further() -> None:
    scales = torch.tensor([0.05, 0.05], requires_grad=True)
    bounded = GAUSSIAN.lower_bound_scale(scales)
    (bounded * torch.tensor([-1.0, 1.0])).sum().backward()
    assert scales.grad is not None
    assert scales.grad.tolist() == [-1.0, 0.0]


def test_the_bottlenecks_density_adds_up_to_one_and_its_quantiles_can_be_found() -> None:
    torch.manual_seed(0)
    bottleneck = EntropyBottleneck(3).eval()
    with torch.no_grad():
        values = torch.arange(-200.0, 201.0).expand(1, 3, 1, -1)
        assert bottleneck.likelihood(values).sum(-1) == pytest.approx(torch.ones(1, 3, 1), abs=1e-4)
        bottleneck.find_quantiles()
        assert float(bottleneck.loss()) < 1e-3


def test_a_bottleneck_rounds_about_its_medians() -> None:
    bottleneck = EntropyBottleneck(2).eval()
    with torch.no_grad():
        bottleneck.quantiles[:, 0, 1] = torch.tensor([0.3, -0.2])
    z = torch.tensor([1.0, 1.0])[None, :, None, None]
    assert bottleneck.quantize(z).flatten().tolist() == pytest.approx([1.3, 0.8])


def test_files_need_tables() -> None:
    with pytest.raises(ValueError, match=r"call update\(\)"):
        _ = EntropyBottleneck(2).tables


def test_gaussian_symbols_take_the_bits_that_their_likelihoods_say() -> None:
    generator = torch.Generator().manual_seed(0)
    indexes = torch.randint(5, 50, (20_000,), generator=generator)
    scales = GAUSSIAN.scale_table[indexes]
    symbols = (torch.randn(20_000, generator=generator) * scales).round()
    writer = SymbolWriter()
    writer.write(symbols, GAUSSIAN.indexes(scales), GAUSSIAN.tables)
    estimate = -float(GAUSSIAN.likelihood(symbols, scales).double().log2().sum())
    assert abs(len(writer.getvalue()) * 8 - estimate) < 0.003 * estimate + 64


CALLS = st.lists(
    st.lists(
        st.tuples(st.one_of(st.integers(-9, 9), st.integers(1 - 2**30, 2**30 - 1)), st.integers(0, 63)), max_size=30
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(CALLS)
def test_what_was_written_is_read_whatever_its_size(calls: list[list[tuple[int, int]]]) -> None:
    writer = SymbolWriter()
    for call in calls:
        rows = torch.tensor(call, dtype=torch.long).reshape(-1, 2)
        writer.write(rows[:, 0].double(), rows[:, 1], GAUSSIAN.tables)
    reader = SymbolReader(writer.getvalue())
    for call in calls:
        rows = torch.tensor(call, dtype=torch.long).reshape(-1, 2)
        assert torch.equal(reader.read(rows[:, 1], GAUSSIAN.tables), rows[:, 0].double())
    reader.check_empty()


def test_no_symbols_are_no_bytes() -> None:
    writer = SymbolWriter()
    writer.write(torch.zeros(0), torch.zeros(0, dtype=torch.long), GAUSSIAN.tables)
    assert writer.getvalue() == b""


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 40))
def test_any_bytes_are_symbols_or_refused(data: bytes, count: int) -> None:
    try:
        reader = SymbolReader(data)
        found = reader.read(torch.full((count,), 3), GAUSSIAN.tables)
        reader.check_empty()
    except CorruptStream:
        return
    assert len(found) == count
    assert found.abs().max() < 2**30 if count else True


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 2.0**30])
def test_what_is_no_symbol_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="not finite or too large"):
        SymbolWriter().write(torch.tensor([0.0, wrong]), torch.zeros(2, dtype=torch.long), GAUSSIAN.tables)


def test_frequencies_do_not_depend_on_the_type_of_numbers() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(50))
    assert torch.equal(
        frequency_table(torch.tensor(weights)), frequency_table(torch.tensor(weights, dtype=torch.float64))
    )
