"""How many vectors a context becomes: of a budget, within what a checkpoint was trained for."""

from __future__ import annotations

import math

from szilard.compression.arc_encoder.groups import Pooling
from szilard.compression.method import Budget


def pooling_of(trained: Pooling, budget: Budget, factor: int | None, length: int, chunk: int | None) -> Pooling:
    """How a context of so many tokens is pooled.

    Args:
        trained: what the checkpoint was trained for.
        budget: a share, a number of vectors, or None.
        factor: without a budget: tokens per vector; None: as trained.
        length: of the context, in the encoder's tokens.
        chunk: tokens of a piece; None: it is read at once.

    Raises:
        ValueError: more tokens per vector than the checkpoint was trained for, or more vectors than tokens.
    """
    if budget is None:
        return trained if factor is None else smaller(trained, factor)
    if isinstance(budget, float):
        return smaller(trained, math.ceil(1 / budget - 1e-9))
    if budget > length:
        raise ValueError(
            f"a budget of {budget} vectors is larger than the context, which has {length} encoder tokens: give a "
            "smaller one, or use the context as it is."
        )
    cut, needed = pieces(length, chunk), -(-length // budget)
    chosen = smaller(trained, needed)
    if len(cut) == 1 and len(trained.factors) == 1:
        return Pooling(trained.factors, budget)  # exactly so many
    while sum(chosen.count(piece) for piece in cut) > budget:  # groups end with their piece
        needed += 1
        chosen = smaller(trained, needed)
    return chosen


def smaller(trained: Pooling, factor: int) -> Pooling:
    """A pooling by `factor` (or, of several layers, by the next smaller that they can), within what was trained.

    Raises:
        ValueError: a larger factor than was trained, or a checkpoint with a fixed number of vectors.
    """
    if trained.vectors is not None:
        raise ValueError(
            f"this checkpoint gives {trained.vectors} vectors, whatever the length: leave budget and pooling_factor "
            "out."
        )
    if factor > trained.total:
        raise ValueError(
            f"{factor} tokens per vector are more than this checkpoint was trained for, {trained.total}, and larger "
            f"factors do not generalise: give a budget of at least {1 / trained.total:.4g}, or train it further."
        )
    if len(trained.factors) == 1:
        return Pooling((factor,))
    factors, total = [1] * len(trained.factors), 1
    for index in reversed(range(len(factors))):
        if total * trained.factors[index] <= factor:
            factors[index] = trained.factors[index]
            total *= factors[index]
    return Pooling(tuple(factors))


def pieces(length: int, chunk: int | None) -> list[int]:
    """Lengths of the pieces in which a context is read."""
    whole, rest = divmod(length, chunk or length)
    return [chunk or length] * whole + ([rest] if rest else [])
