"""The identity, planted concepts, and the simulation study."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback

from szilard.representation.concept_sae.identity import affine_map, concept_map, posterior_identity
from szilard.representation.concept_sae.planted import ConceptWorld, masks, plant_features
from szilard.representation.concept_sae.simulation import (
    Contexts,
    MaskedPredictor,
    SimulationConfig,
    linear_readability,
    simulate,
)
from szilard.training.config import TrainingConfig
from szilard.training.loop import fit


def tables(seed, concepts=4, contexts=7, tokens=6, sharp=1.0):
    draws = torch.Generator().manual_seed(seed)
    shapes = ((concepts, contexts), (concepts, tokens), (concepts,))
    return [(sharp * torch.randn(shape, generator=draws, dtype=torch.float64)).softmax(-1) for shape in shapes]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.1, 6.0))
def test_both_sides_of_the_identity_agree(seed, concepts, sharp):
    p_x, p_y, p_c = tables(seed, concepts, sharp=sharp)
    found = posterior_identity(p_x, p_y, p_c)
    assert found.error < 1e-12 * max(1.0, float(found.log_next.abs().max()) * 10)
    joint = torch.einsum("c,cx,cy->xy", p_c, p_x, p_y)
    assert torch.allclose(found.log_next, (joint / joint.sum(1, keepdim=True)).log())
    assert bool((found.epsilon >= -1e-12).all()) and bool((found.epsilon <= 1 - 1 / concepts + 1e-12).all())


def test_a_token_that_tells_the_concept_leaves_nothing_that_depends_on_the_context():
    p_x, _, p_c = tables(0, concepts=3)
    p_y = torch.tensor([[0.3, 0.7, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]], dtype=torch.float64)
    found = posterior_identity(p_x, p_y, p_c)
    assert found.error < 1e-12
    assert torch.allclose(found.remainder, found.remainder[:1].expand_as(found.remainder), atol=1e-12)
    assert float(found.epsilon.max()) < 1e-12


def test_hidden_states_are_the_map_of_the_log_posteriors_less_the_remainder():
    p_x, p_y, p_c = tables(5)
    found = posterior_identity(p_x, p_y, p_c)
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    differences = vectors[1:] - vectors[0]
    f_x = (found.log_next[:, 1:] - found.log_next[:, :1]) @ torch.linalg.inv(differences).T  # f_x^T Lhat
    a, b, remainder = affine_map(vectors, found)
    assert torch.allclose(f_x, found.log_posterior @ a.T + b - remainder, atol=1e-9)
    assert float((a @ torch.ones(4, dtype=torch.float64)).abs().max()) < 1e-9  # the direction that A does not see
    assert 0 <= found.linear_share <= 1
    with pytest.raises(ValueError, match="token_vectors must be finite"):
        affine_map(vectors[:3], found)


def test_contexts_that_differ_in_one_concept_lie_along_its_direction():
    """f(x_1) - f(x_0) = A B_k (log p(c_k|x_1) - log p(c_k|x_0)) less the remainders' difference, for every concept."""
    world = ConceptWorld.random(3, 4, seed=1)
    values, p_c = world.values, world.log_prior.exp()
    draws = torch.Generator().manual_seed(3)
    base = torch.rand(8, 1, generator=draws, dtype=torch.float64) + 0.1
    for concept in range(3):
        gains = torch.tensor([[1.0, 1.0], [0.3, 0.9], [0.8, 0.2]], dtype=torch.float64)  # p(x|c) / p(x_0|c), by c_k
        seen = base * gains[:, values[:, concept]].T * 0.2
        p_x = torch.cat([seen, 1 - seen.sum(1, keepdim=True)], 1)
        p_y = torch.rand(8, 10, generator=draws, dtype=torch.float64)
        found = posterior_identity(p_x, p_y / p_y.sum(1, keepdim=True), p_c)
        a, b, remainder = affine_map(torch.randn(10, 5, generator=draws), found)
        f_x = found.log_posterior @ a.T + b - remainder
        single = world.log_posteriors(found.log_posterior)[:, concept]
        own = concept_map(a, values, concept)
        assert own.shape == (5, 2) and float(own.sum(1).abs().max()) < 1e-10
        for at in (1, 2):
            moved = own @ (single[at] - single[0]) - (remainder[at] - remainder[0])
            assert torch.allclose(f_x[at] - f_x[0], moved, atol=1e-9)
            odds = (single[at, 1] - single[at, 0]) - (single[0, 1] - single[0, 0])
            assert torch.allclose(own @ (single[at] - single[0]), odds * own[:, 1], atol=1e-9)


def test_steering_along_a_concept_changes_its_log_odds_and_what_is_given_it_stays():
    """Where A sees all but the sum, a step of A B_k delta is the posterior with delta added to log p(c_k|x)."""
    world, draws = ConceptWorld.random(3, 4, seed=2), torch.Generator().manual_seed(1)
    a = torch.randn(12, 8, generator=draws, dtype=torch.float64)
    a = a - a.mean(1, keepdim=True)
    log_joint = torch.randn(1, 8, generator=draws, dtype=torch.float64).log_softmax(1)
    moved = log_joint @ a.T + 1.5 * concept_map(a, world.values, 1)[:, 1]
    read = (moved @ torch.linalg.pinv(a).T).log_softmax(1)
    before, after = world.log_posteriors(log_joint)[0, 1], world.log_posteriors(read)[0, 1]
    assert float((after[1] - after[0]) - (before[1] - before[0])) == pytest.approx(1.5)
    own = world.values[:, 1]
    assert torch.allclose(read[0] - after[own], log_joint[0] - before[own])  # log p(others|c_k, x)


def test_maps_of_concepts_that_are_none_are_told():
    values = ConceptWorld.random(3, 4).values
    with pytest.raises(ValueError, match="same l joint values"):
        concept_map(torch.zeros(5, 4), values, 0)
    with pytest.raises(ValueError, match="concept must be between 0 and 2"):
        concept_map(torch.zeros(5, 8), values, 3)
    with pytest.raises(ValueError, match="must have the values 0, 1"):
        concept_map(torch.zeros(5, 8), 2 * values, 0)
    with pytest.raises(TypeError, match="whole numbers"):
        concept_map(torch.zeros(5, 8), values.float(), 0)


def test_tables_that_are_no_probabilities_are_told():
    p_x, p_y, p_c = tables(0)
    for bad, message in (
        ((p_x, p_y, p_c[:3] / p_c[:3].sum()), "one row per concept"),
        ((p_x, p_y, 2 * p_c), "p_c must sum to 1"),
        ((-p_x, p_y, p_c), "must be probabilities"),
        ((p_x[0], p_y, p_c), "2 dimensions"),
        ((torch.eye(4), p_y, p_c), "above 0 everywhere"),
        ((p_x, torch.cat([p_y, torch.zeros(4, 1)], 1), p_c), "token 6 has no probability"),
    ):
        with pytest.raises(ValueError, match=message):
            posterior_identity(*bad)


def test_a_world_is_a_distribution_on_a_graph_without_cycles():
    for edges in (0, 1, 3):
        world = ConceptWorld.random(5, 12, edges=edges, seed=3)
        assert float(world.log_prior.exp().sum()) == pytest.approx(1)
        power = world.parents.double()
        assert float(torch.linalg.matrix_power(power, 5).sum()) == 0  # no path as long as there are concepts
        assert world.table.shape == (32, 12)
        first = world.table[:, :5]  # one permutation: as many different rows as joint values
        assert len(first.unique(dim=0)) == 32
    counts = [int(ConceptWorld.random(9, 4, edges=2, seed=seed).parents.sum()) for seed in range(60)]
    assert abs(sum(counts) / 60 - 18) < 1.5
    independent = ConceptWorld.random(3, 4, edges=0, seed=1)
    ones = independent.values.double().T @ independent.log_prior.exp()
    product = torch.where(independent.values.bool(), ones, 1 - ones).prod(1)
    assert torch.allclose(product, independent.log_prior.exp())
    assert bool((ones > 0.2).all() & (ones < 0.8).all())


def test_posteriors_are_bayes_rule():
    world = ConceptWorld.random(3, 6, edges=1, flip=0.1, seed=2)
    concepts, seen = world.sample(40, seed=5)
    visible = masks(40, 6, 0.5, seed=6)
    assert visible.sum(1).tolist() == [3] * 40
    found = world.log_joint_posterior(seen, visible)
    same = world.table[None] == seen[:, None]
    likely = torch.where(same, 0.9, 0.1).double().masked_fill(~visible[:, None], 1.0).prod(-1)
    expected = likely * world.log_prior.exp()
    assert torch.allclose(found.exp(), expected / expected.sum(1, keepdim=True))
    single = world.log_posteriors(found)
    assert torch.allclose(single.exp().sum(-1), torch.ones(40, 3, dtype=torch.float64))
    assert torch.allclose(single[..., 1].exp(), found.exp() @ world.values.double())
    assert concepts.shape == (40, 3)


def test_planted_features_are_affine_in_the_posteriors_with_one_map_for_all_samples():
    world = ConceptWorld.random(3, 8, seed=4)
    for mixed, inputs in (("concepts", 6), ("joint", 8)):
        train = plant_features(world, 50, 10, mixed=mixed, seed=1)
        test = plant_features(world, 50, 10, mixed=mixed, seed=2)
        assert torch.equal(train.directions, test.directions) and train.directions.shape == (inputs, 10)
        assert not torch.equal(train.features, test.features)
        if mixed == "concepts":
            bias = train.features.double() - train.log_posteriors.flatten(1) @ train.directions
            assert float(bias.std(0).max()) < 1e-5
    noisy = plant_features(world, 50, 10, noise=0.5, seed=1)
    assert float((noisy.features - plant_features(world, 50, 10, seed=1).features).std()) > 0.1


def test_settings_out_of_range_are_told():
    for bad in ({"concepts": 13}, {"observed": 0}, {"flip": 0.5}, {"edges": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ConceptWorld.random(**bad)
    with pytest.raises(ValueError, match="mixed must be one of"):
        plant_features(ConceptWorld.random(), 10, 4, mixed="both")
    with pytest.raises(ValueError, match="noise must be"):
        plant_features(ConceptWorld.random(), 10, 4, noise=float("inf"))
    for bad in ({"count": "10"}, {"input_dim": 4.0}, {"seed": "0"}, {"noise": "no"}, {"world": 3}):
        with pytest.raises(TypeError, match=next(iter(bad))):
            plant_features(**({"world": ConceptWorld.random(), "count": 10, "input_dim": 4} | bad))
    for bad in ({"count": 1.5}, {"count": 3, "seed": None}):
        with pytest.raises(TypeError, match=r"seed|count"):
            ConceptWorld.random().sample(**bad)
    with pytest.raises(TypeError, match="world must be a ConceptWorld"):
        simulate(3)
    with pytest.raises(TypeError, match="config must be a SimulationConfig"):
        simulate(ConceptWorld.random(), config=TrainingConfig())
    with pytest.raises(ValueError, match="no device 'cpus'"):
        simulate(ConceptWorld.random(), device="cpus")
    with pytest.raises(ValueError, match="two observations"):
        simulate(ConceptWorld.random(2, 1))
    with pytest.raises(ValueError, match="hidden_share"):
        SimulationConfig(hidden_share=1.0)
    with pytest.raises(ValueError, match="must match"):
        linear_readability(torch.zeros(4, 2), torch.zeros(5, 1), torch.zeros(5, 1, 2))


def test_what_is_hidden_changes_no_feature():
    config = SimulationConfig(width=8, feature_dim=4)
    predictor = MaskedPredictor(6, config)
    visible = masks(5, 6, 0.5)
    seen = torch.randint(0, 2, (5, 6))
    other = torch.where(visible, seen, 1 - seen)
    assert torch.equal(predictor.features(seen, visible), predictor.features(other, visible))


def test_concepts_become_readable_from_a_predictor_of_observations(tmp_path):
    world = ConceptWorld.random(3, 15, edges=1, seed=0)
    config = SimulationConfig(contexts=4000, tested=1600, steps=250, width=64, feature_dim=16)
    state = torch.random.get_rng_state()
    MaskedPredictor(15, config)
    assert torch.equal(torch.random.get_rng_state(), state)
    found = simulate(world, tmp_path, config, device="cpu")
    assert 0 < found.epsilon < 0.5
    for accuracy, bayes, majority in zip(found.accuracy, found.bayes, found.majority, strict=True):
        assert majority < accuracy and accuracy <= bayes + 0.02 and accuracy > bayes - 0.05
    assert min(found.log_odds_share) > 0.8


def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path):
    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 25:
                raise KeyboardInterrupt

    world = ConceptWorld.random(2, 6, seed=0)
    config = SimulationConfig(contexts=300, steps=40, batch_size=32, width=8, feature_dim=4, save_every=10, log_every=5)
    data = Contexts(world.sample(300)[1], masks(300, 6, 0.25))

    def run(folder, callbacks=()):
        predictor = MaskedPredictor(6, config)
        rows = fit(predictor, data, config, folder, collate=Contexts.collate, device="cpu", callbacks=callbacks)
        return [row["loss"] for row in rows], predictor

    whole, first = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", [Kill()])
    resumed, second = run(tmp_path / "killed")
    assert resumed == whole
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
