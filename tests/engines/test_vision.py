"""Image-text models through every door, on the zoo's tiny-vlm."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import szilard

pytestmark = pytest.mark.skipif(importlib.util.find_spec("szilard_zoo") is None, reason="the zoo is not installed")


@pytest.fixture(scope="module")
def vlm():
    return szilard.load("zoo/tiny-vlm")


@pytest.fixture(scope="module")
def samples():
    from szilard_zoo import scenes

    return list(scenes.dataset("heldout", 8, seed=3, kinds=("existence", "count", "colour", "position")))


@pytest.fixture(scope="module")
def pictures(samples):
    from szilard_zoo import scenes

    return [scenes.render(sample.scene) for sample in samples]


def test_a_batch_of_questions_is_answered_as_each_alone(vlm, samples, pictures):
    questions = [sample.question for sample in samples]
    together = vlm.generate(questions, images=[[p] for p in pictures], max_new_tokens=96)
    alone = [vlm.generate(q, images=p, max_new_tokens=96) for q, p in zip(questions, pictures, strict=True)]
    assert [r.text for r in together] == [r.text for r in alone]
    assert all(r.finish_reason == "stop" for r in together)


def test_most_held_out_questions_are_answered_rightly(vlm, samples, pictures):
    from szilard_zoo import scenes

    results = vlm.generate([s.question for s in samples], images=[[p] for p in pictures], max_new_tokens=96)
    assert sum(scenes.is_correct(s, r.text) for s, r in zip(samples, results, strict=True)) >= 5


def test_the_picture_matters(vlm, samples, pictures):
    asked = [vlm.generate(samples[1].question, images=p, max_new_tokens=96).text for p in pictures]
    assert len(set(asked)) > 1


@pytest.mark.parametrize("do_sample", [False, True])
def test_neutral_lead_is_plain_decoding_about_a_picture(vlm, samples, pictures, do_sample):
    inputs = vlm.encode([s.question for s in samples[:3]], images=[[p] for p in pictures[:3]])
    settings = {"max_new_tokens": 40, "do_sample": do_sample}
    torch.manual_seed(1)
    theirs = vlm.model.generate(**inputs, **settings)
    torch.manual_seed(1)
    ours = vlm.model.generate(**inputs, **settings, custom_generate=szilard.Lead.neutral())
    assert torch.equal(theirs, ours)


def test_the_automatic_anchor_is_the_mean_of_the_visual_special_tokens(vlm, samples, pictures):
    captured = []

    class Look(szilard.Greedy):
        def decode(self, state):
            from szilard.decoding.latent import anchor_vector

            captured.append((anchor_vector(state, "auto"), state.visual_tokens()))
            super().decode(state)

    vlm.generate(samples[0].question, Look(), images=pictures[0], max_new_tokens=2)
    vector, ids = captured[0]
    known = vlm.tokenizer.get_vocab()
    assert sorted(ids) == sorted(known[t] for t in ("<vision_start>", "<image>", "<vision_end>"))
    assert torch.allclose(vector, vlm.model.get_input_embeddings().weight[ids].mean(0), atol=1e-6)


def test_both_doors_anchor_alike(vlm, samples, pictures):
    method, inputs = (
        szilard.Lead(window=2, max_switches=None),
        vlm.encode([samples[0].question], images=[[pictures[0]]]),
    )
    inside = vlm.model.generate(**inputs, custom_generate=method, max_new_tokens=40, do_sample=False)
    ours = vlm.generate(samples[0].question, method, images=pictures[0], max_new_tokens=40)
    assert inside[0, inputs["input_ids"].shape[1] :].tolist() == ours.tokens


def test_lead_anchors_every_return_to_latent_thinking(vlm, samples, pictures):
    method = szilard.Lead(window=2, max_switches=None)
    for result in vlm.generate(
        [s.question for s in samples], method, images=[[p] for p in pictures], max_new_tokens=96
    ):
        trace = result.trace
        returns = trace["switched"].astype(bool) & (trace["mode"] == "latent")
        assert (trace["anchored"].astype(bool) == returns).all()
        after = trace["text"].tolist()
        if " </think>" in after or "</think>" in after:
            end = next(i for i, text in enumerate(after) if "</think>" in text)
            assert (trace["mode"][end:] == "discrete").all()


def test_without_a_picture_the_model_still_runs(vlm):
    assert vlm.generate("is there a red circle ?", max_new_tokens=40).tokens


def test_the_command_line_answers_about_a_picture_file(vlm, samples, pictures, tmp_path, capsys):
    from szilard.cli.main import main

    path = tmp_path / "scene.png"
    pictures[0].save(path)
    assert main(["generate", samples[0].question, "--image", str(path), "--model", "zoo/tiny-vlm", "-q"]) == 0
    expected = vlm.generate(samples[0].question, images=pictures[0], max_new_tokens=256).text
    assert capsys.readouterr().out.split() == expected.split()


def test_what_is_no_picture_is_refused(vlm, tmp_path):
    text = tmp_path / "x.png"
    text.write_text("not a picture")
    for bad, words in (
        (str(text), "not an image"),
        (str(tmp_path / "no.png"), "no image file"),
        (3.5, "an image is a"),
    ):
        with pytest.raises(ValueError, match=words):
            vlm.generate("is there a red circle ?", images=bad)
    with pytest.raises(ValueError, match="token ids"):
        vlm.generate(torch.tensor([5, 6]), images=str(text))
