"""Concept pairs, their states, probes and the alignment test."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

import szilard
from szilard.cli.main import main
from szilard.representation.concept_sae.alignment import concept_alignment
from szilard.representation.concept_sae.pairs import ConceptPairs
from szilard.representation.concept_sae.probe import ConceptProbe
from szilard.representation.concept_sae.states import concept_states
from szilard.representation.concept_sae.word_pairs import WORD_PAIRS

WORDS = {
    "even-odd": [(f"w{at}", f"w{at + 1}") for at in range(10, 34, 2)],
    "low-high": [(f"w{at}", f"w{at + 30} w7") for at in range(40, 52)],
}


def synthetic(count=50, noise=0.1, d=8, concepts=3, seed=0):
    """Pairs that differ in an axis of their own; everything else is shared, up to noise."""
    draws = torch.Generator().manual_seed(seed)
    found = {}
    for k in range(concepts):
        base = torch.randn(count, d, generator=draws, dtype=torch.float64)
        axis = torch.zeros(d, dtype=torch.float64)
        axis[k] = 1.0
        one = base + axis / 2 + noise * torch.randn(count, d, generator=draws, dtype=torch.float64)
        other = base - axis / 2 + noise * torch.randn(count, d, generator=draws, dtype=torch.float64)
        found[f"concept {k}"] = (one, other)
    return found


def meaningless(count=40, d=16, concepts=4, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return {
        str(k): tuple(torch.randn(2, count, d, generator=draws, dtype=torch.float64).unbind()) for k in range(concepts)
    }


def test_packaged_pairs_are_many_different_and_well_formed():
    pairs = ConceptPairs.packaged()
    assert len(pairs) >= 12 and not pairs.skipped
    for name, both in pairs.items():
        assert 28 <= len(both) <= 55, name
        assert len(set(both)) == len(both), name
        assert all(len(pair) == 2 and pair[0] != pair[1] for pair in both)
    assert all(upper == lower.capitalize() for lower, upper in WORD_PAIRS["lower-upper"])
    assert list(ConceptPairs.packaged(["male-female"])) == ["male-female"]
    with pytest.raises(ValueError, match=r"no packaged concept 'male-femal'.*male-female"):
        ConceptPairs.packaged(["male-femal"])


def test_pairs_are_read_from_files_and_small_concepts_are_skipped_with_a_message(tmp_path):
    (tmp_path / "[verb - Ving].txt").write_text("".join(f"go{at}\tgoing{at}\n" for at in range(9)) + "\n")
    (tmp_path / "pronoun.txt").write_text("I\tmy\nyou\tyour\nhe\this\nthey\ttheir\n")
    (tmp_path / "notes.md").write_text("not pairs")
    with pytest.warns(UserWarning, match=r"skipped.*pronoun \(4\)"):
        pairs = ConceptPairs.from_files(tmp_path)
    assert dict(pairs) == {"verb-Ving": tuple((f"go{at}", f"going{at}") for at in range(9))}
    assert pairs.skipped == {"pronoun": 4} and "verb-Ving: 9" in repr(pairs)
    with pytest.warns(UserWarning):
        assert list(ConceptPairs.from_files(str(tmp_path / "*.txt"))) == ["verb-Ving"]
    same = ConceptPairs({"x": [*((f"a{at}", f"b{at}") for at in range(8)), ("same", "same")]})
    assert len(same["x"]) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"one two\n", "line 1 of .* must be two words with a tab"),
        (b"\xff\xfe\x00", "no UTF-8"),
        (b"", "no concept has"),
    ],
)
def test_bad_files_of_pairs_are_told(tmp_path, text, message):
    (tmp_path / "x.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        ConceptPairs.from_files(tmp_path / "x.txt")
    with pytest.raises(ValueError, match="there is no file or folder"):
        ConceptPairs.from_files(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there are no \.txt"):
        ConceptPairs.from_files(tmp_path / "empty")


def test_concepts_are_added_to_others():
    first = ConceptPairs({"x": [(f"a{at}", f"b{at}") for at in range(8)]})
    both = first | {"y": [(f"c{at}", f"d{at}") for at in range(9)]}
    assert list(both) == ["x", "y"] and isinstance(both, ConceptPairs)
    with pytest.raises(TypeError, match="pairs of two strings"):
        ConceptPairs({"x": [None]})


def test_bad_pairs_are_told():
    with pytest.raises(TypeError, match="must be a mapping"):
        ConceptPairs([("a", "b")])
    with pytest.raises(TypeError, match="list of pairs of words, not str"):
        ConceptPairs({"x": "abc"})
    with pytest.raises(TypeError, match="pairs of two strings"):
        ConceptPairs({"x": [("a", "b", "c")]})
    with pytest.raises(ValueError, match="empty word"):
        ConceptPairs({"x": [("a", " ")]})
    with pytest.raises(ValueError, match="x with 1"):
        ConceptPairs({"x": [("a", "b")]})


def test_a_state_is_that_of_the_words_last_token_whatever_else_is_in_the_batch(engine):
    for layer in (-1, 0, 2):
        states = szilard.concept_states(engine, WORDS, layer, batch_size=7)
        for name, both in WORDS.items():
            for side in (0, 1):
                assert states[name][side].shape == (12, 32)
                ids = torch.tensor([engine.tokenizer(both[3][side])["input_ids"]])
                with torch.no_grad():
                    hidden = engine.model(input_ids=ids, output_hidden_states=True).hidden_states[layer]
                assert torch.allclose(states[name][side][3], hidden[0, -1].float(), atol=1e-6)


def test_states_that_cannot_be_had_are_told(engine):
    with pytest.raises(ValueError, match="layer must be between -4 and 3"):
        concept_states(engine, WORDS, 4)
    with pytest.raises(TypeError, match="engine of transformers"):
        concept_states(object(), WORDS)


def test_planted_directions_are_aligned_and_apart():
    found = concept_alignment(synthetic(), penalty=1e-4, folds=1, null_permutations=0)
    assert bool((found.diagonal > 0.999).all())
    assert float(found.off_diagonal.abs().max()) < 0.05 and found.mean_off_diagonal < 0.05
    assert found.matrix.shape == (3, 3) and found.directions.shape == (3, 8) and found.probe_weights.shape == (8, 3)
    assert (
        found.null_matrix is None and found.null_bound is None and found.penalties.tolist() == pytest.approx([1e-4] * 3)
    )
    a, w = found.directions, found.probe_weights
    projection = a.T @ torch.linalg.inv(a @ a.T) @ a
    assert found.projection_error == pytest.approx(float((a.T @ w.T - projection).norm()), abs=1e-6)


def test_swapping_the_words_of_a_concept_flips_its_row_and_column_but_not_its_diagonal():
    states = synthetic()
    swapped = states | {"concept 1": states["concept 1"][::-1]}
    for settings in ({"penalty": 1e-4, "folds": 1}, {"penalty": "cv", "folds": 2}):
        plain = concept_alignment(states, null_permutations=0, **settings).matrix
        other = concept_alignment(swapped, null_permutations=0, **settings).matrix
        signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
        assert torch.allclose(other, plain * signs[:, None] * signs, atol=1e-6)


def test_a_strong_penalty_turns_any_probe_into_the_difference_of_the_means():
    """The trap: the diagonal is 1 for states without any concept; cross-fitting shows it."""
    states = meaningless()
    one, other = states["0"]
    probe = ConceptProbe.fit(one, other, penalty=1e-9)
    assert float(F.cosine_similarity(probe.weight, (one - other).mean(0), dim=0)) > 1 - 1e-6
    trap = concept_alignment(states, penalty=1e-4, folds=1, null_permutations=4)
    assert bool((trap.diagonal > 0.999).all()) and bool((trap.null_matrix.diagonal() > 0.999).all())
    honest = concept_alignment(states, penalty=1e-4, folds=2, null_permutations=0)
    assert float(honest.diagonal.abs().mean()) < 0.5


def test_the_null_of_cross_fitting_has_no_diagonal():
    found = concept_alignment(synthetic(d=32), penalty=1e-2, null_permutations=40)
    assert abs(float(found.null_matrix.diagonal().mean())) < 0.05
    assert found.null_diagonals.shape == (40, 3)
    assert bool((found.diagonal > 0.9).all()) and bool((found.diagonal > found.null_bound).all())
    assert bool((found.probe_accuracy > 0.6).all())


def test_the_chosen_penalty_predicts_pairs_that_were_held_out():
    one, other = synthetic(count=60, noise=0.3)["concept 0"]
    chosen = ConceptProbe.fit(one, other)
    assert 0.5 < chosen.accuracy <= 1 and chosen.penalty > 0
    fresh = synthetic(count=60, noise=0.3, seed=9)["concept 0"]
    right = torch.cat([chosen.logit(fresh[0]) > 0, chosen.logit(fresh[1]) < 0])
    assert abs(float(right.double().mean()) - chosen.accuracy) < 0.15


def test_a_probe_is_the_minimum_of_its_objective_in_the_units_of_the_states():
    one, other = synthetic(count=12, d=40)["concept 0"]
    one, other = 30 * one + 5, 30 * other + 5  # far from the unit that is used inside
    probe = ConceptProbe.fit(one, other, penalty=1e-3)
    weight = probe.weight.clone().requires_grad_()
    intercept = torch.tensor(probe.intercept, dtype=torch.float64, requires_grad=True)
    margins = torch.cat([one @ weight + intercept, -(other @ weight + intercept)])
    (0.5 * weight.square().sum() + 1e-3 * F.softplus(-margins).sum()).backward()
    assert float(weight.grad.norm()) < 1e-5 and abs(float(intercept.grad)) < 1e-5


def test_posteriors_add_up_and_steering_raises_the_logit_by_its_strength():
    states = synthetic()
    probe = ConceptProbe.fit(*states["concept 0"])
    h = states["concept 2"][0].float()
    both = probe.log_posterior(h).exp() + probe.log_posterior(h, 0).exp()
    assert torch.allclose(both, torch.ones_like(both))
    moved = probe.steer(h, 3.0)
    assert moved.dtype == h.dtype
    assert torch.allclose(probe.logit(moved) - probe.logit(h), torch.full((50,), 3.0, dtype=torch.float64), atol=1e-4)
    elsewhere = ConceptProbe.fit(*states["concept 1"], penalty=1e-4)
    own = ConceptProbe.fit(*states["concept 0"], penalty=1e-4)
    assert float((elsewhere.logit(own.steer(h, 0.01)) - elsewhere.logit(h)).abs().max()) < 1e-3
    with pytest.raises(ValueError, match="width 8, not 3"):
        probe.logit(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="value must be 0 or 1"):
        probe.log_posterior(h, 2)


def test_a_probe_reads_arrays_and_lists_and_tells_what_it_cannot_read():
    probe = ConceptProbe.fit(*synthetic()["concept 0"])
    h = synthetic()["concept 2"][0][:3]
    for same in (h.numpy(), h.tolist()):
        assert torch.allclose(probe.logit(same), probe.logit(h))
        assert torch.allclose(probe.steer(same, 1.0).double(), probe.steer(h, 1.0), atol=1e-5)
    for read in (probe.logit, probe.log_posterior, lambda states: probe.steer(states, 1.0)):
        with pytest.raises(ValueError, match="width 8, not 4"):
            read(h[:, :4])
        with pytest.raises(ValueError, match="not a single number"):
            read(3.0)
        with pytest.raises(TypeError, match="states must be numbers"):
            read("king")
    with pytest.raises(TypeError, match=r"must be floats, not torch\.int64"):
        probe.steer(h.long(), 1.0)
    with pytest.raises(ValueError, match="strength must be"):
        probe.steer(h, math.inf)


def test_bad_states_and_settings_are_told():
    states = synthetic(count=6)
    one = states["concept 0"][0]
    for bad, message in (
        ({}, "no concepts"),
        ({"x": (one, one[:3])}, r"\[pairs, d\] twice"),
        ({"x": (one[:3], one[:3])}, "3 pairs"),
        ({"x": (one, one * math.nan)}, "not all finite"),
        ({"x": (one, one)}, "same mean state"),
        ({"x": (one[:, :0], one[:, :0])}, "width 0"),
        (states | {"x": (one[:, :4], one[:, 4:])}, "width 4, others of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            concept_alignment(bad)
    with pytest.raises(TypeError, match="must map names"):
        concept_alignment([one])
    with pytest.raises(TypeError, match="two arrays"):
        concept_alignment({"x": one})
    with pytest.raises(TypeError, match="two arrays of numbers, not NoneType"):
        concept_alignment({"x": (one, None)})
    with pytest.raises(ValueError, match="4 folds need 8 pairs; concept 'concept 0' has 6"):
        concept_alignment(states, folds=4)
    with pytest.raises(ValueError, match="penalty must be one of"):
        concept_alignment(states, penalty="best")
    with pytest.raises(ValueError, match="penalty"):
        ConceptProbe.fit(*states["concept 0"], penalty=0)


def test_one_concept_has_no_off_diagonal():
    found = concept_alignment(synthetic(concepts=1), null_permutations=1)
    assert found.off_diagonal.numel() == 0 and found.mean_off_diagonal == 0.0
    assert json.loads(json.dumps(found.as_dict()))["names"] == ["concept 0"]


def test_the_command_prints_and_draws_the_matrix(model_folder, tmp_path, capsys):
    for name, both in WORDS.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"{first}\t{second}\n" for first, second in both))
    (tmp_path / "few.txt").write_text("a\tb\n")
    given = ["analyze", "concepts", "--model", model_folder, "--pairs", str(tmp_path), "--null", "2", "--device", "cpu"]
    page = tmp_path / "page.html"
    assert main([*given, "--json", "--html", str(page)]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["names"] == ["even-odd", "low-high"] and len(found["matrix"]) == 2 and found["skipped"] == {"few": 1}
    assert "few (1)" in " ".join(told.err.split())
    assert page.read_text().count("<svg") == 2 and "even-odd" in page.read_text()
    assert main([*given, "--penalty", "1e-3"]) == 0
    assert "mean diagonal" in capsys.readouterr().out
    assert main([*given, "--penalty", "much"]) == 2
    assert main([*given, "--folds", "9"]) == 2
    assert main([*given[:5], str(tmp_path / "none")]) == 2
