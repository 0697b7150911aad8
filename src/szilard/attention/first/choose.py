"""Which layers to skip, given how much each of them wants to be run."""

from __future__ import annotations

from collections.abc import Sequence


def most_skippable(layers: int, protected: set[int], max_consecutive: int | None) -> int:
    """The most layers that may be skipped: none of the protected ones, and no more than so many in a row."""
    count = run = 0
    for layer in range(layers):
        run = 0 if layer in protected or run == max_consecutive else run + 1
        count += run > 0
    return count


def below(scores: Sequence[float], threshold: float, protected: set[int], max_consecutive: int | None) -> list[bool]:
    """Which layers are kept when those of at most a threshold are skipped, the lowest first.

    Args:
        scores: of every layer, its keep-probability.
        threshold: tau.
        protected: layers that are always kept.
        max_consecutive: layers in a row that may be skipped; None: any number.
    """
    keep = [True] * len(scores)
    for layer in sorted(range(len(scores)), key=lambda one: scores[one]):
        if layer in protected or scores[layer] > threshold:
            continue
        keep[layer] = False
        if max_consecutive is not None and _longest(keep) > max_consecutive:
            keep[layer] = True
    return keep


def lowest(scores: Sequence[float], count: int, protected: set[int], max_consecutive: int | None) -> list[bool]:
    """Which layers are kept when exactly `count` are skipped and the sum of their scores is least; of equals the
    earlier ones are skipped. Arguments as of `below`; `count` is at most `most_skippable`."""
    if max_consecutive is None:
        order = sorted((layer for layer in range(len(scores)) if layer not in protected), key=lambda one: scores[one])
        skipped = set(order[:count])
        return [layer not in skipped for layer in range(len(scores))]
    # best[(skipped so far, skipped in a row)] = (sum, layers), over the layers so far
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (0.0, ())}
    for layer, score in enumerate(scores):
        then: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (done, run), (total, chosen) in best.items():
            ways = [((done, 0), (total, chosen))]
            if layer not in protected and run < max_consecutive and done < count:
                ways.append(((done + 1, run + 1), (total + score, (*chosen, layer))))
            for state, found in ways:
                if state not in then or found < then[state]:
                    then[state] = found
        best = then
    _, chosen = min(found for (done, _), found in best.items() if done == count)
    return [layer not in chosen for layer in range(len(scores))]


def _longest(keep: list[bool]) -> int:
    """Of the runs of skipped layers."""
    most = run = 0
    for kept in keep:
        run = 0 if kept else run + 1
        most = max(most, run)
    return most
