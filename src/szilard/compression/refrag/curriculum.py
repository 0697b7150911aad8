"""The curriculum of the first two stages: from single chunks to the longest contexts, in nine stages.

The paper prints a table of sample counts. A rule that reproduces it (inferred): the samples of each length form a
geometric series over the stages, whose first term is a_f = max(1, floor(2/3 N_1 / 4^(log2 f))) and whose ratio makes
the nine terms sum to the length's total N_f; terms are rounded.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from szilard.options import check_number

STAGES = 9
FACTORS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOTALS = (2000, 2000, 2000, 4000, 4000, 4000, 8000, 8000, 8000)


def curriculum(stage: int, factors: Sequence[int] = FACTORS, totals: Sequence[float] = TOTALS) -> dict[int, int]:
    """How many samples of each length a stage has.

    Args:
        stage: 1 to 9.
        factors: f: lengths in chunks, ascending.
        totals: N_f: samples of each length over all stages.

    Returns:
        Samples by factor.

    Raises:
        ValueError: another stage, or factors and totals that do not go together.
    """
    check_number("stage", stage, low=1, high=STAGES, integer=True)
    if len(factors) != len(totals) or not factors or list(factors) != sorted(set(factors)) or factors[0] < 1:
        raise ValueError("a curriculum needs ascending factors of at least 1, and a total for each of them.")
    if min(totals) <= 0:
        raise ValueError("every total of a curriculum must be above 0.")
    largest = 2 / 3 * totals[0]
    found = {}
    for factor, total in zip(factors, totals, strict=True):
        first = min(float(total), max(1.0, math.floor(largest / 4 ** math.log2(factor / factors[0]) + 1e-9)))
        found[factor] = round(first * _ratio(first, total) ** (stage - 1))
    return found


def lengths(chunks: int) -> tuple[int, ...]:
    """The factors up to a context of so many chunks: powers of two, and the whole context."""
    powers = [2**power for power in range(chunks.bit_length()) if 2**power < chunks]
    return (*powers, chunks)


def schedule(factors: Sequence[int], samples: int, seed: int) -> list[int]:
    """A run's samples by length, in the order in which they are learned from; shuffled within a stage.

    Args:
        factors: ascending.
        samples: of the run; the paper's shares of the lengths are kept.
        seed: of the order within stages.
    """
    shares = [TOTALS[min(len(TOTALS) - 1, int(math.log2(factor)))] for factor in factors]
    totals = [max(1.0, samples * share / sum(shares)) for share in shares]
    order: list[int] = []
    rng = random.Random(seed)
    for stage in range(1, STAGES + 1):
        own = [factor for factor, count in curriculum(stage, factors, totals).items() for _ in range(count)]
        rng.shuffle(own)
        order += own
    return (order + [factors[-1]] * samples)[:samples]  # rounding leaves a few too many or too few


def _ratio(first: float, total: float) -> float:
    """rho with first * (1 + rho + ... + rho^8) = total."""
    low, high = 0.0, max(1.0, total / first) + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if first * sum(middle**power for power in range(STAGES)) < total:
            low = middle
        else:
            high = middle
    return (low + high) / 2
