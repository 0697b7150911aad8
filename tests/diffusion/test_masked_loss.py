"""The loss of masked diffusion, on models whose likelihoods are known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from szilard.diffusion.bidirectional import Bidirectional, positions, visible
from szilard.diffusion.masked_loss import (
    canvases,
    log_likelihood,
    mask_probabilities,
    mask_tokens,
    masked_diffusion_loss,
    sometimes_shorter,
)
from tests.conftest import tiny_model

MASK = 3  # of a vocabulary of three tokens


class Table:
    """A model that knows a joint distribution of three places: the exact marginals given what is visible."""

    def __init__(self, seed: int = 0) -> None:
        weights = torch.rand(27, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
        self.joint = weights / weights.sum()
        self.all = torch.tensor(list(itertools.product(range(3), repeat=3)))

    def marginals(self, row: torch.Tensor) -> torch.Tensor:
        """[3 places, 3 tokens] given the tokens that are not masked."""
        fits = ((self.all == row) | (row == MASK)).all(1)
        weights = self.joint * fits
        one_hot = torch.nn.functional.one_hot(self.all, 3).double()
        return torch.einsum("w,wpv->pv", weights / weights.sum(), one_hot)

    def __call__(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        known = {tuple(row.tolist()): self.marginals(row) for row in tokens.unique(dim=0)}
        found = torch.stack([known[tuple(row.tolist())] for row in tokens])
        return found[wanted].clamp(min=1e-12).log()

    def any_order_nats(self, row: torch.Tensor) -> float:
        """-log p of a row, its tokens revealed in a random order, averaged over all orders."""
        total = 0.0
        for order in itertools.permutations(range(3)):
            seen = torch.full((3,), MASK)
            for place in order:
                total -= math.log(self.marginals(seen)[place, row[place]])
                seen[place] = row[place]
        return total / 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_loss_is_the_any_order_likelihood() -> None:
    table, row = Table(), torch.tensor([2, 0, 1])
    expected = table.any_order_nats(row)
    assert expected == pytest.approx(-float(table.joint[(table.all == row).all(1)].log()), abs=1e-9)  # exact: any order
    draws = torch.tensor(
        [
            float(masked_diffusion_loss(table, row.expand(64, 3), MASK, eps=0.0, generator=seeded(seed)).loss) * 3
            for seed in range(400)
        ]
    )
    error = float(draws.std()) / 20
    assert error < 0.05 * expected
    assert abs(float(draws.mean()) - expected) < 4 * error


def test_with_eps_the_loss_is_unbiased_up_to_eps() -> None:
    table, row = Table(1), torch.tensor([0, 0, 2])
    found = [float(masked_diffusion_loss(table, row.expand(256, 3), MASK, generator=seeded(s)).loss) for s in range(60)]
    assert sum(found) / 60 * 3 == pytest.approx(table.any_order_nats(row), rel=0.05)


def test_the_likelihood_estimate_is_the_any_order_likelihood() -> None:
    table, row = Table(2), torch.tensor([1, 2, 0])
    whole = torch.ones(3, dtype=torch.bool)
    found = [log_likelihood(table, row, whole, MASK, draws=126, generator=seeded(seed)) for seed in range(12)]
    assert sum(found) / 12 == pytest.approx(-table.any_order_nats(row), rel=0.03)
    kept = log_likelihood(table, row, whole, MASK, draws=126, batch_size=5, generator=seeded(3))
    assert kept == pytest.approx(found[3], rel=1e-6)


def test_the_likelihood_of_one_token_needs_one_draw() -> None:
    table, row = Table(3), torch.tensor([1, 2, 0])
    last = torch.tensor([False, False, True])
    exact = math.log(table.marginals(torch.tensor([1, 2, MASK]))[2, 0])
    assert log_likelihood(table, row, last, MASK) == pytest.approx(exact, abs=1e-5)


def test_stratified_levels_cover_the_interval_once() -> None:
    p = mask_probabilities(16, eps=0.0, generator=seeded())
    assert ((p * 16).long().sort().values == torch.arange(16)).all()
    low = mask_probabilities(4096, eps=0.25, stratified=False, generator=seeded())
    assert 0.25 <= float(low.min()) < 0.26 and 0.99 < float(low.max()) <= 1
    assert float(low.mean()) == pytest.approx(0.625, abs=0.01)


def test_stratified_levels_lower_the_variance() -> None:
    table, rows = Table(), torch.tensor([2, 0, 1]).expand(16, 3)
    spread = {
        kind: torch.tensor(
            [
                float(masked_diffusion_loss(table, rows, MASK, eps=0.05, stratified=kind, generator=seeded(seed)).nats)
                for seed in range(200)
            ]
        ).std()
        for kind in (True, False)
    }
    assert spread[True] < spread[False]


def test_all_is_masked_at_p_1_and_nothing_at_p_0() -> None:
    tokens = torch.arange(3).expand(2, 3)
    noisy, masked = mask_tokens(tokens, torch.tensor([1.0, 0.0]), MASK, generator=seeded())
    assert noisy.tolist() == [[MASK] * 3, [0, 1, 2]] and masked.tolist() == [[True] * 3, [False] * 3]


def test_prompts_and_padding_are_never_masked() -> None:
    batch = canvases([[5, 6], [7]], [[8], [8, 9]], pad_token_id=0, eos_token_id=1)
    seen = []

    def predict(tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        seen.append((tokens, wanted))
        return torch.zeros(int(wanted.sum()), 10)

    found = masked_diffusion_loss(predict, batch["tokens"], MASK, answer=batch["answer"], eps=1.0, generator=seeded())
    tokens, wanted = seen[0]
    assert torch.equal(wanted, batch["answer"]) and torch.equal(found.masked, wanted)
    assert tokens[:, :2].tolist() == [[5, 6], [0, 7]]


def test_answers_are_filled_with_end_tokens_that_are_trained() -> None:
    batch = canvases([[5, 6], [7]], [[8], [8, 9]], pad_token_id=0, eos_token_id=1, length=4)
    assert batch["tokens"].tolist() == [[5, 6, 8, 1, 1, 1], [0, 7, 8, 9, 1, 1]]
    assert batch["real"].tolist() == [[True] * 6, [False] + [True] * 5]
    assert batch["answer"].sum(1).tolist() == [4, 4]
    with pytest.raises(ValueError, match="more than length=1"):
        canvases([[5]], [[8, 9]], pad_token_id=0, eos_token_id=1, length=1)
    with pytest.raises(ValueError, match="each prompt needs its answer"):
        canvases([[5]], [], pad_token_id=0, eos_token_id=1)


def test_each_row_is_divided_by_the_length_of_its_own_answer() -> None:
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    answer = torch.zeros(2, 8, dtype=torch.bool)
    answer[0, 7:], answer[1, 2:] = True, True  # 1 and 6 tokens
    even = lambda _, wanted: torch.zeros(int(wanted.sum()), 4)  # noqa: E731 - ln 4 nats each
    by_row = masked_diffusion_loss(even, tokens, MASK, answer=answer, eps=1.0, generator=seeded()).loss
    assert float(by_row) == pytest.approx(math.log(4))
    real = answer.clone()
    of_all = masked_diffusion_loss(even, tokens, MASK, real=real, eps=1.0, generator=seeded())
    assert float(of_all.loss) == pytest.approx(math.log(4))
    assert int(of_all.masked.sum()) == 7

    def first_row_bad(_: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:  # nats of row 0 only
        logits = torch.zeros(int(wanted.sum()), 4)
        logits[wanted.nonzero()[:, 0] == 1, 0] = 100.0
        return logits

    apart = masked_diffusion_loss(first_row_bad, tokens, MASK, answer=answer, eps=1.0, generator=seeded()).loss
    together = masked_diffusion_loss(first_row_bad, tokens, MASK, real=real, eps=1.0, generator=seeded()).loss
    assert float(apart) == pytest.approx(math.log(4) / 2) and float(together) == pytest.approx(math.log(4) / 7)


def test_one_batch_in_a_hundred_is_cut() -> None:
    tokens, generator = torch.zeros(2, 50, dtype=torch.int64), seeded()
    lengths = [sometimes_shorter(tokens, generator=generator).shape[1] for _ in range(4000)]
    cut = [length for length in lengths if length < 50]
    assert 20 <= len(cut) <= 60 and min(cut) < 15 and max(cut) > 35
    assert sometimes_shorter(tokens, share=0.0).shape[1] == 50


def test_what_cannot_be_learned_is_refused() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    for answer, message in ((torch.zeros(2, 3), "must be bool"), (torch.tensor([[True] * 3, [False] * 3]), "row 1")):
        with pytest.raises(ValueError, match=message):
            masked_diffusion_loss(Table(), tokens, MASK, answer=answer)


# --- stock decoders -------------------------------------------------------------------------------------------------


def test_a_stock_decoder_sees_both_ways(model) -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    wanted = torch.zeros_like(tokens, dtype=torch.bool)
    wanted[0, 1] = True
    changed = tokens.clone()
    changed[0, -1] = 40
    both, causal = Bidirectional(model), Bidirectional(model, share=0.0)
    with torch.no_grad():
        assert not torch.allclose(both(tokens, wanted), both(changed, wanted))
        assert torch.allclose(causal(tokens, wanted), causal(changed, wanted))


def test_a_causal_mask_and_shifted_targets_give_the_autoregressive_model(llama) -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    wanted = torch.ones_like(tokens, dtype=torch.bool)
    wanted[:, 0] = False
    with torch.no_grad():
        found = Bidirectional(llama, shift=True, share=0.0)(tokens, wanted)
        expected = llama(tokens).logits[:, :-1].flatten(0, 1)
    assert torch.allclose(found, expected)


def test_left_padding_changes_nothing(model) -> None:
    alone = torch.tensor([[5, 6, 7, 8]])
    padded = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 9, 9, 9, 9, 9]])
    real = torch.tensor([[False] * 2 + [True] * 4, [True] * 6])
    wanted = torch.zeros_like(padded, dtype=torch.bool)
    wanted[0, 2:] = True
    with torch.no_grad():
        expected = Bidirectional(model)(alone, torch.ones_like(alone, dtype=torch.bool))
        assert torch.allclose(Bidirectional(model, real=real)(padded, wanted), expected)
    assert positions(real).tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert visible(real)[0, 0, 0].tolist() == [True] + [False] * 5


def test_an_eager_model_gives_the_same() -> None:
    model = tiny_model("llama")
    tokens, wanted = torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        expected = Bidirectional(model)(tokens, wanted)
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        try:
            found = Bidirectional(model)(tokens, wanted)
        finally:
            model.set_attn_implementation(before)
    assert torch.allclose(found, expected, atol=1e-5)  # its softmax is float32
