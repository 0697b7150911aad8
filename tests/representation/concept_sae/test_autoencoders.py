"""Sparse autoencoders share one interface, and each keeps what its definition says."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.representation.concept_sae.autoencoders import (
    BatchTopKSae,
    JumpReluSae,
    PAnnealSae,
    SparseAutoencoder,
    TopKSae,
)
from szilard.representation.concept_sae.kinds import KINDS, load_sae, make_sae
from szilard.representation.concept_sae.measures import sae_measures
from szilard.representation.concept_sae.structured import StructuredSparseAutoencoder

D, M = 12, 40


def rows(count: int = 64, seed: int = 0) -> torch.Tensor:
    return 3.0 + 2.0 * torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def made(kind: str, **settings: object) -> object:
    torch.manual_seed(0)
    sae = make_sae(kind, D, M, **({"k": 3} if "top-k" in kind else {}), **settings)
    sae.initialise(rows().mean(0), 0.3)
    return sae


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_encodes_decodes_and_is_read_back(kind: str, tmp_path: Path) -> None:
    sae = made(kind).eval()
    z = sae.encode(rows())
    assert z.shape == (64, M) and sae.decode(z).shape == (64, D)
    assert (sae.input_dim, sae.dictionary_size) == (D, M)
    torch.testing.assert_close(sae.dictionary.norm(dim=0), torch.ones(M))
    torch.testing.assert_close(sae.decode(torch.zeros(1, M))[0], rows().mean(0), rtol=1e-5, atol=1e-5)
    sae.save_pretrained(tmp_path)
    read = load_sae(tmp_path)
    assert type(read) is KINDS[kind] and torch.equal(read.encode(rows()), z)
    with pytest.raises(ValueError, match="activations must be"):
        sae.encode(torch.zeros(2, D + 1))
    with pytest.raises(ValueError, match="codes must be"):
        sae.decode(torch.zeros(2, M + 1))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, M), st.integers(0, 99))
def test_top_k_keeps_k_of_a_row_and_batch_top_k_k_on_average(k: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = rows(16, seed)
    one, batch = TopKSae(D, M, k=k), BatchTopKSae(D, M, k=k)
    before = one.before(x)
    z = one.encode(x)
    assert bool(((z > 0).sum(1) == (before > 0).sum(1).clamp(max=k)).all()) and bool((z >= 0).all())
    batch.load_state_dict(one.state_dict(), strict=False)
    chosen = batch.train().chosen(before)
    assert int((chosen > 0).sum()) == min(16 * k, int((before > 0).sum()))
    if int((before > 0).sum()) > 16 * k:  # afterwards a threshold takes the same ones, but for the least itself
        assert int((batch.encode(x) > 0).sum()) == 16 * k - 1


def test_a_jump_takes_what_is_above_its_threshold_and_the_threshold_learns() -> None:
    sae = JumpReluSae(1, 1, threshold=0.5, bandwidth=0.2, sparsity_weight=1.0)
    with torch.no_grad():
        sae.dictionary.fill_(1.0)
        sae.encoder_weight.fill_(1.0)
    x = torch.tensor([[0.3], [0.45], [0.55], [0.9]])
    torch.testing.assert_close(sae.encode(x), torch.tensor([[0.0], [0.0], [0.55], [0.9]]))
    sae.loss(x)["loss"].backward()
    # Two of four lie in the kernel. Of the error 2 (x^ - x) times -theta / width; of the count -1 / width; times theta.
    error = (2 * (0 - 0.45) + 2 * 0) * (-0.5 / 0.2) / 4
    count = -2 / 0.2 / 4
    assert float(sae.log_threshold.grad) == pytest.approx((error + count) * 0.5, rel=1e-4)


def test_the_losses_are_what_they_are_called() -> None:
    sae, x = made("l1", sparsity_weight=0.7), rows()
    z, scaled = sae.encode(x), 0.3 * x
    plain = (scaled - 0.3 * sae.decode(z)).square().sum(1).mean() + 0.7 * z.sum(1).mean()
    torch.testing.assert_close(sae.loss(x)["loss"], plain, rtol=1e-4, atol=1e-4)


def test_p_of_one_without_updates_is_l1() -> None:
    one, other = made("l1"), made("p-annealing", updates=0)
    other.begin_step(0.99, 0.0, 0.5)
    for name, value in one.loss(rows()).items():
        assert torch.equal(value, other.loss(rows())[name]), name


def test_without_its_head_the_structured_one_is_p_annealing() -> None:
    one, other = made("p-annealing"), made("structured", rank_head="none", rank_weight=0.0)
    for sae in (one, other):
        sae.loss(rows())
        sae.update_p()
    assert {name: value.item() for name, value in one.loss(rows()).items()} == {
        name: value.item() for name, value in other.loss(rows()).items()
    }


def test_lambda_times_the_penalty_stays_where_p_changes() -> None:
    sae, z = PAnnealSae(D, M, sparsity_weight=0.2), made("l1").encode(rows())
    for _ in range(9):
        before = float(sae.weight) * sae.sparsity(z).item()
        old = float(sae.p)
        sae.update_p()
        assert float(sae.p) < old
        assert float(sae.weight) * sae.penalty(z, float(sae.p)).item() == pytest.approx(before, rel=1e-5)


def test_p_falls_in_equal_updates_and_does_not_reach_its_end() -> None:
    sae, seen = PAnnealSae(D, M, updates=4), []
    for step in range(100):
        sae.begin_step(step / 100, 0.1, 0.5)
        sae.loss(rows())
        seen.append(round(float(sae.p), 6))
    assert sorted(set(seen), reverse=True) == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert [seen.count(p) for p in (1.0, 0.8, 0.6, 0.4, 0.2)] == [50, 13, 12, 13, 12]


def test_the_penalty_has_a_finite_slope_at_zero() -> None:
    sae = PAnnealSae(D, M)
    z = torch.zeros(2, M, requires_grad=True)
    (slope,) = torch.autograd.grad(sae.penalty(z, 0.1), z)
    assert bool(torch.isfinite(slope).all()) and sae.penalty(z, 0.1).item() == 0.0


@pytest.mark.parametrize("head", ["linear", "factorised"])
def test_the_code_is_sparse_plus_low_rank_and_the_rank_costs(head: str) -> None:
    sae, x = made("structured", rank_head=head, rank=2, rank_weight=0.5), rows()
    with torch.no_grad():
        for name, value in sae.named_parameters():
            if name.startswith("rank_"):
                value.normal_()
    sparse, dense = sae.parts(x)
    assert torch.equal(sae.encode(x), sparse + dense) and bool((sparse >= 0).all())
    norm = float(torch.linalg.matrix_norm(dense.detach().double() / 8, "nuc"))
    found = sae.loss(x)
    if head == "linear":
        assert float(found["nuclear"]) == pytest.approx(norm, rel=1e-4)
    else:
        assert float(found["nuclear"]) >= norm and int(torch.linalg.matrix_rank(dense)) == 2
    rest = found["error"] + found["penalty"] + 0.5 * found["nuclear"]
    torch.testing.assert_close(found["loss"], rest, rtol=1e-5, atol=1e-5)


def test_the_nuclear_norm_does_not_depend_on_the_batch() -> None:
    sae, x = made("structured"), rows()
    small, large = sae.rank_penalty(sae.scaled(x)), sae.rank_penalty(sae.scaled(torch.cat([x, x, x])))
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-5)


def test_dead_features_of_top_k_learn_through_the_error_that_is_left() -> None:
    sae = TopKSae(D, M, k=2, dead_after=10, auxiliary_k=5)
    sae.idle.fill_(100)
    found = sae.loss(rows())
    found["auxiliary"].backward()
    assert float(sae.dictionary.grad.norm()) > 0


def test_measures_are_those_of_all_rows_at_once() -> None:
    sae, x = made("structured", rank_head="factorised", rank=3), rows(100)
    with torch.no_grad():
        sae.rank_in.normal_()
        sae.rank_out.normal_()
    found = sae_measures(sae, x, batch_size=7)
    with torch.no_grad():
        sparse, dense = sae.parts(x)
        error = (x - sae(x)).square().sum(1).mean()
        share = (dense @ sae.dictionary.T).square().sum()
        share = share / (share + (sparse @ sae.dictionary.T).square().sum())
    spread = (x - x.mean(0)).square().sum(1).mean()
    assert found["mse"] == pytest.approx(float(error), rel=1e-5)
    assert found["explained_variance"] == pytest.approx(1 - float(error / spread), rel=1e-4)
    assert found["l0"] == pytest.approx(float((sparse > 0).float().sum(1).mean()))
    assert found["dead"] == pytest.approx(1 - float((sparse > 0).any(0).float().mean()))
    assert found["rank"] == 3.0 and found["low_rank_share"] == pytest.approx(float(share), rel=1e-4)


def test_a_low_rank_part_that_has_vanished_has_no_rank() -> None:
    sae = made("structured")
    with torch.no_grad():
        sae.rank_matrix.mul_(1e-6)
    found = sae_measures(sae, rows())
    assert found["rank"] == 0.0 and found["low_rank_share"] < 1e-6


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="k must be between 1 and 40"):
        TopKSae(D, M, k=41)
    with pytest.raises(ValueError, match="rank_head must be one of"):
        StructuredSparseAutoencoder(D, M, rank_head="dense")
    with pytest.raises(ValueError, match="sparsity_weight must be between 0"):
        SparseAutoencoder(D, M, sparsity_weight=-1.0)
    with pytest.raises(ValueError, match="kind must be one of"):
        make_sae("dense", D, M)
    with pytest.raises(ValueError, match="has no k"):
        make_sae("l1", D, M, k=3)
    with pytest.raises(ValueError, match="no sparse autoencoder"):
        load_sae("nowhere")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_tensor_is_told(kind: str) -> None:
    sae = made(kind)
    for read in (sae.encode, sae.decode):
        with pytest.raises(TypeError, match="must be a tensor"):
            read([[0.0] * D])
        with pytest.raises(ValueError, match="must be"):
            read(torch.tensor(1.0))


def test_measures_tell_what_they_cannot_measure() -> None:
    sae, x = made("l1"), rows()
    with pytest.raises(ValueError, match="not finite"):
        sae_measures(sae, torch.where(x > 3, torch.nan, x))
    with pytest.raises(TypeError, match="slice without a step"):
        sae_measures(sae, x, rows=slice(0, 9, 2))
    with pytest.raises(TypeError, match="sae must be one of"):
        sae_measures(object(), x)


def test_weights_that_were_cut_off_are_told(tmp_path: Path) -> None:
    made("l1").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cannot be read"):
        load_sae(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load_sae(tmp_path)


def test_numbers_kept_beside_their_buffers_follow_them(tmp_path: Path) -> None:
    sae, x = PAnnealSae(D, M), rows()
    sae.loss(x)
    sae.update_p()
    sae.save_pretrained(tmp_path)
    twin = copy.deepcopy(sae)
    twin.load_state_dict(PAnnealSae(D, M).state_dict())
    assert float(twin.loss(x)["p"]) == 1.0 and torch.equal(twin.penalty(x, 1.0), twin.sparsity(x))
    read = load_sae(tmp_path)
    assert torch.equal(read.sparsity(x.relu()), read.penalty(x.relu(), float(sae.p)))
    sae.p.fill_(0.5)
    assert torch.equal(sae.sparsity(x.relu()), sae.penalty(x.relu(), 0.5))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 200), st.integers(0, 99))
def test_dead_features_are_found_in_the_very_step_in_which_they_die(dead_after: int, seed: int) -> None:
    torch.manual_seed(seed)
    sae = TopKSae(D, M, k=1, dead_after=dead_after, auxiliary_k=4)
    for step in range(12):
        if step == 6:
            sae.load_state_dict({**sae.state_dict(), "idle": torch.randint(0, 150, (M,))})
        found = sae.loss(rows(16, step))
        assert ("auxiliary" in found) == bool((sae.idle >= dead_after).any())
