"""Scenes, their questions, and the measures of hallucination."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from szilard_zoo import scenes
from szilard_zoo.scenes import Object, Sample, Scene


def _object(colour: str, shape: str, cell: int) -> Object:
    return Object(shape, colour, cell, x=0.0, y=0.0, radius=6.0, angle=0.0, rgb=scenes.COLOURS[colour])


def _scene(*objects: tuple[str, str, int]) -> Scene:
    return Scene(tuple(_object(*item) for item in objects), (255, 255, 255), 0)


TWO_RED_CIRCLES = _scene(("red", "circle", 0), ("blue", "square", 4), ("red", "circle", 8))


def _asked(answer: str, kind: str = "existence", subset: str = "random") -> Sample:
    return Sample(TWO_RED_CIRCLES, kind, "", "", answer, subset)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_data_set_is_the_same_for_the_same_seed_and_another_for_another(split: scenes.Split) -> None:
    first, again = (list(scenes.dataset(split, 40, seed=3)) for _ in range(2))
    assert first == again
    assert first != list(scenes.dataset(split, 40, seed=4))


def test_a_longer_data_set_begins_like_a_shorter_one() -> None:
    assert list(islice(scenes.dataset("heldout", 1000), 25)) == list(scenes.dataset("heldout", 25))


def test_no_scene_is_in_both_splits() -> None:
    keys = {
        split: {sample.scene.key for sample in scenes.dataset(split, 1500, seed=seed)}
        for split, seed in (("train", 0), ("heldout", 1))
    }
    assert not keys["train"] & keys["heldout"]


def test_the_split_depends_on_what_is_where_and_not_on_the_jitter() -> None:
    scene = scenes.random_scene(random.Random(0))
    moved = Scene(tuple(_object(*item.kind, item.cell) for item in scene.objects), (0, 0, 0), 7)
    assert (moved.key, moved.split) == (scene.key, scene.split)


def test_the_colour_prior_is_in_the_scenes_and_can_be_broken() -> None:
    def share_of_red_circles(prior: float) -> float:
        rng = random.Random(0)
        kinds = Counter(item.kind for _ in range(500) for item in scenes.random_scene(rng, prior=prior).objects)
        return kinds["red", "circle"] / sum(n for (_, shape), n in kinds.items() if shape == "circle")

    assert share_of_red_circles(scenes.PRIOR) > 0.5
    assert share_of_red_circles(0.0) < 0.25


def test_a_picture_shows_each_object_in_its_colour_and_nothing_else() -> None:
    for sample in scenes.dataset("heldout", 20):
        pixels = np.asarray(sample.image).astype(int)
        assert pixels.shape == (64, 64, 3)
        away = np.ones((64, 64), dtype=bool)
        rows, columns = np.mgrid[0:64, 0:64] + 0.5
        for item in sample.scene.objects:
            distance = np.hypot(rows - item.y, columns - item.x)
            assert np.abs(pixels[distance < 1.8].mean(0) - item.rgb).max() < 16
            away &= distance > 1.3 * item.radius + 1
        assert np.abs(pixels[away].mean(0) - sample.scene.background).max() < 12  # white is clipped


def test_objects_stay_inside_their_cells() -> None:
    pitch = scenes.IMAGE_SIZE / scenes.GRID
    for sample in scenes.dataset("train", 200):
        for item in sample.scene.objects:
            assert item.column * pitch <= item.x - item.radius and item.x + item.radius <= (item.column + 1) * pitch
            assert item.row * pitch <= item.y - item.radius and item.y + item.radius <= (item.row + 1) * pitch


@pytest.mark.parametrize(("split", "prior"), [("train", 0.5), ("heldout", 0.5), ("heldout", 0.0)])
def test_every_chain_mentions_only_what_is_there_and_is_counted_as_correct(split: scenes.Split, prior: float) -> None:
    kinds = Counter()
    for sample in scenes.dataset(split, 1500, seed=5, prior=prior):
        kinds[sample.kind] += 1
        mentioned = scenes.mentioned_objects(sample.text)
        assert set(mentioned) <= set(sample.scene.kinds), sample
        assert scenes.answer_of(sample.text) == sample.answer
        assert scenes.is_correct(sample, sample.text)
    assert set(kinds) == set(scenes.QUESTION_KINDS)


def test_answers_equal_the_ground_truth_computed_apart() -> None:
    checked: Counter[str] = Counter()
    for sample in scenes.dataset("heldout", 1500, seed=6):
        asked = sample.question.split()
        colours = [word for word in asked if word in scenes.COLOURS]
        shapes = [shape for shape in scenes.SHAPES if shape in asked or scenes.PLURALS[shape] in asked]
        matching = [
            item
            for item in sample.scene.objects
            if item.colour in (colours or [item.colour]) and item.shape in (shapes or [item.shape])
        ]
        if sample.kind == "existence":
            assert sample.answer == ("yes" if matching else "no")
        elif sample.kind == "count":
            assert sample.answer == scenes.NUMBERS[len(matching)]
        elif sample.kind == "colour":
            if " in the " in sample.question:
                matching = [item for item in matching if item.position in sample.question]
            assert [item.colour for item in matching] == [sample.answer]
        elif sample.kind == "position" and ("where" in asked or "place" in asked):
            assert [item.position for item in matching] == [sample.answer]
        else:
            continue
        checked[sample.kind] += 1
    assert min(checked[kind] for kind in ("existence", "count", "colour", "position")) > 100


def test_what_is_beside_an_object_is_the_nearest_in_its_row_or_column() -> None:
    scene = _scene(("red", "circle", 0), ("blue", "square", 2), ("green", "star", 6), ("yellow", "circle", 8))
    rng = random.Random(0)
    answers = {}
    for _ in range(400):
        sample = scenes.position_question(scene, rng)
        assert sample is not None
        answers[sample.question] = sample.answer
    assert answers["what is to the right of the red circle ?"] == "blue square"
    assert answers["what is to the left of the yellow circle ?"] == "green star"
    assert answers["what is above the green star ?"] == "red circle"
    assert answers["what is below the blue square ?"] == "yellow circle"
    assert answers["what is above the red circle ?"] == "nothing"


@pytest.mark.parametrize("subset", scenes.NEGATIVES)
def test_a_negative_is_absent_and_an_adversarial_one_is_tempting(subset: str) -> None:
    rng = random.Random(1)
    for _ in range(200):
        scene = scenes.scene_of(rng, "heldout")
        colour, shape = scenes.absent_kind(scene, subset, rng)
        assert (colour, shape) not in scene.kinds
        if subset == "adversarial":
            assert any(item.colour == colour or item.shape == shape for item in scene.objects)


def test_held_out_existence_questions_are_balanced_over_answers_and_subsets() -> None:
    samples = list(scenes.dataset("heldout", 60, kinds=("existence",)))
    assert Counter((sample.subset, sample.answer) for sample in samples) == {
        (subset, answer): 10 for subset in scenes.NEGATIVES for answer in ("yes", "no")
    }


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="'train' or 'heldout'"):
        next(scenes.dataset("test", 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\['smell'\].*existence"):
        next(scenes.dataset("heldout", 1, kinds=("smell",)))
    with pytest.raises(ValueError, match="random, popular, adversarial"):
        scenes.absent_kind(TWO_RED_CIRCLES, "rare", random.Random(0))


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("i see a red circle in the top left .", [("red", "circle")]),
        ("there are two red circles and an orange star", [("red", "circle"), ("orange", "star")]),
        ("There is a Red circle.", [("red", "circle")]),
        ("there is no red circle , so no", []),
        ("it is not a red circle but a blue circle", [("blue", "circle")]),
        ("the circle in the top left is red", [("red", "circle")]),
        ("the circle is red and the square is blue", [("red", "circle"), ("blue", "square")]),
        ("the blue square is in the top left", [("blue", "square")]),
        ("one circle , something red", []),
        ("", []),
    ],
)
def test_mentioned_objects(text: str, mentioned: list[scenes.Kind]) -> None:
    assert scenes.mentioned_objects(text) == mentioned


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think> so two </think> two", "two"),
        ("<think> so two </think> Two . <eos>", "two"),
        ("<think> wait </think> no </think> top  left<eos><pad>", "top left"),
        ("<think> so two", ""),
        ("two", "two"),
    ],
)
def test_answer_of(text: str, answer: str) -> None:
    assert scenes.answer_of(text) == answer


def test_a_caption_is_correct_when_it_names_exactly_the_kinds_of_the_scene() -> None:
    caption = _asked("", kind="caption")
    assert scenes.is_correct(caption, "<think> x </think> there is a blue square and a red circle")
    assert not scenes.is_correct(caption, "<think> x </think> there is a red circle")
    assert not scenes.is_correct(caption, "there is a red circle , a blue square and a red star")
    assert not scenes.is_correct(caption, "<think> a red circle and a blue square")


def test_chair_counts_false_mentions_and_the_texts_they_are_in() -> None:
    texts = [
        "<think> i see a red circle and a green star </think> yes",
        "<think> there is no green star </think> no",
        "<think> the square is blue , wait , a red square and a red star </think> two",
    ]
    found = scenes.chair([_asked("yes")] * 3, texts)
    assert found == scenes.Hallucination(mentions=5, false_mentions=3, texts=3, false_texts=2)
    assert (found.per_mention, found.per_text) == (3 / 5, 2 / 3)
    with pytest.raises(ValueError):
        scenes.chair([_asked("yes")], [])


def test_pope_counts_by_subset_and_overall() -> None:
    samples = [_asked("yes"), _asked("no"), _asked("no", subset="adversarial"), _asked("yes", subset="adversarial")]
    samples.append(_asked("two", kind="count"))
    polls = scenes.pope(samples, ["yes", "<think> a </think> no", "yes", "<think> unfinished", "two"])
    assert polls["random"] == scenes.Polling(true_yes=1, false_yes=0, true_no=1, false_no=0, said_yes=1)
    assert polls["adversarial"] == scenes.Polling(true_yes=0, false_yes=1, true_no=0, false_no=1, said_yes=1)
    assert "popular" not in polls
    assert (polls["all"].accuracy, polls["all"].precision, polls["all"].recall, polls["all"].f1) == (0.5, 0.5, 0.5, 0.5)
    assert polls["all"].yes_rate == 0.5
