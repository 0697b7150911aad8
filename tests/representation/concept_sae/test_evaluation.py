"""Grading autoencoders by posteriors, with floor and ceiling."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from szilard.cli.main import main
from szilard.representation.concept_sae.evaluation import evaluate_sae, grade_features
from szilard.representation.concept_sae.feature_scores import auroc, posterior_correlations, random_codes
from szilard.representation.concept_sae.planted import ConceptWorld, plant_features
from szilard.representation.concept_sae.probe import ConceptProbe
from tests.representation.concept_sae.test_alignment import synthetic


class Made:
    """An autoencoder whose codes are a function of the states."""

    def __init__(self, encode, size):
        self.encode, self.dictionary_size = encode, size


def test_a_feature_that_is_the_log_posterior_has_correlation_one():
    states = synthetic()
    probes = {name: ConceptProbe.fit(*both) for name, both in states.items()}
    names = list(states)
    sae = Made(lambda x: torch.stack([probes[name].log_posterior(x) for name in names], 1), 3)
    for metric in ("exp_pearson", "log_pearson"):
        for selection in ("split", "all"):
            report = evaluate_sae(sae, states, probes, metric=metric, selection=selection)
            for at, score in enumerate(report.concepts):
                assert set(score.features) == {at} and score.correlation == pytest.approx(1, abs=1e-9)
                assert score.auroc == pytest.approx(score.probe_auroc)
            assert report.mean == pytest.approx(1) and report.error is None
            assert report.floor < report.mean


def test_constant_features_score_nought():
    states = synthetic()
    report = evaluate_sae(Made(lambda x: torch.full((len(x), 4), 0.3), 4), states)
    assert report.mean == 0.0 and report.auroc == 0.5
    zeros = posterior_correlations(torch.full((10, 3), 0.1), torch.linspace(-3, -1, 10))
    assert zeros.tolist() == [0, 0, 0]
    assert posterior_correlations(torch.randn(10, 3), torch.full((10,), -0.1)).tolist() == [0, 0, 0]


def test_exponents_of_any_size_give_the_correlation_of_small_ones():
    z, target = torch.rand(30, 5, dtype=torch.float64), -torch.rand(30)
    plain = posterior_correlations(z, target)
    assert torch.allclose(posterior_correlations(z + 5000, target), plain, atol=1e-8)
    expected = torch.corrcoef(torch.stack([z[:, 2].exp(), target.double().exp()]))[0, 1]
    assert torch.allclose(plain[2], expected)
    assert bool(posterior_correlations(1e6 * z, target).isfinite().all())
    scaled = posterior_correlations(7 * z, target, scaling="max")
    assert torch.allclose(scaled, posterior_correlations(z / z.amax(0), target))


def test_a_feature_of_the_other_value_counts_only_where_it_may():
    states = synthetic()
    probes = {name: ConceptProbe.fit(*both) for name, both in states.items()}
    sae = Made(lambda x: torch.stack([probe.log_posterior(x, 0) for probe in probes.values()], 1), 3)
    assert evaluate_sae(sae, states, probes).mean < 0.5
    report = evaluate_sae(sae, states, probes, either_side=True)
    assert report.mean == pytest.approx(1) and report.auroc == pytest.approx(report.ceiling)


def test_noise_scores_high_where_it_was_chosen_and_low_elsewhere():
    states = synthetic(count=24)

    def noise(x):
        draws = torch.Generator().manual_seed(3)
        return torch.randn(len(x), 4000, generator=draws)

    within = evaluate_sae(Made(noise, 4000), states, selection="all")
    across = evaluate_sae(Made(noise, 4000), states, selection="split")
    assert within.mean > 0.4 and abs(across.mean) < 0.25


def test_auroc_counts_ties_one_half():
    labels = torch.tensor([True, True, False, False])
    assert auroc(torch.tensor([3.0, 2.0, 1.0, 0.0]), labels) == 1.0
    assert auroc(torch.tensor([0.0, 1.0, 2.0, 3.0]), labels) == 0.0
    assert auroc(torch.zeros(4), labels) == 0.5
    scores, labels = torch.randint(0, 9, (50,)), torch.arange(50) % 3 == 0
    gaps = scores[labels][:, None] - scores[~labels]
    assert auroc(scores, labels) == pytest.approx(float(((gaps > 0) + 0.5 * (gaps == 0)).double().mean()))


def test_a_random_dictionary_has_the_active_features_it_is_given():
    x = torch.randn(20, 8, dtype=torch.float64)
    codes = random_codes(x, 64, 5, torch.Generator().manual_seed(0))
    assert codes.shape == (20, 64) and bool(((codes != 0).sum(1) == 5).all())
    assert bool((random_codes(x, 64, 64, torch.Generator().manual_seed(0)) >= 0).all())


def test_reconstruction_is_told_where_there_is_a_decoder():
    states = synthetic()
    sae = Made(lambda x: x, 8)
    sae.decode = lambda z: z
    report = evaluate_sae(sae, states)
    assert report.error == pytest.approx(0, abs=1e-10) and report.unexplained == pytest.approx(0, abs=1e-10)
    assert report.active == 8 and json.loads(json.dumps(report.as_dict()))["mean"] == report.mean


def test_planted_posteriors_grade_what_carries_them():
    world = ConceptWorld.random(4, 10, edges=2, seed=1)
    planted = plant_features(world, 600, 24, seed=2)
    inverse = torch.linalg.pinv(planted.directions)
    bias = planted.features[0].double() - planted.log_posteriors.flatten(1)[0] @ planted.directions
    truth = Made(lambda x: (x.double() - bias) @ inverse, 8)
    found = grade_features(truth, planted.features, planted.log_posteriors, planted.concepts)
    assert found.mean > 0.999 and found.floor < found.mean
    for k, score in enumerate(found.concepts):
        assert set(score.features) == {2 * k + 1}
    with pytest.raises(ValueError, match="same N >= 8"):
        grade_features(truth, planted.features[:9], planted.log_posteriors, planted.concepts)
    with pytest.raises(ValueError, match="one value only"):
        grade_features(truth, planted.features, planted.log_posteriors, torch.ones_like(planted.concepts))


def test_what_cannot_be_graded_is_told():
    states = synthetic()
    sae = Made(lambda x: x, 8)
    with pytest.raises(TypeError, match="needs encode"):
        evaluate_sae(object(), states)
    with pytest.raises(ValueError, match=r"encode must give \[100, 9\]"):
        evaluate_sae(Made(lambda x: x, 9), states)
    with pytest.raises(ValueError, match="codes are not finite"):
        evaluate_sae(Made(lambda x: x / 0, 8), states)
    with pytest.raises(ValueError, match="metric must be one of"):
        evaluate_sae(sae, states, metric="cosine")
    with pytest.raises(ValueError, match="no probe for concept 'concept 0'"):
        evaluate_sae(sae, states, {})
    with pytest.raises(TypeError, match="probe of concept 'concept 0' must be a ConceptProbe, not int"):
        evaluate_sae(sae, states, dict.fromkeys(states, 3))
    with pytest.raises(TypeError, match="probes must map names"):
        evaluate_sae(sae, states, [3])
    with pytest.raises(ValueError, match="parts"):
        evaluate_sae(sae, states, code="sparse")
    with pytest.raises(ValueError, match="same N samples"):
        posterior_correlations(torch.zeros(3, 2), torch.zeros(4))


def test_planted_concepts_are_read_from_arrays_and_odd_ones_told():
    planted = plant_features(ConceptWorld.random(2, 6, seed=1), 80, 8, seed=2)
    sae, given = Made(lambda x: x, 8), (planted.features, planted.log_posteriors, planted.concepts)
    plain = grade_features(sae, *given, names=["a", "b"])
    assert grade_features(sae, *(one.numpy() for one in given), names=("a", "b")) == plain
    assert [score.name for score in plain.concepts] == ["a", "b"]
    with pytest.raises(ValueError, match=r"concepts must be \[N, n\]"):
        grade_features(sae, given[0], given[1], given[2][:, 0])
    with pytest.raises(ValueError, match="concepts must be 0 or 1"):
        grade_features(sae, given[0], given[1], 2 * given[2])
    with pytest.raises(ValueError, match="names must be 2"):
        grade_features(sae, *given, names=("a",))
    with pytest.raises(TypeError, match="features must be a tensor"):
        grade_features(sae, None, given[1], given[2])


def test_the_command_refuses_a_folder_without_an_autoencoder(tmp_path, model_folder):
    assert main(["analyze", "sae", "--sae", str(tmp_path / "none"), "--model", model_folder]) == 2


@pytest.mark.skipif(
    importlib.util.find_spec("szilard.representation.concept_sae.kinds") is None, reason="no autoencoders here"
)
def test_the_command_grades_an_autoencoder(tmp_path, model_folder, capsys):
    from szilard.representation.concept_sae.kinds import make_sae

    (tmp_path / "x.txt").write_text("".join(f"w{at}\tw{at + 1}\n" for at in range(10, 34, 2)))
    make_sae("top-k", 32, 64, k=8).save_pretrained(tmp_path / "sae")
    given = ["analyze", "sae", "--sae", str(tmp_path / "sae"), "--model", model_folder, "--pairs", str(tmp_path)]
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["concepts"][0]["name"] == "x"
    assert main(given) == 0
    config = tmp_path / "sae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"activations": {"model": "x", "layer": 1}}))
    capsys.readouterr()
    assert main(given) == 2 and "trained on layer 1, not -1" in " ".join(capsys.readouterr().err.split())
    assert main([*given, "--layer", "1"]) == 0
    make_sae("top-k", 16, 64, k=8).save_pretrained(tmp_path / "narrow")
    given[3] = str(tmp_path / "narrow")
    assert main(given) == 2
