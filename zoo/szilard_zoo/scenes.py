"""Pictures of coloured shapes, questions about them with truthful chains of thought, and measures of hallucination.

A scene holds one to six shapes on a 3x3 grid. Its statistics are skewed on purpose: circles are mostly red, squares
mostly blue, and the two like to appear together. A model that trusts the text more than the picture therefore errs in a
known direction, and the adversarial questions ask exactly there.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Split = Literal["train", "heldout"]
Kind = tuple[str, str]  # (colour, shape)

IMAGE_SIZE = 64  # pixels
GRID = 3  # cells per side
MAX_OBJECTS = 6
OBJECT_COUNTS = (1, 2, 3, 4, 5, 6)
OBJECT_COUNT_WEIGHTS = (1, 2, 3, 4, 4, 4)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "green": (45, 155, 60),
    "blue": (50, 80, 205),
    "yellow": (215, 195, 50),
    "purple": (135, 55, 165),
    "orange": (225, 125, 40),
}
SHAPES = {"circle": 0.35, "square": 0.30, "triangle": 0.20, "star": 0.15}  # how often each is drawn
LIKELY_COLOUR = {"circle": "red", "square": "blue", "triangle": "yellow", "star": "purple"}
COMPANION: dict[Kind, Kind] = {  # drawn after the key with probability COMPANY
    ("red", "circle"): ("blue", "square"),
    ("blue", "square"): ("red", "circle"),
    ("yellow", "triangle"): ("green", "circle"),
    ("purple", "star"): ("yellow", "triangle"),
}
PRIOR = 0.5  # probability that a shape takes its likely colour instead of any of the six
COMPANY = 0.35

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars"}
_SINGULAR = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}
KINDS: tuple[Kind, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)

QUESTION_KINDS = ("existence", "count", "colour", "position", "caption")
QUESTION_WEIGHTS = (0.25, 0.27, 0.16, 0.20, 0.12)  # in training; balanced in the held-out split
NEGATIVES = ("random", "popular", "adversarial")
HELDOUT_SHARE = 8  # one scene in so many, by hash, is never trained on


# --- scenes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Object:
    """One shape of a scene; x, y and radius in pixels."""

    shape: str
    colour: str
    cell: int  # 0..8, row by row
    x: float
    y: float
    radius: float
    angle: float  # radians, a slight tilt
    rgb: tuple[int, int, int]

    @property
    def kind(self) -> Kind:
        return (self.colour, self.shape)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def column(self) -> int:
        return self.cell % GRID

    @property
    def position(self) -> str:
        """Two words, for instance "top left" or "middle center"."""
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True)
class Scene:
    """Objects in reading order, and what is needed to draw exactly the same picture again."""

    objects: tuple[Object, ...]
    background: tuple[int, int, int]
    noise_seed: int

    @cached_property
    def kinds(self) -> Counter[Kind]:
        return Counter(item.kind for item in self.objects)

    @cached_property
    def key(self) -> str:
        """What is where, without the jitter: scenes with the same key belong to the same split."""
        return ";".join(f"{item.cell}:{item.colour} {item.shape}" for item in self.objects)

    @cached_property
    def split(self) -> Split:
        digest = hashlib.sha256(self.key.encode()).digest()
        return "heldout" if digest[0] % HELDOUT_SHARE == 0 else "train"


def _draw_kind(rng: random.Random, prior: float) -> Kind:
    shape = rng.choices(tuple(SHAPES), tuple(SHAPES.values()))[0]
    colour = LIKELY_COLOUR[shape] if rng.random() < prior else rng.choice(tuple(COLOURS))
    return (colour, shape)


def random_scene(rng: random.Random, *, prior: float = PRIOR) -> Scene:
    """Draw one scene of either split.

    Args:
        rng: source of all the randomness.
        prior: probability that a shape takes its likely colour; 0 also breaks up the companions.
    """
    count = rng.choices(OBJECT_COUNTS, OBJECT_COUNT_WEIGHTS)[0]
    kinds: list[Kind] = []
    while len(kinds) < count:
        kinds.append(_draw_kind(rng, prior))
        companion = COMPANION.get(kinds[-1])
        if companion and len(kinds) < count and prior > 0 and rng.random() < COMPANY:
            kinds.append(companion)
    cells = sorted(rng.sample(range(GRID * GRID), count))
    rng.shuffle(kinds)

    pitch = IMAGE_SIZE / GRID
    objects = []
    for cell, (colour, shape) in zip(cells, kinds, strict=True):
        radius = rng.uniform(4.5, 8.0)
        slack = pitch / 2 - radius  # the disc stays in its cell; a tip may reach 1.6 pixels further
        objects.append(
            Object(
                shape=shape,
                colour=colour,
                cell=cell,
                x=(cell % GRID + 0.5) * pitch + rng.uniform(-slack, slack),
                y=(cell // GRID + 0.5) * pitch + rng.uniform(-slack, slack),
                radius=radius,
                angle=rng.uniform(-0.25, 0.25),
                rgb=tuple(min(255, max(0, value + rng.randint(-35, 35))) for value in COLOURS[colour]),  # type: ignore[arg-type]
            )
        )
    grey = rng.randint(190, 250)
    background = tuple(min(255, grey + rng.randint(-8, 8)) for _ in range(3))
    return Scene(tuple(objects), background, rng.getrandbits(32))  # type: ignore[arg-type]


def scene_of(rng: random.Random, split: Split, *, prior: float = PRIOR) -> Scene:
    """Draw one scene of the given split."""
    while (scene := random_scene(rng, prior=prior)).split != split:
        pass
    return scene


def _corners(item: Object) -> list[tuple[float, float]]:
    """Corners of a square, triangle or star around its centre, in pixels."""
    if item.shape == "square":
        steps = [(math.pi / 4 + k * math.pi / 2, 1.15) for k in range(4)]
    elif item.shape == "triangle":
        steps = [(-math.pi / 2 + k * 2 * math.pi / 3, 1.2) for k in range(3)]
    else:
        steps = [(-math.pi / 2 + k * math.pi / 5, 1.2 if k % 2 == 0 else 0.5) for k in range(10)]
    return [
        (
            item.x + item.radius * stretch * math.cos(turn + item.angle),
            item.y + item.radius * stretch * math.sin(turn + item.angle),
        )
        for turn, stretch in steps
    ]


def render(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB picture of 64x64 pixels: anti-aliased shapes, plain background, slight noise."""
    scale = 3
    canvas = Image.new("RGB", (IMAGE_SIZE * scale, IMAGE_SIZE * scale), scene.background)
    draw = ImageDraw.Draw(canvas)
    for item in scene.objects:
        if item.shape == "circle":
            box = (item.x - item.radius, item.y - item.radius, item.x + item.radius, item.y + item.radius)
            draw.ellipse([value * scale for value in box], fill=item.rgb)
        else:
            draw.polygon([(x * scale, y * scale) for x, y in _corners(item)], fill=item.rgb)
    pixels = np.asarray(canvas.reduce(scale), dtype=np.int16)
    noise = np.random.default_rng(scene.noise_seed).integers(-20, 21, pixels.shape, dtype=np.int16)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


# --- questions and chains of thought --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A question about a scene with its chain of thought and its answer."""

    scene: Scene
    kind: str  # one of QUESTION_KINDS
    question: str
    reasoning: str  # without the <think> markers
    answer: str
    subset: str = ""  # existence questions: random, popular or adversarial

    @property
    def text(self) -> str:
        """What the assistant should say."""
        return f"<think> {self.reasoning} </think> {self.answer}"

    @property
    def image(self) -> Image.Image:
        return render(self.scene)

    def messages(self) -> list[dict[str, object]]:
        """The user turn for `processor.apply_chat_template`, picture included."""
        content = [{"type": "image", "image": self.image}, {"type": "text", "text": self.question}]
        return [{"role": "user", "content": content}]


def _article(name: str) -> str:
    return f"{'an' if name[0] == 'o' else 'a'} {name}"


def _number_of(count: int, colour: str, shape: str) -> str:
    """For instance "two red circles", "one star", "no red shapes"; an empty colour or shape is left out."""
    noun = (PLURALS[shape] if count != 1 else shape) if shape else ("shapes" if count != 1 else "shape")
    return " ".join(word for word in ("no" if count == 0 else NUMBERS[count], colour, noun) if word)


def _ordered(objects: Iterable[Object], rng: random.Random) -> list[Object]:
    """Reading order three times out of four, else from the end: a chain may honestly start at more than one place."""
    listed = sorted(objects, key=lambda item: item.cell)
    return listed if rng.random() < 0.75 else listed[::-1]


def _listing(objects: Sequence[Object], rng: random.Random) -> str:
    """For instance "a red circle in the top left , a blue star in the middle right and ..."."""
    parts = [f"{_article(item.name)} in the {item.position}" for item in objects]
    if len(parts) == 1:
        return parts[0]
    if rng.random() < 0.25:  # the last one is seen late
        return f"{' , '.join(parts[:-1])} . wait , there is also {parts[-1]}"
    return f"{' , '.join(parts[:-1])} and {parts[-1]}"


def _seen(objects: Sequence[Object], rng: random.Random) -> str:
    return f"{rng.choice(('i see', 'there is', 'i see', 'i can see'))} {_listing(objects, rng)}"


def _so(rng: random.Random) -> str:
    return rng.choice(("so", "so", "therefore", "thus"))


def _but(rng: random.Random) -> str:
    return rng.choice(("but", "but", "however ,"))


@lru_cache(maxsize=1)
def _statistics() -> tuple[tuple[Kind, ...], dict[Kind, Counter[Kind]]]:
    """Kinds from frequent to rare, and how often each appears beside each other, on 3,000 training scenes."""
    rng = random.Random("statistics")
    single: Counter[Kind] = Counter()
    beside: dict[Kind, Counter[Kind]] = {kind: Counter() for kind in KINDS}
    for _ in range(3000):
        present = scene_of(rng, "train").kinds
        single.update(present.keys())
        for kind in present:
            beside[kind].update(other for other in present if other != kind)
    return tuple(sorted(KINDS, key=lambda kind: -single[kind])), beside


def absent_kind(scene: Scene, subset: str, rng: random.Random) -> Kind:
    """A kind that is not in the scene, picked as POPE (Li et al., 2023) picks its negatives.

    Args:
        scene: where it must be absent.
        subset: "random": any; "popular": one of the three most frequent in training; "adversarial": one of the three
            that most often appear beside what is in the scene, sharing a colour or a shape with it.
        rng: source of the choice.
    """
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    if subset == "random":
        return rng.choice(absent)
    popularity, beside = _statistics()
    if subset == "popular":
        return rng.choice([kind for kind in popularity if kind in absent][:3])
    if subset != "adversarial":
        raise ValueError(f"subset is {subset!r}; use one of {', '.join(NEGATIVES)}")
    colours = {colour for colour, _ in scene.kinds}
    shapes = {shape for _, shape in scene.kinds}
    tempting = [kind for kind in absent if kind[0] in colours or kind[1] in shapes]
    tempting.sort(key=lambda kind: -sum(beside[present][kind] for present in scene.kinds))
    return rng.choice(tempting[:3])


def _related(scene: Scene, colour: str, shape: str) -> list[Object]:
    return [item for item in scene.objects if item.colour == colour or item.shape == shape]


def existence_question(
    scene: Scene, rng: random.Random, *, subset: str = "random", positive: bool | None = None
) -> Sample:
    """ "is there a red circle ?"; half of the answers are yes unless `positive` says which."""
    if positive is None:
        positive = rng.random() < 0.5
    colour, shape = rng.choice(scene.objects).kind if positive else absent_kind(scene, subset, rng)
    name = f"{colour} {shape}"
    question = rng.choice(
        (f"is there {_article(name)} ?", f"can you see {_article(name)} ?", f"do you see {_article(name)} ?")
    )
    if positive:
        found = _ordered([item for item in scene.objects if item.kind == (colour, shape)], rng)
        others = _ordered([item for item in _related(scene, colour, shape) if item.kind != (colour, shape)], rng)
        if others and rng.random() < 0.5:
            start = f"{_seen(others[:1], rng)} , {_but(rng)} there is also {_listing(found, rng)} ."
        else:
            start = f"{_seen(found, rng)} ."
        end = rng.choice((f"{_so(rng)} there is {_article(name)}", f"{_so(rng)} the answer is yes"))
        return Sample(scene, "existence", question, f"{start} {end}", "yes", subset)
    related = _ordered(_related(scene, colour, shape), rng)[:3]
    if related:
        start = f"{_seen(related, rng)} , {_but(rng)} there is no {name} ."
    else:
        start = rng.choice(
            (
                f"there is no {name} , because there are no {PLURALS[shape]} and nothing is {colour} .",
                f"nothing is {colour} and there are no {PLURALS[shape]} .",
            )
        )
    return Sample(scene, "existence", question, f"{start} {_so(rng)} the answer is no", "no", subset)


def count_question(scene: Scene, rng: random.Random) -> Sample:
    """ "how many red circles are there ?", also by colour or by shape alone."""
    colour, shape = rng.choice(scene.objects).kind if rng.random() < 0.85 else absent_kind(scene, "random", rng)
    draw = rng.random()
    if draw < 0.35:
        colour = ""
    elif draw < 0.6:
        shape = ""
    asked = " ".join(word for word in (colour, PLURALS[shape] if shape else "shapes") if word)
    question = rng.choice((f"how many {asked} are there ?", f"how many {asked} do you see ?", f"count the {asked} ."))
    found = [
        item for item in scene.objects if item.colour in (colour or item.colour) and item.shape == (shape or item.shape)
    ]
    count = len(found)
    parts = []
    if found:
        parts.append(f"{_seen(_ordered(found, rng), rng)} .")
    others = (
        [item for item in scene.objects if item.shape == shape and item.colour != colour] if colour and shape else []
    )
    if others and rng.random() < 0.4:
        other = _ordered(others, rng)[0]
        also = "also " if found else ""
        parts.append(f"there is {also}{_article(other.name)} , {_but(rng)} it is not {colour} .")
    verb = "is" if count == 1 else "are"
    there = f"there {verb} {_number_of(count, colour, shape)}"
    parts.append(rng.choice((f"{_so(rng)} {there}", f"{_so(rng)} the answer is {NUMBERS[count]}")) if parts else there)
    return Sample(scene, "count", question, " ".join(parts), NUMBERS[count])


def colour_question(scene: Scene, rng: random.Random) -> Sample:
    """ "what colour is the triangle ?" of a shape that occurs once, or of the shape in a named place."""
    item = rng.choice(scene.objects)
    unique = sum(other.shape == item.shape for other in scene.objects) == 1
    if unique and rng.random() < 0.6:
        question = rng.choice((f"what colour is the {item.shape} ?", f"which colour does the {item.shape} have ?"))
        named = rng.random() < 0.5
        start = f"the {item.shape} is in the {item.position} ." if named else f"{_seen([item], rng)} ."
    else:
        what = item.shape if rng.random() < 0.7 else "shape"
        question = f"what colour is the {what} in the {item.position} ?"
        start = f"i look at the {item.position} ." if rng.random() < 0.5 else f"{_seen([item], rng)} ."
    end = rng.choice(
        (
            f"the {item.shape} is {item.colour} , {_so(rng)} the answer is {item.colour}",
            f"{_so(rng)} the {item.shape} is {item.colour}",
            f"the answer is {item.colour} , because i see {_article(item.name)} there",
        )
    )
    return Sample(scene, "colour", question, f"{start} {end}", item.colour)


_DIRECTIONS = {
    "to the left of": (0, -1),
    "to the right of": (0, 1),
    "above": (-1, 0),
    "below": (1, 0),
}


def _neighbour(scene: Scene, item: Object, step: tuple[int, int]) -> Object | None:
    """The nearest object in the same row or column in the given direction."""
    by_cell = {other.cell: other for other in scene.objects}
    row, column = item.row + step[0], item.column + step[1]
    while 0 <= row < GRID and 0 <= column < GRID:
        if row * GRID + column in by_cell:
            return by_cell[row * GRID + column]
        row, column = row + step[0], column + step[1]
    return None


def position_question(scene: Scene, rng: random.Random) -> Sample | None:
    """ "where is the blue square ?" or "what is above the blue square ?"; None when no kind occurs exactly once."""
    unique = [item for item in scene.objects if scene.kinds[item.kind] == 1]
    if not unique:
        return None
    item = rng.choice(unique)
    if rng.random() < 0.6:
        question = rng.choice((f"where is the {item.name} ?", f"in which place is the {item.name} ?"))
        others = [other for other in _related(scene, *item.kind) if other != item]
        end = f"{_so(rng)} the answer is {item.position}"
        if others and rng.random() < 0.5:
            start = f"{_seen([rng.choice(others)], rng)} , {_but(rng)} the {item.name} is in the {item.position} ."
        else:
            start = f"{_seen([item], rng)} ."
        return Sample(scene, "position", question, f"{start} {end}", item.position)
    direction = rng.choice(tuple(_DIRECTIONS))
    other = _neighbour(scene, item, _DIRECTIONS[direction])
    if other is None and rng.random() < 0.6:  # keep "nothing" from being the most likely answer
        present = [name for name in _DIRECTIONS if _neighbour(scene, item, _DIRECTIONS[name])]
        if present:
            direction = rng.choice(present)
            other = _neighbour(scene, item, _DIRECTIONS[direction])
    question = f"what is {direction} the {item.name} ?"
    start = f"the {item.name} is in the {item.position} ."
    if other is None:
        end = rng.choice((f"there is nothing {direction} it", f"{_so(rng)} there is nothing {direction} it"))
        return Sample(scene, "position", question, f"{start} {end}", "nothing")
    there = f"{_seen([other], rng)}"
    return Sample(scene, "position", question, f"{start} {there} , {_so(rng)} the answer is {other.name}", other.name)


def caption_question(scene: Scene, rng: random.Random) -> Sample:
    """ "describe the picture .": every object with its place, in reading order or from the end."""
    question = rng.choice(("describe the picture .", "what do you see ?", "what is in the picture ?"))
    count = len(scene.objects)
    reasoning = rng.choice(
        (f"i see {_number_of(count, '', '')}", f"there {'is' if count == 1 else 'are'} {_number_of(count, '', '')}")
    )
    parts = [f"{_article(item.name)} in the {item.position}" for item in _ordered(scene.objects, rng)]
    listed = parts[0] if len(parts) == 1 else f"{' , '.join(parts[:-1])} and {parts[-1]}"
    return Sample(scene, "caption", question, reasoning, f"there is {listed}")


def question(scene: Scene, kind: str, rng: random.Random, *, subset: str = "random") -> Sample:
    """One question of a kind; a position question becomes a colour question where no kind occurs exactly once.

    Raises:
        ValueError: unknown kind.
    """
    if kind == "existence":
        return existence_question(scene, rng, subset=subset)
    if kind == "count":
        return count_question(scene, rng)
    if kind == "colour":
        return colour_question(scene, rng)
    if kind == "position":
        return position_question(scene, rng) or colour_question(scene, rng)
    if kind == "caption":
        return caption_question(scene, rng)
    raise ValueError(f"kind is {kind!r}; use one of {', '.join(QUESTION_KINDS)}")


def training_questions(scene: Scene, rng: random.Random, count: int) -> list[Sample]:
    """Questions of mixed kinds about one scene; negatives are random, so that the skew of the scenes is learnt."""
    kinds = rng.choices(QUESTION_KINDS, QUESTION_WEIGHTS, k=count)
    return [question(scene, kind, rng) for kind in kinds]


def dataset(
    split: Split, n: int, seed: int = 0, *, prior: float = PRIOR, kinds: Sequence[str] = QUESTION_KINDS
) -> Iterator[Sample]:
    """Samples of a split, one scene each, the same for the same arguments.

    Training samples mix the kinds as the recipe does and draw negatives at random. Held-out samples take the kinds in
    turn, and the existence questions take yes and no, and the random, popular and adversarial negatives, in turn.

    Args:
        split: "train" or "heldout"; a scene belongs to exactly one, by a hash of what is where.
        n: number of samples.
        seed: names the sequence.
        prior: see `random_scene`; 0 breaks the colour prior that the training scenes teach.
        kinds: which kinds of question, for the held-out split.

    Raises:
        ValueError: unknown split or kind.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split is {split!r}; use 'train' or 'heldout'")
    if unknown := set(kinds) - set(QUESTION_KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; use some of {', '.join(QUESTION_KINDS)}")
    rng = random.Random(f"{split} {seed} {prior}")
    for index in range(n):
        if split == "train":
            yield training_questions(scene_of(rng, split, prior=prior), rng, 1)[0]
            continue
        turn, kind = divmod(index, len(kinds))
        wanted = kinds[kind]
        while True:
            scene = scene_of(rng, split, prior=prior)
            if wanted == "existence":
                yield existence_question(scene, rng, subset=NEGATIVES[turn // 2 % 3], positive=turn % 2 == 0)
                break
            sample = question(scene, wanted, rng)
            if sample.kind == wanted:
                yield sample
                break


# --- answers and hallucination --------------------------------------------------------------------------------------

_CONTROL = re.compile(r"<(?!/?think>)[^<>\s]*>")
_COLOUR = "|".join(COLOURS)
_NOUN = "|".join(sorted(_SINGULAR, key=len, reverse=True))
_PLACE = rf"(?: in the (?:{'|'.join(ROWS)}) (?:{'|'.join(COLUMNS)}))?"
_MENTION = re.compile(rf"(?:(no|not an?) )?\b({_COLOUR}) ({_NOUN})\b|\bthe ({_NOUN}){_PLACE} is ({_COLOUR})\b")


def answer_of(text: str) -> str:
    """The answer in a reply: what follows the last `</think>`, in lower case, without control tokens and final stop.

    An unfinished chain of thought has no answer, so the result is empty; a reply without any chain is all answer.
    """
    text = _CONTROL.sub(" ", text)
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    elif "<think>" in text:
        return ""
    return " ".join(text.lower().split()).rstrip(" .")


def mentioned_objects(text: str) -> list[Kind]:
    """Objects that a text claims to be there, as (colour, shape), once per mention.

    "a red circle", "two red circles" and "the circle in the top left is red" each mention a red circle; what is negated
    ("there is no red circle") or has no colour ("the circle") is not a mention.
    """
    found = []
    for denied, colour, noun, subject, predicate in _MENTION.findall(" ".join(text.lower().split())):
        if not denied:
            found.append((colour or predicate, _SINGULAR[noun or subject]))
    return found


def is_correct(sample: Sample, text: str) -> bool:
    """Whether a reply answers the question; a caption must name exactly the kinds of object that are in the scene."""
    answer = answer_of(text)
    if sample.kind == "caption":
        return set(mentioned_objects(answer)) == set(sample.scene.kinds)
    return answer == sample.answer


@dataclass(frozen=True)
class Hallucination:
    """CHAIR (Rohrbach et al., 2018) over a set of texts.

    Attributes:
        mentions: objects mentioned.
        false_mentions: of those, not in their scene.
        texts: texts looked at.
        false_texts: of those, with at least one false mention.
    """

    mentions: int
    false_mentions: int
    texts: int
    false_texts: int

    @property
    def per_mention(self) -> float:
        """CHAIR_i: share of the mentions that are false."""
        return self.false_mentions / max(1, self.mentions)

    @property
    def per_text(self) -> float:
        """CHAIR_s: share of the texts with a false mention."""
        return self.false_texts / max(1, self.texts)


def chair(samples: Iterable[Sample], texts: Iterable[str]) -> Hallucination:
    """Object hallucination in replies, chain of thought and answer together.

    Args:
        samples: the questions.
        texts: one reply each, in the same order.

    Raises:
        ValueError: not as many replies as questions.
    """
    mentions = false_mentions = total = false_texts = 0
    for sample, text in zip(samples, texts, strict=True):
        mentioned = mentioned_objects(text)
        wrong = sum(kind not in sample.scene.kinds for kind in mentioned)
        mentions += len(mentioned)
        false_mentions += wrong
        total += 1
        false_texts += wrong > 0
    return Hallucination(mentions, false_mentions, total, false_texts)


@dataclass(frozen=True)
class Polling:
    """POPE (Li et al., 2023) over existence questions; "yes" is the positive class.

    A reply that is neither yes nor no is wrong: it counts as a missed yes or as a false yes.
    """

    true_yes: int
    false_yes: int
    true_no: int
    false_no: int
    said_yes: int

    @property
    def questions(self) -> int:
        return self.true_yes + self.false_yes + self.true_no + self.false_no

    @property
    def accuracy(self) -> float:
        return (self.true_yes + self.true_no) / max(1, self.questions)

    @property
    def precision(self) -> float:
        return self.true_yes / max(1, self.true_yes + self.false_yes)

    @property
    def recall(self) -> float:
        return self.true_yes / max(1, self.true_yes + self.false_no)

    @property
    def f1(self) -> float:
        return 2 * self.true_yes / max(1, 2 * self.true_yes + self.false_yes + self.false_no)

    @property
    def yes_rate(self) -> float:
        return self.said_yes / max(1, self.questions)


def pope(samples: Iterable[Sample], texts: Iterable[str]) -> dict[str, Polling]:
    """Polling results of the existence questions, by subset ("random", "popular", "adversarial") and for "all".

    Args:
        samples: questions of any kind; the others are passed over.
        texts: one reply each, in the same order.

    Raises:
        ValueError: not as many replies as questions.
    """
    counts: dict[str, Counter[str]] = {}
    for sample, text in zip(samples, texts, strict=True):
        if sample.kind != "existence":
            continue
        answer = answer_of(text)
        outcome = f"{'true' if answer == sample.answer else 'false'}_"
        outcome += sample.answer if answer == sample.answer else {"yes": "no", "no": "yes"}[sample.answer]
        for subset in {sample.subset, "all"}:
            counts.setdefault(subset, Counter()).update([outcome, *(["said_yes"] if answer == "yes" else [])])
    names = ("true_yes", "false_yes", "true_no", "false_no", "said_yes")
    return {
        subset: Polling(**{name: counts[subset][name] for name in names})
        for subset in (*NEGATIVES, "all")
        if subset in counts
    }
