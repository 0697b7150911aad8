"""The rules that fill a canvas, each over its own knob: a curve has a name, a point on it a setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import szilard
from szilard.diffusion.learn2pd.oracle import EgpOracle
from szilard.diffusion.method import END_OF_TEXT, DiffusionMethod
from szilard.diffusion.unmask import SCORES

BLOCK, SMALL_BLOCK = 32, 8
KS = (1, 2, 4, 8, 16, 32)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
EXPLOITED = (0.5, 0.7, 0.9, 0.95)  # thresholds of ETE
FACTORS = (0.7, 1.0, 1.3, 1.6, 1.9)
GAMMAS = (0.001, 0.01, 0.1, 0.3, 1.0)  # nats
RELAXED = (0.85, 0.75, 0.65, 0.5)
RADII = (1, 4, 8)
ACCEPTED = (0.5, 0.8, 0.9, 0.96, 0.99)  # thresholds of Learn2PD
BLOCKS = (2, 4, 8, 16, 32)
END_RULES = END_OF_TEXT[1:]
ETE_KINDS = {
    "ETE": {},
    "ETE, stalled": {"trigger": "stalled"},
    "ETE, m = 2": {"explore_per_round": 2},
    "ETE, 2 branches": {"branches": 2},
    "ETE, 4 branches": {"branches": 4},
}


@dataclass(frozen=True)
class Contestant:
    """A point of a curve.

    Attributes:
        curve: the rule, with all that is fixed along the curve.
        setting: of its knob.
        method: the rule at that setting.
    """

    curve: str
    setting: float | int | str
    method: DiffusionMethod

    @property
    def options(self) -> str:
        """The rule with its options; a filter has no short form."""
        method = self.method
        return str(dataclasses.replace(method, filter=None) if isinstance(method, szilard.Learn2PD) else method)


def rules(length: int, learned: szilard.Learn2PD | None = None) -> Iterator[Contestant]:
    """Every rule over its knob.

    Top-k at k is LLaDA's even schedule with length / k rounds (one block), so of schedules Dream's two are here.

    Args:
        length: columns of an answer.
        learned: with the model's filter, or none.
    """
    ks = [k for k in KS if k < 2 * length]
    for score in SCORES:
        for k in ks:
            yield Contestant(f"top-k, {score}", k, szilard.TopKUnmask(k=k, score=score, block_length=BLOCK))
    for threshold in THRESHOLDS:
        yield Contestant("threshold", threshold, szilard.ThresholdUnmask(threshold=threshold, block_length=BLOCK))
    for factor in FACTORS:
        yield Contestant("factor", factor, szilard.FactorUnmask(factor=factor, block_length=BLOCK))
    for gamma in GAMMAS:
        yield Contestant("entropy bound", gamma, szilard.EntropyBound(gamma=gamma, block_length=BLOCK))
    for rule in ("linear", "chance"):
        for k in ks:
            steps = -(-length // k)
            method = szilard.ScheduleUnmask(steps=steps, rule=rule, score="entropy", block_length=BLOCK)
            yield Contestant(f"schedule, {rule}", steps, method)
    for radius in RADII:
        yield from local_leap(radius)
    for name, options in ETE_KINDS.items():
        yield from _ete(name, block_length=BLOCK, horizon=0, **options)
    yield from small_blocks()
    yield from learn2pd(learned)
    yield Contestant("EGP oracle", "", EgpOracle(block_length=BLOCK))


def local_leap(radius: int | None) -> Iterator[Contestant]:
    """LocalLeap over the relaxed threshold; radius None: the whole block."""
    for relaxed in RELAXED:
        method = szilard.LocalLeap(relaxed=relaxed, radius=BLOCK if radius is None else radius, block_length=BLOCK)
        yield Contestant(f"LocalLeap, W = {'inf' if radius is None else radius}", relaxed, method)


def small_blocks() -> Iterator[Contestant]:
    """Blocks that are shorter than the answer: where looking beyond the block can matter."""
    for threshold in EXPLOITED:
        method = szilard.ThresholdUnmask(threshold=threshold, block_length=SMALL_BLOCK)
        yield Contestant(f"threshold, blocks of {SMALL_BLOCK}", threshold, method)
    for horizon in (0, 1):
        yield from _ete(f"ETE, blocks of {SMALL_BLOCK}, horizon {horizon}", block_length=SMALL_BLOCK, horizon=horizon)


def learn2pd(learned: szilard.Learn2PD | None) -> Iterator[Contestant]:
    """Learn2PD over its threshold, where there is a filter."""
    for threshold in ACCEPTED if learned is not None else ():
        yield Contestant("Learn2PD", threshold, dataclasses.replace(learned, threshold=threshold))


def block_study(length: int) -> Iterator[Contestant]:
    """Two columns per round, in blocks of different lengths, up to the answer's."""
    for block in (block for block in BLOCKS if block < 2 * length):
        yield Contestant("blocks, k = 2", block, szilard.TopKUnmask(k=2, block_length=block))


def end_study(learned: szilard.Learn2PD | None = None) -> Iterator[Contestant]:
    """Rules of where a text ends, beside rules of what is committed."""
    bases: dict[str, DiffusionMethod] = {
        "one per round": szilard.TopKUnmask(block_length=BLOCK),
        "threshold 0.9": szilard.ThresholdUnmask(block_length=BLOCK),
    }
    if learned is not None:
        bases["Learn2PD 0.96"] = learned
    for name, method in bases.items():
        for end in END_RULES:
            yield Contestant(f"end of text, {name}", end, dataclasses.replace(method, end_of_text=end))


def learned_filter(folder: Path | None) -> szilard.Learn2PD | None:
    """Learn2PD with a filter of `szilard train learn2pd`."""
    return None if folder is None else szilard.Learn2PD.from_pretrained(str(folder))


def chosen(contestants: Sequence[Contestant], only: Sequence[str] | None) -> list[Contestant]:
    """Those whose curve's name begins with one of these words.

    Raises:
        ValueError: a word with which no name begins.
    """
    curves = dict.fromkeys(one.curve for one in contestants)
    for word in only or ():
        if not any(curve.lower().startswith(word.lower()) for curve in curves):
            raise ValueError(f"there is no curve {word!r}; there are: {'; '.join(curves)}.")
    return [one for one in contestants if not only or any(one.curve.lower().startswith(w.lower()) for w in only)]


def _ete(curve: str, **options: object) -> Iterator[Contestant]:
    for threshold in EXPLOITED:
        yield Contestant(curve, threshold, szilard.Ete(threshold=threshold, **options))
