"""Generated scenes and clips: their texts say what their pictures show."""

from __future__ import annotations

import random

import pytest
import torch

from szilard.representation.sprites import COLOURS
from szilard.representation.vl_jepa.clips import MOVES, ClipExamples, Clips, clip_caption
from szilard.representation.vl_jepa.evaluation import (
    classification_accuracy,
    retrieval_recall,
    text_triplets,
    vqa_accuracy,
)
from szilard.representation.vl_jepa.scenes import (
    KINDS,
    NAMES,
    NUMBERS,
    PLACES,
    SHADES,
    Scene,
    SceneExamples,
    Scenes,
    SceneTexts,
    candidates,
    scene_words,
    word_tokenizer,
)


def test_scenes_are_all_different_and_of_different_things() -> None:
    found = Scenes(300, seed=3, size=16)
    assert len(set(found.scenes)) == len(found) == 300 and found.pixels.shape == (300, 3, 16, 16)
    assert {len(scene) for scene in found.scenes} == {1, 2, 3}
    for scene in found.scenes:
        for column in ("shape", "colour", "place"):
            assert len({getattr(thing, column) for thing in scene}) == len(scene)
    again = Scenes(300, seed=3, size=16)
    assert again.scenes == found.scenes and torch.equal(again.pixels, found.pixels)
    assert not set(Scenes(300, seed=4, size=16, avoid=found.scenes).scenes) & set(found.scenes)


def test_each_thing_is_in_its_quarter_in_its_colour() -> None:
    found = Scenes(60, seed=0, size=32)
    shades = torch.tensor(list(COLOURS.values()))
    for scene, picture in zip(found.scenes, found.pixels, strict=True):
        quarters = picture.float().div(255).unflatten(1, (2, 16)).unflatten(3, (2, 16))  # [3, row, 16, column, 16]
        there = {thing.place: thing for thing in scene}
        for place in range(4):
            pixels = quarters[:, place // 2, :, place % 2].flatten(1).T
            lit = pixels[pixels.sum(1) > 0.6 * pixels.sum(1).max().clamp(min=1e-6)]
            if place not in there:
                assert float(pixels.sum()) < 15  # but for what reaches over the middle
            else:
                assert int(torch.cdist(lit.median(0).values[None], shades).argmin()) == there[place].colour


def test_large_things_are_larger() -> None:
    found = Scenes(200, seed=1, objects=(1, 1))
    lit = (found.pixels.sum(1) > 60).flatten(1).sum(1).float()
    size = torch.tensor([scene[0].size for scene in found.scenes])
    shape = torch.tensor([scene[0].shape for scene in found.scenes])
    for one in range(len(NAMES)):
        small, large = (lit[(shape == one) & (size == value)] for value in (0, 1))
        assert float(small.max()) < float(large.min())


@pytest.mark.parametrize("wording", range(5))
def test_captions_name_everything_in_every_wording(wording: int) -> None:
    texts = SceneTexts()
    for scene in Scenes(40, seed=2, size=16).scenes:
        for thing in scene:
            said = texts.thing(thing, wording).split()
            assert NAMES[thing.shape] in said and SHADES[thing.colour] in said and "{" not in " ".join(said)
            short = texts.thing(thing, wording, sized=False)
            assert len(short.split()) < len(said) and "  " not in short and " which is" not in short
    different = {texts.thing(scene[0], wording) for wording in range(5)}
    assert len(different) == 5


def test_one_wording_says_the_same_in_the_same_words() -> None:
    scenes, texts = Scenes(50, seed=0, size=16), SceneTexts(wordings=1)
    said = {scene: {texts.caption(scene, random.Random(seed)) for seed in range(8)} for scene in scenes.scenes}
    assert all(len(own) <= 2 for own in said.values())  # with sizes, and without
    many = {SceneTexts().caption(scenes.scenes[0], random.Random(seed)) for seed in range(30)}
    assert len(many) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_right_and_among_the_candidates(kind: str) -> None:
    texts, plain_texts = SceneTexts(), SceneTexts(1, 1)
    for number, scene in enumerate(Scenes(60, seed=5, size=16).scenes):
        question, answer, plain = texts.question(scene, kind, random.Random(number))
        asked = [thing for thing in scene if NAMES[thing.shape] in question.split()]
        assert plain in candidates(kind)
        if kind == "count":
            assert plain == NUMBERS[len(scene) - 1] and plain in answer
        else:
            (thing,) = asked
            known = {
                "colour": SHADES[thing.colour],
                "place": PLACES[thing.place],
                "size": ("small", "large")[thing.size],
            }
            assert plain == known[kind]
        assert plain_texts.question(scene, kind, random.Random(number))[1] == plain


def test_examples_repeat_exactly_and_mix_captions_into_questions() -> None:
    scenes = Scenes(20, seed=0, size=16)
    data = SceneExamples(scenes, SceneTexts(), 400, stage="questions", seed=1, captions=0.25)
    queries = [data[index].query for index in range(400)]
    assert 60 < sum(not query for query in queries) < 140 and data[7][1:] == data[7][1:]
    other = SceneExamples(scenes, SceneTexts(), 400, stage="questions", seed=2, captions=0.25)
    assert [other[index].query for index in range(400)] != queries
    assert not any(SceneExamples(scenes, SceneTexts(), 40)[index].query for index in range(40))


def test_every_word_is_a_token() -> None:
    words = word_tokenizer(scene_words())
    texts = SceneTexts()
    said: list[str] = []
    for number, scene in enumerate(Scenes(100, seed=0, size=16).scenes):
        chance = random.Random(number)
        said += [texts.caption(scene, chance), *texts.question(scene, KINDS[number % 4], chance)[:2]]
    said += [clip_caption((0, 0, move), wording) for move in range(len(MOVES)) for wording in range(5)]
    ids = words(said)["input_ids"]
    assert words.unk_token_id not in {token for row in ids for token in row}
    assert [words.decode(row) for row in ids] == said
    assert words("RED")["input_ids"] == words("red")["input_ids"] and words("xyz")["input_ids"] == [words.unk_token_id]
    with pytest.raises(ValueError, match="needs words"):
        word_tokenizer([])


def test_a_clip_changes_where_it_says_and_only_there() -> None:
    clip = Clips(3, windows=40, frames=3, seed=2, size=16)[1]
    assert clip.windows.shape == (40, 3, 3, 16, 16) and clip.changes[0] == 0
    changed = [place for place in range(1, 40) if clip.states[place] != clip.states[place - 1]]
    assert changed == clip.changes[1:] and len(clip.annotations) == len(clip.changes)
    for start, (time, text) in zip(clip.changes, clip.annotations, strict=True):
        assert clip.states[int(time)] == clip.states[start] and text == clip_caption(clip.states[start], 0)
    assert torch.equal(Clips(3, windows=40, frames=3, seed=2, size=16)[1].windows, clip.windows)
    with pytest.raises(IndexError):
        Clips(3, windows=4)[3]


def test_a_shape_moves_as_its_caption_says() -> None:
    clip = Clips(1, windows=60, frames=4, seed=0, size=32, mean_stretch=4.0)[0]
    light = clip.windows.float().sum(2)  # [T, frames, H, W]
    ahead = {"right": (3, 1), "left": (3, -1), "down": (2, 1), "up": (2, -1)}
    for window, (_, _, move) in zip(light, clip.states, strict=True):
        if MOVES[move] == "not":
            assert torch.equal(window[0], window[-1])
            continue
        axis, sign = ahead[MOVES[move]]
        best = max(range(-8, 9), key=lambda shift: float((window[0].roll(shift, axis - 2) * window[-1]).sum()))
        assert best * sign > 0


def test_windows_for_training_come_with_a_caption_of_what_they_show() -> None:
    data = ClipExamples(7, 30, frames=2, size=16, seed=0)
    assert len(data) == 30 and len(data.windows) == 7
    for index in range(30):
        example = data[index]
        assert example.answer in {clip_caption(data.states[index % 7], wording) for wording in range(5)}


class Knowing:
    """Scores a candidate by what it was told about the pictures."""

    def __init__(self, right: dict[bytes, Scene], wrong: bool = False) -> None:
        self.right, self.wrong = right, wrong

    def score(self, pixels: torch.Tensor, queries: list[str], candidates: list[str]) -> torch.Tensor:
        rows = []
        for picture, query in zip(pixels, queries, strict=True):
            scene = self.right[picture.numpy().tobytes()]
            asked = [thing for thing in scene if NAMES[thing.shape] in query.split()] or list(scene)
            plain = SceneTexts(1)
            known = {
                plain.plain(scene),
                plain.plain(scene, sized=False),
                NUMBERS[len(scene) - 1],
                SHADES[asked[0].colour],
                PLACES[asked[0].place],
                ("small", "large")[asked[0].size],
            }
            rows.append([float((text in known) != self.wrong) for text in candidates])
        return torch.tensor(rows)


def test_who_knows_everything_scores_one_and_who_errs_scores_nothing() -> None:
    scenes, single = Scenes(32, seed=0, size=16), Scenes(16, seed=1, size=16, objects=(1, 1))
    right = {
        picture.numpy().tobytes(): scene
        for own in (scenes, single)
        for picture, scene in zip(own.pixels, own.scenes, strict=True)
    }
    for wrong in (False, True):
        model = Knowing(right, wrong)
        found = vqa_accuracy(model, scenes) | {
            "classification": classification_accuracy(model, single),
            "retrieval": retrieval_recall(model, scenes, gallery=16),
        }
        assert set(found.values()) == {float(not wrong)}
    with pytest.raises(ValueError, match="classes are of single objects"):
        classification_accuracy(model, scenes)
    with pytest.raises(ValueError, match="gallery of 64"):
        retrieval_recall(model, scenes)


def test_triplets_are_two_wordings_and_one_changed_colour() -> None:
    first, second, negative = text_triplets(Scenes(30, seed=0, size=16))
    for one, other, wrong in zip(first, second, negative, strict=True):
        assert one != other
        (changed,) = [(a, b) for a, b in zip(one.split(), wrong.split(), strict=True) if a != b]
        assert set(changed) <= set(SHADES) and {word for word in other.split() if word in SHADES} == {
            word for word in one.split() if word in SHADES
        }


def test_bad_numbers_are_said() -> None:
    with pytest.raises(ValueError, match="one to three objects"):
        Scenes(3, objects=(2, 4))
    with pytest.raises(ValueError, match="were not found: ask for fewer"):
        Scenes(300, objects=(1, 1), size=8)
    with pytest.raises(ValueError, match="wordings"):
        SceneTexts(6)
    with pytest.raises(ValueError, match="stage"):
        SceneExamples(Scenes(3, size=8), SceneTexts(), 4, stage="answers")
    with pytest.raises(ValueError, match="mean_stretch"):
        Clips(1, mean_stretch=1.0)
    with pytest.raises(ValueError, match="kind"):
        candidates("taste")
