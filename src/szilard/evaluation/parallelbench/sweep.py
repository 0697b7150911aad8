"""Speed against quality: a decoder over a grid of its own knob, and the figures that the benchmark makes of it.

A faithful comparison sweeps each decoder's knob and compares curves, never single points. Speed is tokens per step =
columns of the answer / forward passes: padding after the answer counts too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from szilard.evaluation.parallelbench.generate import make_task, task_kind
from szilard.evaluation.parallelbench.sample import Sample
from szilard.evaluation.parallelbench.scoring import score
from szilard.options import check_number


class Answer(NamedTuple):
    """What a decoder made of a sample.

    Attributes:
        text: the answer.
        steps: forward passes it took.
        tokens: columns of the canvas's answer, padding included.
    """

    text: str
    steps: int
    tokens: int


class Point(NamedTuple):
    """One point of a curve: accuracy in percent."""

    tokens_per_step: float
    accuracy: float


Decoder = Callable[[Sequence[Sample]], Sequence[Answer]]
Setting = TypeVar("Setting")


@dataclass(frozen=True)
class Row:
    """One answered sample; accuracy 0..1."""

    task: str
    setting: Any
    sample: int
    tokens_per_step: float
    steps: int
    score: float


@dataclass(frozen=True)
class SweepTable:
    """All rows of a sweep: every sample of every task at every setting."""

    rows: tuple[Row, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names, in the order in which they were run."""
        return tuple(dict.fromkeys(row.task for row in self.rows))

    @property
    def settings(self) -> tuple[Any, ...]:
        """Settings of the knob, in the order of the grid."""
        return tuple(dict.fromkeys(row.setting for row in self.rows))

    def point(self, setting: Any, task: str | None = None) -> Point:
        """Means over the samples of a task; None: over tasks, each counting once.

        Raises:
            ValueError: nothing was run so.
        """
        if task is None:
            return _mean([self.point(setting, name) for name in self.tasks])
        rows = [row for row in self.rows if row.setting == setting and row.task == task]
        if not rows:
            raise ValueError(f"the table has no rows of {task!r} at {setting!r}.")
        return _mean([Point(row.tokens_per_step, 100 * row.score) for row in rows])

    def points(self, task: str | None = None) -> list[Point]:
        """The curve, one point per setting."""
        return [self.point(setting, task) for setting in self.settings]


def sweep(
    decoder_factory: Callable[[Setting], Decoder],
    grid: Sequence[Setting],
    tasks: Sequence[str] | Mapping[str, Sequence[Sample]],
    *,
    num_samples: int | None = None,
    compact: bool = False,
    strict: bool = False,
    grammar: str = "language-tool",
) -> SweepTable:
    """Answer and score the samples of tasks at every setting of a decoder's knob.

    Args:
        decoder_factory: setting -> decoder; a decoder answers a list of samples.
        grid: settings.
        tasks: names, whose samples are generated; or samples by name.
        num_samples: of each generated task; None: the benchmark's.
        compact: generate compact samples.
        strict: score only the exact form.
        grammar: judge of text tasks.

    Raises:
        ValueError: nothing to run, or a decoder that leaves samples unanswered.
    """
    if not grid or not tasks:
        raise ValueError("a sweep needs at least one setting in its grid and one task.")
    chosen = (
        {task_kind(name).name: list(samples) for name, samples in tasks.items()}
        if isinstance(tasks, Mapping)
        else {task_kind(n).name: make_task(n, num_samples=num_samples, compact=compact) for n in tasks}
    )
    rows = []
    for setting in grid:
        decoder = decoder_factory(setting)
        for name, samples in chosen.items():
            answers = decoder(samples)
            if len(answers) != len(samples):
                raise ValueError(f"the decoder gave {len(answers)} answers to {len(samples)} samples of '{name}'.")
            for at, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
                right = score(name, answer.text, sample, strict, grammar=grammar)
                rows.append(Row(name, setting, at, answer.tokens / answer.steps, answer.steps, right))
    return SweepTable(tuple(rows))


def pb_at(
    table: SweepTable | Sequence[tuple[float, float]], accuracy: float = 80, *, interpolate: bool = True
) -> float:
    """PB@A: the most tokens per step at which the average accuracy is at least A percent; 0: it never is.

    Args:
        table: of a sweep, averaged over its tasks; or points (tokens per step, accuracy in percent).
        accuracy: A, 0 to 100.
        interpolate: on straight lines between neighbouring points (decoders with a continuous knob); else only the
            points themselves count (top-k).

    Raises:
        ValueError: no points.
    """
    check_number("accuracy", accuracy, low=0, high=100)
    points = sorted(table.points() if isinstance(table, SweepTable) else [Point(*pair) for pair in table])
    if not points:
        raise ValueError("PB@A needs at least one point (tokens per step, accuracy).")
    reached = [point.tokens_per_step for point in points if point.accuracy >= accuracy]
    if interpolate:
        for left, right in pairwise(points):
            if left.accuracy >= accuracy > right.accuracy:  # a rising line ends in a point that counts already
                share = (left.accuracy - accuracy) / (left.accuracy - right.accuracy)
                reached.append(left.tokens_per_step + share * (right.tokens_per_step - left.tokens_per_step))
    return float(max(reached, default=0.0))


def oracle(table: SweepTable) -> Point:
    """What the best setting for each sample would reach: the highest score there is, in the fewest steps that give it.

    Means over samples, then over tasks.
    """
    points = []
    for task in table.tasks:
        by_sample: dict[int, list[Row]] = {}
        for row in table.rows:
            if row.task == task:
                by_sample.setdefault(row.sample, []).append(row)
        best = [min(rows, key=lambda row: (-row.score, row.steps)) for rows in by_sample.values()]
        points.append(_mean([Point(row.tokens_per_step, 100 * row.score) for row in best]))
    if not points:
        raise ValueError("the table is empty.")
    return _mean(points)


def centre_of_mass(scores: Mapping[int, float]) -> float:
    """How well a task can be parallelised: (sum_k k score_k) / (sum_k score_k) over tokens per step k; low is hard.

    Raises:
        ValueError: no score above 0.
    """
    total = sum(scores.values())
    if any(value < 0 for value in scores.values()) or total <= 0:
        raise ValueError("the centre of mass needs scores of at least 0, one of them above: {tokens per step: score}.")
    return sum(k * value for k, value in scores.items()) / total


def _mean(points: Sequence[Point]) -> Point:
    return Point(fmean(point.tokens_per_step for point in points), fmean(point.accuracy for point in points))
