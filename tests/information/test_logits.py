import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.information import (
    entropy,
    entropy_of_probabilities,
    js_divergence,
    kl_divergence,
    measure,
    perplexity,
    top_k_mass,
    varentropy,
)
from szilard.information import (
    logits as logits_module,
)

INF = math.inf
LN2 = math.log(2.0)


def random_logits(*shape: int, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def exact(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Entropy and varentropy in float64, straight from the definitions; finite logits only."""
    log_p = torch.log_softmax(logits.double(), dim=-1)
    p = log_p.exp()
    h = -(p * log_p).sum(-1, keepdim=True)
    return h.squeeze(-1), (p * (log_p + h) ** 2).sum(-1)


def close(actual: torch.Tensor, expected: torch.Tensor | float, tolerance: float = 1e-5) -> bool:
    expected = torch.as_tensor(expected, dtype=torch.float64).expand(actual.shape)
    return torch.allclose(actual.double(), expected, rtol=tolerance, atol=tolerance)


# Closed forms


@pytest.mark.parametrize("vocab_size", [1, 2, 1000, 49152])
def test_entropy_of_a_uniform_row_is_log_vocabulary(vocab_size: int) -> None:
    row = torch.full((vocab_size,), 2.5)
    assert close(entropy(row), math.log(vocab_size))
    assert close(varentropy(row), 0.0)
    assert close(measure(row).max_probability, 1 / vocab_size)
    assert close(measure(row).log_normaliser, 2.5 + math.log(vocab_size))


def test_entropy_of_the_worked_example_is_1_02965_nats() -> None:
    assert close(entropy(torch.tensor([0.5, 0.3, 0.2]).log()), 1.02965)
    assert close(entropy_of_probabilities(torch.tensor([0.5, 0.3, 0.2])), 1.02965)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.999])
def test_two_point_row_has_the_binary_entropy_and_varentropy(p: float) -> None:
    row = torch.tensor([p, 1 - p], dtype=torch.float64).log()
    assert close(entropy(row), -p * math.log(p) - (1 - p) * math.log(1 - p))
    assert close(varentropy(row), p * (1 - p) * math.log(p / (1 - p)) ** 2)


@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_geometric_row_has_the_geometric_entropy_and_varentropy(ratio: float) -> None:
    # p_n = (1 - r) r^n: H = -ln(1 - r) - r ln r / (1 - r), Var[-ln p] = (ln r)^2 Var[n] = (ln r)^2 r / (1 - r)^2
    row = torch.arange(2000) * math.log(ratio)
    assert close(entropy(row), -math.log(1 - ratio) - ratio / (1 - ratio) * math.log(ratio))
    assert close(varentropy(row), math.log(ratio) ** 2 * ratio / (1 - ratio) ** 2)


@pytest.mark.parametrize("other", [-INF, -1e30, -3e38, -1e5])
@pytest.mark.parametrize("batch", [1, 4])
def test_one_hot_row_has_zero_entropy_and_no_nan(batch: int, other: float) -> None:
    row = torch.full((batch, 100), other)
    row[:, 7] = 3e38 if other == -3e38 else 5.0
    measures = measure(row, top_k=3, probabilities=True)
    assert measures.entropy.tolist() == entropy(row).tolist() == [0.0] * batch
    assert measures.varentropy.tolist() == [0.0] * batch
    assert measures.max_probability.tolist() == measures.top_k_mass.tolist() == [1.0] * batch
    assert torch.equal(measures.log_normaliser, row[:, 7])
    from_probabilities = entropy_of_probabilities(measures.probabilities)
    assert from_probabilities.tolist() == [0.0] * batch
    assert not torch.stack([measures.entropy, from_probabilities]).signbit().any()


def test_impossible_tokens_do_not_change_a_row() -> None:
    row = random_logits(6, 50)
    padded = torch.cat([row, torch.full((6, 30), -INF)], dim=-1)
    for short, long in zip(measure(row, top_k=5), measure(padded, top_k=5), strict=True):
        if short is not None:
            assert close(long, short, 1e-6)
    assert close(entropy(padded), entropy(row), 1e-6)


@pytest.mark.parametrize("row", [[math.nan, 0.0, 1.0], [INF, 0.0, 1.0], [-INF, -INF, -INF]])
def test_a_single_row_without_a_distribution_gives_nan(row: list[float]) -> None:
    for values in [*measure(torch.tensor(row), probabilities=True), entropy(torch.tensor(row))]:
        assert values is None or values.isnan().all()


@pytest.mark.parametrize("poison", [[math.nan, 0.0, 1.0], [INF, 0.0, 1.0], [-INF, -INF, -INF]])
def test_row_without_a_distribution_gives_nan_and_leaves_its_neighbours_alone(poison: list[float]) -> None:
    rows = torch.tensor([poison, [0.0, 1.0, 2.0]])
    healthy = torch.tensor([[0.0, 1.0, 2.0]] * 2)
    for values in [
        *measure(rows, top_k=1)[:5],
        entropy(rows),
        kl_divergence(rows, healthy),
        js_divergence(rows, healthy),
    ]:
        assert values is not None
        assert values[0].isnan() and values[1].isfinite()
    assert kl_divergence(healthy, rows)[0].isnan()


# Precision, shapes, chunks


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 2])
def test_measures_of_a_large_vocabulary_are_exact_to_3e_6(batch: int, dtype: torch.dtype, scale: float) -> None:
    rows = random_logits(batch, 151936, scale=scale).to(dtype)
    expected_entropy, expected_varentropy = exact(rows)
    measures = measure(rows, top_k=10)
    assert (entropy(rows) - expected_entropy).abs().max() < 3e-6
    assert (measures.entropy - expected_entropy).abs().max() < 3e-6
    assert (measures.varentropy - expected_varentropy).abs().max() < 3e-6
    assert close(measures.log_normaliser, torch.logsumexp(rows.double(), -1), 1e-6)
    assert close(measures.top_k_mass, torch.softmax(rows.double(), -1).topk(10).values.sum(-1), 1e-6)


@pytest.mark.parametrize(
    ("given_dtype", "returned"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_accumulated_in_float32_and_float64_stays(
    given_dtype: torch.dtype, returned: torch.dtype
) -> None:
    rows = random_logits(3, 40).to(given_dtype)
    results = [*measure(rows, top_k=2, probabilities=True), entropy(rows), varentropy(rows), top_k_mass(rows, 2)]
    results += [
        kl_divergence(rows, rows),
        js_divergence(rows, rows),
        perplexity(rows, torch.zeros(3, dtype=torch.long)),
    ]
    results += [entropy_of_probabilities(torch.softmax(rows, -1))]
    assert {result.dtype for result in results if result is not None} == {returned}


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 0), (2, 1, 3)])
def test_any_leading_shape_is_a_batch_of_rows(leading: tuple[int, ...]) -> None:
    rows = random_logits(*leading, 20)
    measures = measure(rows, top_k=4, probabilities=True)
    assert measures.probabilities is not None and measures.probabilities.shape == rows.shape
    assert all(values is not None and values.shape == leading for values in measures[:5])
    assert entropy(rows).shape == varentropy(rows).shape == top_k_mass(rows, 4).shape == leading
    assert kl_divergence(rows, rows).shape == js_divergence(rows, rows[..., :]).shape == leading
    assert entropy_of_probabilities(torch.softmax(rows, -1)).shape == leading
    assert close(measures.entropy, exact(rows)[0])


@pytest.mark.parametrize("elements", [1, 50, 120])
def test_results_do_not_depend_on_how_rows_are_chunked(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    rows = random_logits(2, 5, 24)
    targets = torch.arange(10).reshape(2, 5)
    whole = [*measure(rows, top_k=3, probabilities=True), entropy(rows), perplexity(rows, targets)]
    whole += [entropy_of_probabilities(torch.softmax(rows, -1))]
    monkeypatch.setattr(logits_module, "_CHUNK_ELEMENTS_CPU", elements)
    chunked = [*measure(rows, top_k=3, probabilities=True), entropy(rows), perplexity(rows, targets)]
    chunked += [entropy_of_probabilities(torch.softmax(rows, -1))]
    for one, many in zip(whole, chunked, strict=True):
        assert one.shape == many.shape
        assert close(many, one, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_function_writes_to_its_input(dtype: torch.dtype) -> None:
    p, q = random_logits(3, 30).to(dtype), random_logits(3, 30, seed=1).to(dtype)
    probabilities = torch.softmax(p, -1)
    before = p.clone(), q.clone(), probabilities.clone()
    measure(p, top_k=2, probabilities=True)
    entropy(p), varentropy(p), top_k_mass(p, 2), kl_divergence(p, q), js_divergence(p, q)
    perplexity(p, torch.tensor([0, 1, -100])), entropy_of_probabilities(probabilities)
    assert all(torch.equal(now, then) for now, then in zip((p, q, probabilities), before, strict=True))


def test_logits_that_require_grad_are_measured_without_a_graph() -> None:
    rows = random_logits(2, 10).requires_grad_()
    for values in (*measure(rows, top_k=2)[:5], entropy(rows), kl_divergence(rows, rows), js_divergence(rows, rows)):
        assert values is not None and not values.requires_grad


def test_a_strided_view_measures_like_its_copy() -> None:
    last = random_logits(3, 4, 25)[:, -1, :]
    assert torch.equal(entropy(last), entropy(last.contiguous()))
    every_other = random_logits(3, 50)[:, ::2]
    assert close(entropy(every_other), exact(every_other)[0])


@pytest.mark.parametrize("batch", [1, 4])
def test_probabilities_are_the_softmax_and_absent_unless_asked_for(batch: int) -> None:
    rows = random_logits(batch, 60)
    assert close(measure(rows, probabilities=True).probabilities, torch.softmax(rows.double(), -1), 1e-6)
    assert measure(rows).probabilities is None
    assert measure(rows).top_k_mass is None


# Invariants

finite_rows = st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=40)


@st.composite
def pairs_of_rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    size = draw(st.integers(1, 30))
    logit = st.one_of(st.floats(-60, 60, width=32), st.just(-INF))
    row = st.lists(logit, min_size=size, max_size=size).filter(lambda values: max(values) > -INF)
    return torch.tensor(draw(row)), torch.tensor(draw(row))


@settings(deadline=None, max_examples=80)
@given(finite_rows)
def test_entropy_lies_between_zero_and_log_vocabulary(values: list[float]) -> None:
    row = torch.tensor(values)
    assert 0.0 <= entropy(row) <= math.log(len(values)) + 1e-6
    assert varentropy(row) >= 0.0
    assert close(measure(row).entropy, exact(row)[0])
    assert close(entropy_of_probabilities(torch.softmax(row, -1)), exact(row)[0])


@settings(deadline=None, max_examples=50)
@given(finite_rows, st.integers(-1000, 1000))
def test_adding_a_constant_to_all_logits_changes_nothing_but_the_normaliser(values: list[float], shift: int) -> None:
    row = torch.tensor(values, dtype=torch.float64)
    plain, shifted = measure(row, top_k=1, probabilities=True), measure(row + shift, top_k=1, probabilities=True)
    assert close(shifted.log_normaliser, plain.log_normaliser + shift, 1e-9)
    for one, other in zip(plain._replace(log_normaliser=None), shifted._replace(log_normaliser=None), strict=True):
        assert (one is None and other is None) or close(one, other, 1e-9)


@settings(deadline=None, max_examples=50)
@given(finite_rows)
def test_top_k_mass_grows_with_k_to_one(values: list[float]) -> None:
    row = torch.tensor(values)
    masses = torch.stack([top_k_mass(row, k) for k in range(1, len(values) + 1)])
    assert close(masses[0], measure(row).max_probability, 1e-6)
    assert close(masses[-1], 1.0, 1e-6)
    assert (masses.diff() >= -1e-6).all()


@settings(deadline=None, max_examples=80)
@given(pairs_of_rows())
def test_divergences_are_not_negative_and_jensen_shannon_is_symmetric_and_bounded(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    p, q = pair
    assert kl_divergence(p, q) >= 0.0
    assert 0.0 <= js_divergence(p, q) <= LN2
    assert close(js_divergence(p, q), js_divergence(q, p), 1e-6)
    assert kl_divergence(p, p) == 0.0
    assert js_divergence(p, p) < 1e-6


# Divergences


def test_kl_divergence_of_two_point_rows_has_its_closed_form() -> None:
    p, q = torch.tensor([0.7, 0.3]).log(), torch.tensor([0.2, 0.8]).log()
    assert close(kl_divergence(p, q), 0.7 * math.log(0.7 / 0.2) + 0.3 * math.log(0.3 / 0.8))


def test_kl_divergence_from_uniform_is_log_vocabulary_minus_entropy() -> None:
    rows = random_logits(3, 500)
    assert close(kl_divergence(rows, torch.zeros(500)), math.log(500) - entropy(rows))


def test_kl_divergence_is_infinite_exactly_where_q_misses_mass_of_p() -> None:
    p = torch.tensor([[0.0, 0.0, -INF], [0.0, 0.0, 0.0]])
    q = torch.tensor([[0.0, 0.0, -INF], [0.0, 0.0, -INF]])
    assert close(kl_divergence(p, q)[:1], 0.0)
    assert kl_divergence(p, q)[1] == INF
    assert close(kl_divergence(q, p)[1:], math.log(1.5))


def test_jensen_shannon_divergence_of_disjoint_rows_is_log_two() -> None:
    assert close(js_divergence(torch.tensor([0.0, -INF]), torch.tensor([-INF, 0.0])), LN2)


def test_jensen_shannon_divergence_is_entropy_of_the_mixture_minus_mean_entropy() -> None:
    p, q = random_logits(4, 300), random_logits(4, 300, seed=1)
    mixture = (torch.softmax(p, -1) + torch.softmax(q, -1)) / 2
    assert close(js_divergence(p, q), entropy_of_probabilities(mixture) - (entropy(p) + entropy(q)) / 2)


# Perplexity


def test_perplexity_is_the_exponential_of_cross_entropy() -> None:
    logits, targets = random_logits(2, 7, 50), torch.arange(14).reshape(2, 7)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).exp()
    assert close(perplexity(logits, targets), expected)
    assert close(perplexity(logits.bfloat16(), targets), expected, 0.05)


def test_perplexity_of_a_uniform_model_is_the_vocabulary_size() -> None:
    assert close(perplexity(torch.zeros(3, 64), torch.tensor([0, 5, 63])), 64.0)


def test_perplexity_counts_neither_masked_nor_ignored_positions() -> None:
    logits, targets = random_logits(2, 5, 30), torch.arange(10).reshape(2, 5)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]])
    expected = perplexity(logits[mask.bool()], targets[mask.bool()])
    assert close(perplexity(logits, targets, mask=mask), expected)
    assert close(perplexity(logits, targets.masked_fill(mask == 0, -100)), expected)
    half_masked, half_ignored = mask.clone(), targets.clone()
    half_masked[1], half_ignored[1, 0] = 1, 29
    assert close(perplexity(logits, half_ignored, mask=half_masked, ignore_index=29), expected)
    poisoned = logits.masked_fill((mask == 0).unsqueeze(-1), math.nan)
    assert close(perplexity(poisoned, targets, mask=mask), expected)


def test_perplexity_is_infinite_for_an_impossible_target_and_nan_when_nothing_counts() -> None:
    assert perplexity(torch.tensor([[0.0, -INF]]), torch.tensor([1])) == INF
    assert perplexity(torch.zeros(2, 3), torch.tensor([-100, -100])).isnan()


# Bad input


@pytest.mark.parametrize("function", [measure, entropy, varentropy, entropy_of_probabilities])
def test_integer_tensors_and_scalars_are_refused(function: object) -> None:
    assert callable(function)
    with pytest.raises(TypeError, match=r"floating-point tensor, got dtype torch\.int64"):
        function(torch.tensor([1, 2]))
    with pytest.raises(TypeError, match="got list"):
        function([0.5, 0.5])
    with pytest.raises(ValueError, match="non-empty last axis"):
        function(torch.tensor(1.0))
    with pytest.raises(ValueError, match="non-empty last axis"):
        function(torch.zeros(3, 0))


@pytest.mark.parametrize("k", [0, -1, 6])
def test_top_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the vocabulary size 5"):
        top_k_mass(torch.zeros(5), k)
    with pytest.raises(ValueError, match="between 1 and the vocabulary size 5"):
        measure(torch.zeros(5), top_k=k)


@pytest.mark.parametrize("divergence", [kl_divergence, js_divergence])
def test_different_vocabularies_are_refused(divergence: object) -> None:
    assert callable(divergence)
    with pytest.raises(ValueError, match="scores 1 tokens and q_logits 5"):
        divergence(torch.zeros(1), torch.zeros(5))


def test_perplexity_refuses_targets_that_do_not_fit() -> None:
    logits = torch.zeros(2, 3, 5)
    with pytest.raises(ValueError, match=r"targets has shape \[3\]"):
        perplexity(logits, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"mask has shape \[2\]"):
        perplexity(logits, torch.zeros(2, 3, dtype=torch.long), mask=torch.ones(2))
    with pytest.raises(ValueError, match=r"outside \[0, 5\)"):
        perplexity(logits, torch.full((2, 3), 5))
    with pytest.raises(TypeError, match="integer token ids"):
        perplexity(logits, torch.zeros(2, 3))
