"""Classification, retrieval and question answering on held-out scenes, for VL-JEPA and for its twin alike.

Whatever scores candidates can be measured: `score(pixels, queries, candidates) -> [B, C]`, cosines or log likelihoods.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Protocol

import torch
from torch import Tensor

from szilard.representation.vl_jepa.scenes import (
    KINDS,
    NAMES,
    PLACES,
    SHADES,
    Scenes,
    SceneTexts,
    Thing,
    candidates,
)

PLAIN = SceneTexts(wordings=1)


class Scorer(Protocol):
    """VL-JEPA or its twin."""

    def score(self, pixels: Tensor, queries: Sequence[str], candidates: Sequence[str]) -> Tensor:
        """[B, C]."""
        ...


def classification_accuracy(model: Scorer, scenes: Scenes) -> float:
    """Top-1 over all captions "a <colour> <shape> in the <place>", of scenes of one object.

    Raises:
        ValueError: a scene of several.
    """
    if any(len(scene) > 1 for scene in scenes.scenes):
        raise ValueError("classes are of single objects: draw the scenes with objects=(1, 1).")
    names = list(product(range(len(NAMES)), range(len(SHADES)), range(len(PLACES))))
    labels = [PLAIN.thing(Thing(shape, colour, 0, place), 0, sized=False) for shape, colour, place in names]
    wanted = torch.tensor([names.index((one.shape, one.colour, one.place)) for (one,) in scenes.scenes])
    scores = model.score(scenes.pixels, [""] * len(scenes), labels)
    return float((scores.argmax(1).cpu() == wanted).double().mean())


def retrieval_recall(model: Scorer, scenes: Scenes, *, gallery: int = 64) -> float:
    """R@1 of finding a scene by its full caption among `gallery` scenes, averaged over galleries."""
    hits = []
    for start in range(0, len(scenes) - gallery + 1, gallery):
        own = slice(start, start + gallery)
        captions = [PLAIN.plain(scene) for scene in scenes.scenes[own]]
        scores = model.score(scenes.pixels[own], [""] * gallery, captions)  # [pictures, captions]
        hits.append((scores.argmax(0).cpu() == torch.arange(gallery)).double().mean())
    if not hits:
        raise ValueError(f"a gallery of {gallery} needs as many scenes; there are {len(scenes)}.")
    return float(torch.stack(hits).mean())


def vqa_accuracy(model: Scorer, scenes: Scenes, *, question_wordings: int = 5, seed: int = 0) -> dict[str, float]:
    """Share of questions whose right answer is the best of all answers of its kind; by kind, and "vqa", their mean."""
    texts, found = SceneTexts(1, question_wordings), {}
    for kind in KINDS:
        chance = random.Random(f"questions {seed} {kind}")
        asked = [texts.question(scene, kind, chance) for scene in scenes.scenes]
        answers = candidates(kind)
        wanted = torch.tensor([answers.index(plain) for _, _, plain in asked])
        scores = model.score(scenes.pixels, [question for question, _, _ in asked], answers)
        found[kind] = float((scores.argmax(1).cpu() == wanted).double().mean())
    return found | {"vqa": sum(found.values()) / len(found)}


def text_triplets(scenes: Scenes, *, seed: int = 0) -> tuple[list[str], list[str], list[str]]:
    """Captions of each scene in two wordings, and a hard negative: the first with one colour changed.

    Returns:
        p1, p2, n for `triplet_accuracy`: p1 and p2 mean the same in other words, p1 and n differ in one word.
    """
    texts = SceneTexts()
    first: list[str] = []
    second: list[str] = []
    negative: list[str] = []
    for number, scene in enumerate(scenes.scenes):
        chance = random.Random(f"triplets {seed} {number}")
        one, other = chance.sample(range(texts.wordings), 2)
        place = chance.randrange(len(scene))
        unused = [shade for shade in range(len(SHADES)) if shade not in {thing.colour for thing in scene}]
        changed = scene[place]._replace(colour=chance.choice(unused))
        wrong = (*scene[:place], changed, *scene[place + 1 :])
        for found, things, wording in ((first, scene, one), (second, scene, other), (negative, wrong, one)):
            found.append(" and ".join(texts.thing(thing, wording) for thing in things))
    return first, second, negative
