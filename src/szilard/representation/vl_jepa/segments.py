"""Cutting a stream of embeddings where its meaning changes.

Chen et al., "VL-JEPA: Joint Embedding Predictive Architecture for Vision-language", arXiv:2512.10942.

A stream e_1 .. e_T, one embedding per sliding window, is cut into contiguous segments [start, end):

    ward      agglomerative clustering by Ward's cost  |a||b| / (|a|+|b|) ||mean_a - mean_b||^2,  in which only
              neighbours merge; needs the whole stream (the paper's benchmark)
    online    a new segment begins when Ward's cost between the running segment and the last w windows stays above a
              threshold for w windows; sees no future but those w (inferred: the paper gives no rule)
    uniform   segments of one length
    random    boundaries drawn by chance
    cosine    a new segment begins where the cosine to the segment's first window falls below a threshold; causal (ours)

Smoothing averages w neighbouring windows first: with noisy embeddings it matters more than where the cuts are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from szilard.options import check_choice, check_number

METHODS = ("ward", "online", "uniform", "random", "cosine")


@dataclass(frozen=True)
class Segment:
    """Windows start, start + 1, ..., end - 1."""

    start: int
    end: int

    @property
    def middle(self) -> int:
        """Its window in the middle, rounded down: (start + end - 1) / 2."""
        return (self.start + self.end - 1) // 2

    def __len__(self) -> int:
        return self.end - self.start


def segment_stream(
    embeddings: Tensor,
    *,
    n_segments: int | None = None,
    rate: float | None = None,
    fps: float | None = None,
    method: str = "ward",
    threshold: float | None = None,
    window: int = 4,
    smooth: int = 1,
    seed: int = 0,
) -> list[Segment]:
    """Cut a stream into segments.

    Args:
        embeddings: [T, D], a row per window.
        n_segments: how many, for ward, uniform and random; T or more cut everywhere.
        rate: instead of `n_segments`, segments per second, with `fps`.
        fps: windows per second.
        method: one of `METHODS`.
        threshold: of Ward's cost (online), or a cosine (cosine).
        window: w of online, in windows.
        smooth: windows averaged before cutting, an odd number; 1: none.
        seed: of random.

    Returns:
        Contiguous segments that cover all windows, in order.

    Raises:
        ValueError: no stream, numbers that are none, a setting that the method needs and that is missing, or one that
            it does not know.
    """
    check_choice("method", method, METHODS)
    length = _checked(embeddings)
    check_number("smooth", smooth, low=1, integer=True)
    if smooth % 2 == 0:
        raise ValueError(f"smooth must be odd, so that an average lies at its window, not {smooth}.")
    if method in ("online", "cosine"):
        if n_segments is not None or rate is not None:
            raise ValueError(f"method {method!r} finds how many segments there are: give threshold, no number or rate.")
        if threshold is None:
            raise ValueError(f"method {method!r} needs a threshold: " + _THRESHOLD[method])
        low, high = (0.0, math.inf) if method == "online" else (-1.0, 1.0)
        check_number("threshold", threshold, low=low, high=high)
    else:
        if threshold is not None:
            raise ValueError(f"method {method!r} has no threshold: give n_segments, or rate and fps.")
        n_segments = _number_of_segments(length, n_segments, rate, fps)
    stream = smoothed(embeddings.detach().float().cpu(), smooth)
    if method == "online":
        segmenter = OnlineSegmenter(float(threshold or 0.0), window)
        return [*segmenter.segments(stream), segmenter.finish()]
    if method == "cosine":
        return _by_cosine(stream, float(threshold or 0.0))
    assert n_segments is not None
    if n_segments >= length:
        return [Segment(place, place + 1) for place in range(length)]
    if method == "ward":
        return _by_ward(stream, n_segments)
    if method == "uniform":
        return _between([round(place * length / n_segments) for place in range(n_segments)], length)
    drawn = torch.randperm(length - 1, generator=torch.Generator().manual_seed(seed))[: n_segments - 1] + 1
    return _between([0, *sorted(drawn.tolist())], length)


def smoothed(stream: Tensor, width: int) -> Tensor:
    """[T, D] averaged over `width` neighbouring windows, fewer at the ends."""
    if width == 1 or len(stream) == 1:
        return stream
    padding = width // 2
    columns = stream.T.unsqueeze(0)
    return functional.avg_pool1d(columns, width, 1, padding, count_include_pad=False)[0].T


def merging_costs(embeddings: Tensor) -> Tensor:
    """[T - 1] Ward's distances sqrt(2 cost) of all merges of neighbours, in their order.

    Without the chain they would never fall. With it they may, a little: two windows that are alike cannot merge before
    what lies between them has.
    """
    return torch.from_numpy(_tree(embeddings.detach().float().cpu())[1]).float()


class OnlineSegmenter:
    """Cuts a stream while it comes; keeps the running mean and the last windows only.

    Args:
        threshold: Ward's cost, in squared units of the embeddings, above which the last windows are something else.
        window: w: so many windows are compared, and so many times in a row they must differ.
    """

    def __init__(self, threshold: float, window: int = 4) -> None:
        check_number("threshold", threshold, low=0)
        check_number("window", window, low=1, integer=True)
        self.threshold, self.window = threshold, window
        self.start = self.seen = self._above = 0
        self._mean: Tensor | None = None  # of the segment without the tail
        self._count = 0
        self._tail: list[Tensor] = []  # windows that may belong to the next segment

    def segments(self, stream: Iterable[Tensor]) -> list[Segment]:
        """Those that end in a part of a stream, [t, D]."""
        return [found for row in stream if (found := self.push(row)) is not None]

    def push(self, embedding: Tensor) -> Segment | None:
        """Take the next window, [D]; the segment that has ended by it, if one has."""
        self._tail.append(embedding)
        self.seen += 1
        if len(self._tail) > self.window and not self._above:
            self._absorb(self._tail.pop(0))
        if self._mean is None or len(self._tail) < self.window:
            return None
        last = torch.stack(self._tail[-self.window :])
        share = self._count * self.window / (self._count + self.window)
        far = share * float((self._mean - last.mean(0)).square().sum()) > self.threshold
        if not far:
            self._above = 0
            while len(self._tail) > self.window:
                self._absorb(self._tail.pop(0))
            return None
        self._above += 1
        return self._cut() if self._above >= self.window else None

    def finish(self) -> Segment:
        """The last segment. The segmenter begins anew."""
        last = Segment(self.start, self.seen)
        self.__init__(self.threshold, self.window)  # type: ignore[misc]
        return last

    def _absorb(self, embedding: Tensor) -> None:
        self._count += 1
        mean = torch.zeros_like(embedding) if self._mean is None else self._mean
        self._mean = mean + (embedding - mean) / self._count

    def _cut(self) -> Segment:
        """End the segment where the two sides are each most alike: at the largest Ward cost."""
        assert self._mean is not None
        tail = torch.stack(self._tail)
        before = torch.arange(len(tail))  # windows of the tail that stay in the old segment
        sums = torch.cat([torch.zeros_like(tail[:1]), tail.cumsum(0)])[:-1]
        left_count = (self._count + before).unsqueeze(1)
        right_count = (len(tail) - before).unsqueeze(1)
        left = (self._mean * self._count + sums) / left_count
        right = (tail.sum(0) - sums) / right_count
        cost = (left_count * right_count / (left_count + right_count)).squeeze(1) * (left - right).square().sum(1)
        kept = int(cost.argmax())
        boundary = self.seen - len(tail) + kept
        ended = Segment(self.start, boundary)
        self.start, self._above, self._mean, self._count = boundary, 0, None, 0
        self._tail = self._tail[kept:]
        while len(self._tail) > self.window:
            self._absorb(self._tail.pop(0))
        return ended


_THRESHOLD = {
    "online": "Ward's cost at a change, about window / 2 times the squared distance of two meanings.",
    "cosine": "a cosine between -1 and 1 below which a window means something else.",
}


def _checked(embeddings: Tensor) -> int:
    if not isinstance(embeddings, Tensor) or embeddings.dim() != 2 or not embeddings.numel():
        shape = list(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise ValueError(f"a stream must be a tensor [windows, dimensions] with at least one window, not {shape}.")
    if not bool(torch.isfinite(embeddings).all()):
        bad = int((~torch.isfinite(embeddings)).any(1).int().argmax())
        raise ValueError(f"the stream must be finite; window {bad} is not.")
    return len(embeddings)


def _number_of_segments(length: int, n_segments: int | None, rate: float | None, fps: float | None) -> int:
    if (n_segments is None) == (rate is None):
        raise ValueError("give n_segments, or rate (segments per second) with fps (windows per second).")
    if n_segments is not None:
        check_number("n_segments", n_segments, low=1, integer=True)
        return n_segments
    if fps is None:
        raise ValueError("rate needs fps, the windows per second.")
    check_number("rate", rate, low=1e-9)
    check_number("fps", fps, low=1e-9)
    assert rate is not None
    return max(1, round(length / fps * rate))


def _by_ward(stream: Tensor, n_segments: int) -> list[Segment]:
    """Undo the last n - 1 merges of the tree."""
    children, _ = _tree(stream)
    length = len(stream)
    first = list(range(length))  # the first window of every node
    for left, right in children:
        first.append(min(first[left], first[right]))
    kept = {2 * length - 2}
    for node in range(2 * length - 2, 2 * length - 1 - n_segments, -1):
        kept.remove(node)
        kept.update(int(child) for child in children[node - length])
    return _between(sorted(first[node] for node in kept), length)


def _tree(stream: Tensor):  # type: ignore[no-untyped-def]
    """Merges of neighbours by Ward's cost: (children [T - 1, 2], distances [T - 1])."""
    try:
        from scipy.sparse import diags
        from sklearn.cluster import ward_tree
    except ImportError:
        raise ImportError("method 'ward' needs the package scikit-learn: pip install 'szilard[eval]'") from None
    length = len(stream)
    chain = diags([1.0, 1.0], [-1, 1], shape=(length, length))
    children, _, _, _, distances = ward_tree(stream.double().numpy(), connectivity=chain, return_distance=True)
    return children, distances


def _by_cosine(stream: Tensor, threshold: float) -> list[Segment]:
    unit = functional.normalize(stream, dim=1)
    starts, place = [0], 1
    while place < len(unit):
        below = (unit[place:] @ unit[starts[-1]] < threshold).nonzero()
        if not len(below):
            break
        starts.append(place + int(below[0]))
        place = starts[-1] + 1
    return _between(starts, len(stream))


def _between(starts: list[int], length: int) -> list[Segment]:
    return [Segment(start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]
