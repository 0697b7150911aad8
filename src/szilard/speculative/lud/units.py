"""Lexical units: stretches of a text of which the model is sure, token after token."""

from __future__ import annotations

from collections.abc import Sequence


def lexical_units(
    probabilities: Sequence[float], alpha: float = 0.9, max_length: int | None = None
) -> list[tuple[int, int]]:
    """Maximal runs of tokens whose probability is at least alpha.

    Args:
        probabilities: of each token given those before it.
        alpha: the least probability; above 1: no unit.
        max_length: longer runs are split into units of this many tokens and a rest; None: they stay whole.

    Returns:
        [start, end) of every unit.

    Raises:
        ValueError: a max_length below 1.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, not {max_length}.")
    units, start = [], None
    for place, chance in enumerate([*probabilities, -1.0]):
        if chance >= alpha:
            start = place if start is None else start
        elif start is not None:
            step = max_length or place - start
            units += [(first, min(first + step, place)) for first in range(start, place, step)]
            start = None
    return units
