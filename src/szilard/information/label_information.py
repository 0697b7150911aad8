"""How much one variable tells about a class: of numbers by nearest neighbours, of labels by the table of counts. Nats.

Ross, "Mutual Information between Discrete and Continuous Data Sets", PLoS ONE 2014. In one dimension neighbours stand
beside each other in sorted order, so that no tree is needed.
"""

from __future__ import annotations

import numpy as np

from szilard.information.sample_tables import Array, as_columns, class_labels, number_table, sample_table
from szilard.options import check_number


def neighbor_information(column: Array, labels: Array, neighbors: int = 10) -> float:
    """I(z; s) in nats of a continuous z and a discrete s by nearest neighbours (Ross 2014), at least 0.

    psi(N) + mean psi(k_n) - mean psi(N_y) - mean psi(m_n): N_y samples are of the class of sample n, its k_n-th nearest
    of them is at a distance r_n, and m_n samples of any class, itself included, are nearer than that.

    Args:
        column: [N] numbers.
        labels: [N] classes; those that occur once are left out.
        neighbors: k; min(k, N_y - 1) for small classes.

    Raises:
        ValueError: shapes that do not match, no numbers, or no class that occurs twice.
    """
    check_number("neighbors", neighbors, low=1, integer=True)
    z, y = number_table("column", as_columns(column)), as_columns(labels)
    if z.shape[1] != 1 or y.ndim != 2 or y.shape[1] != 1:
        raise ValueError(f"column and labels must be [N] each, not {list(z.shape)} and {list(y.shape)}.")
    if len(z) != len(y):
        raise ValueError(f"column has {len(z)} samples and labels {len(y)}: give both of the same samples.")
    classes = class_labels(sample_table("labels", y)[:, 0])
    if np.bincount(classes).max() < 2:
        raise ValueError("no class occurs twice: neighbours of a class need more samples than classes.")
    return ross(z[:, 0], classes, neighbors)


def ross(z: np.ndarray, labels: np.ndarray, neighbors: int) -> float:
    """`neighbor_information` of checked columns."""
    from scipy.special import digamma

    sizes = np.bincount(labels)
    if (sizes == 1).any():
        kept = sizes[labels] > 1
        z, labels = z[kept], labels[kept]
        sizes = np.bincount(labels)
    count = len(z)
    order = np.lexsort((z, labels))
    by_class, of_class = z[order], sizes[labels[order]]
    neighbors = min(neighbors, int(sizes.max()) - 1)
    least = np.minimum(neighbors, of_class - 1)
    start = np.concatenate([[0], np.cumsum(sizes)])[labels[order]]
    # The k nearest of a class and the sample itself stand in a row: try the k + 1 rows that hold it.
    place = np.arange(count)
    radius = np.full(count, np.inf)
    for before in range(neighbors + 1):
        first, last = place - before, place - before + least
        inside = (before <= least) & (first >= start) & (last < start + of_class)
        reach = np.maximum(by_class - by_class[first.clip(0, count - 1)], by_class[last.clip(0, count - 1)] - by_class)
        radius = np.where(inside, np.minimum(radius, reach), radius)
    radius = np.nextafter(radius, 0)
    ordered = np.sort(z)
    low = np.searchsorted(ordered, by_class - radius, side="left")
    high = np.searchsorted(ordered, by_class + radius, side="right")
    low, high = _within(ordered, by_class, radius, low, high)
    found = digamma(count) + (digamma(least) - digamma(of_class) - digamma(high - low)).mean()
    return max(0.0, float(found))


def _within(
    ordered: np.ndarray, middle: np.ndarray, radius: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of |ordered - middle| <= radius: a sum rounds otherwise than the distance that is compared."""
    last = len(ordered) - 1
    while (wrong := (middle - ordered[low.clip(max=last)] > radius) & (low < high)).any():
        low = low + wrong
    while (wrong := (ordered[(high - 1).clip(0)] - middle > radius) & (low < high)).any():
        high = high - wrong
    while (wrong := (low > 0) & (middle - ordered[(low - 1).clip(0)] <= radius)).any():
        low = low - wrong
    while (wrong := (high <= last) & (ordered[high.clip(max=last)] - middle <= radius)).any():
        high = high + wrong
    return low, high


def plug_in(one: np.ndarray, other: np.ndarray) -> float:
    """I in nats of two columns of labels, by their table of counts."""
    pairs = np.unique(one * (int(other.max()) + 1) + other, return_counts=True)[1]  # a table of all may be huge
    return max(0.0, count_entropy(np.bincount(one)) + count_entropy(np.bincount(other)) - count_entropy(pairs))


def count_entropy(counts: np.ndarray) -> float:
    """In nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def binned(column: np.ndarray, bins: int) -> np.ndarray:
    """Labels of a column cut into bins of equal counts."""
    bins = min(bins, len(column))
    edges = np.unique(np.quantile(column, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, column, side="right")
