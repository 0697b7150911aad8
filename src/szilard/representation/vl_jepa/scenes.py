"""Pictures of one to three shapes with captions, questions and answers in several wordings, all drawn on the spot.

Every scene is known: shapes, colours, sizes, and which quarter of the picture each is in. Shapes and colours of a
scene are different, so that "the heart" and "the red one" name one object.

    Scenes(2000, seed=0)                      scenes with their pictures
    SceneTexts(wordings=5).caption(...)       a caption; `.question(...)` a question and an answer
    SceneExamples(scenes, ..., stage="questions")   a dataset for training: another wording each time
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from szilard.options import check_choice, check_number
from szilard.representation.sprites import COLOURS, SHAPES, render

NAMES = tuple(SHAPES)
SHADES = tuple(COLOURS)
SIZES = ("small", "large")
PLACES = ("top left", "top right", "bottom left", "bottom right")
KINDS = ("colour", "count", "place", "size")
STAGES = ("captions", "questions")
MOST_WORDINGS = 5
NUMBERS = ("one", "two", "three")
_EXTENT = (0.13, 0.21)  # half of it, as a share of the side
_PLACE_WORDS = {
    "top left": ("top left", "upper left", "left above", "upper left corner", "left at the top"),
    "top right": ("top right", "upper right", "right above", "upper right corner", "right at the top"),
    "bottom left": ("bottom left", "lower left", "left below", "lower left corner", "left at the bottom"),
    "bottom right": ("bottom right", "lower right", "right below", "lower right corner", "right at the bottom"),
}
_SIZE_WORDS = {
    "small": ("small", "little", "tiny", "small", "little"),
    "large": ("large", "big", "huge", "large", "big"),
}
_QUESTIONS = {
    "colour": (
        "what colour is the {shape} ?",
        "which colour has the {shape} ?",
        "what is the colour of the {shape} ?",
        "tell me the colour of the {shape}",
        "the {shape} has which colour ?",
    ),
    "count": (
        "how many shapes are there ?",
        "how many do you see ?",
        "what is the number of shapes ?",
        "count the shapes",
        "how many objects are in the picture ?",
    ),
    "place": (
        "where is the {shape} ?",
        "in which place is the {shape} ?",
        "where do you see the {shape} ?",
        "what is the place of the {shape} ?",
        "tell me where the {shape} is",
    ),
    "size": (
        "how big is the {shape} ?",
        "what is the size of the {shape} ?",
        "which size has the {shape} ?",
        "is the {shape} small or large ?",
        "tell me the size of the {shape}",
    ),
}
# {a} is what is asked for; {w} the same in the wording's own words.
_ANSWERS = {
    "colour": ("{a}", "it is {a}", "the {shape} is {a}", "a {a} one", "its colour is {a}"),
    "count": ("{a}", "there are {a}", "{a} shapes", "i see {a} of them", "the number is {a}"),
    "place": ("{a}", "in the {w}", "it is {w}", "you find it in the {w}", "the {shape} is on the {w}"),
    "size": ("{a}", "it is {w}", "a {w} one", "the {shape} is {w}", "its size is {w}"),
}
_CAPTIONS = ("{objects}", "there is {objects}", "a picture of {objects}", "one sees {objects}", "{objects} on black")
_OBJECTS = (
    "a {size} {colour} {shape} in the {place}",
    "in the {place} a {colour} {shape} which is {size}",
    "one {size} {shape} of {colour} colour in the {place}",
    "a {shape} in the {place} , {colour} and {size}",
    "in the {place} one {size} {colour} {shape}",
)


class Thing(NamedTuple):
    """One object, as numbers in `NAMES`, `SHADES`, `SIZES` and `PLACES`."""

    shape: int
    colour: int
    size: int
    place: int


Scene = tuple[Thing, ...]


class Scenes:
    """Drawn scenes and their pictures.

    Args:
        count: of scenes, all different.
        seed: of the draws; another seed gives other scenes, some of which may be the same where there are few.
        objects: fewest and most in a scene.
        size: side of the pictures, in pixels.
        avoid: scenes that are left out: what another set holds.

    Attributes:
        scenes: a tuple of things each, in the order of their places.
        pixels: uint8 [N, 3, size, size].

    Raises:
        ValueError: more scenes than there are, or numbers of objects that cannot be.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        objects: tuple[int, int] = (1, 3),
        size: int = 32,
        avoid: Sequence[Scene] = (),
    ) -> None:
        check_number("count", count, low=1, integer=True)
        low, high = objects
        if not 1 <= low <= high <= len(NUMBERS):
            raise ValueError(f"a scene has one to three objects, not {low} to {high}.")
        chance, gone, found = random.Random(f"scenes {seed}"), set(avoid), dict[Scene, None]()
        tries = 0
        while len(found) < count:
            tries += 1
            if tries > 1000 + 100 * count:
                raise ValueError(f"{count} different scenes of {low} to {high} objects were not found: ask for fewer.")
            scene = draw_scene(chance, chance.randint(low, high))
            if scene not in gone:
                found.setdefault(scene)
        self.scenes: list[Scene] = list(found)
        self.size = size
        self.pixels = paint(self.scenes, size=size, seed=seed)

    def __len__(self) -> int:
        return len(self.scenes)


def draw_scene(chance: random.Random, objects: int) -> Scene:
    """A scene of so many things, different in shape, colour and place."""
    shapes, colours, places = (chance.sample(range(len(names)), objects) for names in (NAMES, SHADES, PLACES))
    things = [
        Thing(shape, colour, chance.randrange(2), place)
        for shape, colour, place in zip(shapes, colours, places, strict=True)
    ]
    return tuple(sorted(things, key=lambda thing: thing.place))


def paint(scenes: Sequence[Scene], *, size: int, seed: int) -> Tensor:
    """uint8 [N, 3, size, size]; places within a quarter, extents and turns are drawn from the seed."""
    most = max(len(scene) for scene in scenes)
    table = torch.full((len(scenes), most, 4), -1)
    for row, scene in enumerate(scenes):
        table[row, : len(scene)] = torch.tensor(scene)
    chance = torch.Generator().manual_seed(seed)

    def wiggle(reach: float) -> Tensor:
        return (torch.rand(table.shape[:2], generator=chance) * 2 - 1) * reach

    shape, colour, extent, place = table.unbind(-1)
    there = place.clamp(min=0)
    drawn = [
        shape,
        torch.tensor(list(COLOURS.values()))[colour.clamp(min=0)],
        torch.tensor(_EXTENT)[extent.clamp(min=0)] * (1 + wiggle(0.08)),
        wiggle(0.5),
        0.25 + 0.5 * (there % 2) + wiggle(0.03),
        0.25 + 0.5 * torch.div(there, 2, rounding_mode="floor") + wiggle(0.03),
    ]
    parts = zip(*(one.split(1024) for one in drawn), strict=True)
    return torch.cat([render(*part, size=size).mul(255).round().to(torch.uint8) for part in parts])


@dataclass(frozen=True)
class SceneTexts:
    """Captions, questions and answers.

    Attributes:
        wordings: of captions and answers, 1 to 5; with 1 the same is always said in the same words.
        question_wordings: of questions.
    """

    wordings: int = MOST_WORDINGS
    question_wordings: int = MOST_WORDINGS

    def __post_init__(self) -> None:
        for name in ("wordings", "question_wordings"):
            check_number(name, getattr(self, name), low=1, high=MOST_WORDINGS, integer=True)

    def caption(self, scene: Scene, chance: random.Random) -> str:
        """Everything that is in a scene, or, half of the time, without the sizes."""
        sized = chance.random() < 0.5
        frame = _CAPTIONS[chance.randrange(self.wordings)]
        things = list(scene)
        if self.wordings > 1:
            chance.shuffle(things)
        said = [self.thing(thing, chance.randrange(self.wordings), sized=sized) for thing in things]
        return frame.format(objects=" and ".join(said))

    def thing(self, thing: Thing, wording: int, *, sized: bool = True) -> str:
        """One object in one wording."""
        size, place = SIZES[thing.size], PLACES[thing.place]
        text = _OBJECTS[wording].format(
            size=_SIZE_WORDS[size][wording] if sized else "",
            colour=SHADES[thing.colour],
            shape=NAMES[thing.shape],
            place=_PLACE_WORDS[place][wording],
        )
        text = text if sized else text.replace(" which is ", " ").replace(" and ", " ")
        return " ".join(text.split())

    def plain(self, scene: Scene, *, sized: bool = True) -> str:
        """The caption in its first wording, objects in the order of their places."""
        return " and ".join(self.thing(thing, 0, sized=sized) for thing in scene)

    def question(self, scene: Scene, kind: str, chance: random.Random) -> tuple[str, str, str]:
        """A question of a kind about a scene: question, answer, and the answer in its first wording."""
        check_choice("kind", kind, KINDS)
        thing = scene[chance.randrange(len(scene))]
        asked = _QUESTIONS[kind][chance.randrange(self.question_wordings)].format(shape=NAMES[thing.shape])
        plain = plain_answer(scene, thing, kind)
        return asked, self.answer(plain, kind, chance.randrange(self.wordings), NAMES[thing.shape]), plain

    def answer(self, plain: str, kind: str, wording: int, shape: str) -> str:
        """An answer in one wording."""
        words = {"place": _PLACE_WORDS, "size": _SIZE_WORDS}.get(kind, {})
        own = words[plain][wording] if words else plain
        return _ANSWERS[kind][wording].format(a=plain, w=own, shape=shape)


def plain_answer(scene: Scene, thing: Thing, kind: str) -> str:
    """The answer in its first wording, a member of `candidates(kind)`."""
    return {
        "colour": SHADES[thing.colour],
        "count": NUMBERS[len(scene) - 1],
        "place": PLACES[thing.place],
        "size": SIZES[thing.size],
    }[kind]


def candidates(kind: str) -> tuple[str, ...]:
    """All answers of a kind of question, in their first wording."""
    check_choice("kind", kind, KINDS)
    return {"colour": SHADES, "count": NUMBERS, "place": PLACES, "size": SIZES}[kind]


class Example(NamedTuple):
    """A sample (X_V, X_Q, Y): bytes [3, size, size] or [frames, 3, size, size], question ("" : none), answer."""

    pixels: Tensor
    query: str
    answer: str


class SceneExamples(Dataset[Example]):
    """What is trained on: the scene of an index with a caption, or a question and its answer, in a drawn wording.

    Args:
        scenes: the scenes.
        texts: the wordings.
        samples: how many; more than scenes, and each scene comes with other texts.
        stage: "captions" (no query) or "questions" (a tenth stays captions, so that they are not forgotten).
        seed: of the draws.
        captions: the share of captions among questions.
    """

    def __init__(
        self,
        scenes: Scenes,
        texts: SceneTexts,
        samples: int,
        *,
        stage: str = "captions",
        seed: int = 0,
        captions: float = 0.1,
    ) -> None:
        check_choice("stage", stage, STAGES)
        check_number("samples", samples, low=1, integer=True)
        check_number("captions", captions, low=0, high=1)
        self.scenes, self.texts, self.samples, self.stage = scenes, texts, samples, stage
        self.seed, self.captions = seed, captions

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Example:
        chance = random.Random(f"{self.stage} {self.seed} {index}")
        place = index % len(self.scenes)
        scene = self.scenes.scenes[place]
        if self.stage == "captions" or chance.random() < self.captions:
            return Example(self.scenes.pixels[place], "", self.texts.caption(scene, chance))
        question, answer, _ = self.texts.question(scene, KINDS[chance.randrange(len(KINDS))], chance)
        return Example(self.scenes.pixels[place], question, answer)


def scene_words() -> list[str]:
    """Every word of scenes and clips, in the order of the alphabet."""
    from szilard.representation.vl_jepa.clips import CLIP_TEXTS

    groups: Iterator[Any] = iter(
        (
            *_QUESTIONS.values(),
            *_ANSWERS.values(),
            *_PLACE_WORDS.values(),
            *_SIZE_WORDS.values(),
            _CAPTIONS,
            _OBJECTS,
            CLIP_TEXTS,
            (*NAMES, *SHADES, *PLACES, *SIZES, *NUMBERS, "and", "a", "of"),
        )
    )
    return sorted({word for group in groups for text in group for word in text.split() if "{" not in word})


def word_tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer whose tokens are words, and <pad>, <bos>, <eos>, <unk>; capitals are read as small letters.

    Raises:
        ValueError: no word.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not words:
        raise ValueError("a tokenizer needs words.")
    known = ["<pad>", "<bos>", "<eos>", "<unk>", *dict.fromkeys(word.lower() for word in words)]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=made, padding_side="right", **named)
