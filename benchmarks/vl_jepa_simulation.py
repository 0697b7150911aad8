"""Selective decoding on streams whose meanings are known: 720 windows, 60 segments, 30 directions in R^64.

A window is the direction of its segment plus noise sigma N(0, 1) / 8 in each dimension; decoding finds the nearest of
the 30 directions. An annotation is a segment's middle and its direction, and is right where the decoding that is
nearest in time found it. A window lasts half a second: 6 minutes, the length of the published clips.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from szilard.representation.vl_jepa.selective import SelectiveDecoder, matched

WINDOWS, SEGMENTS, DIRECTIONS, WIDTH, FPS = 720, 60, 30, 64, 2.0
SIGMAS, REPETITIONS = (0.5, 3.0), 20
RATES = (0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0)
ONLINE = {0.5: (0.25, 0.5, 1.0, 2.0), 3.0: (4.0, 8.0, 12.0)}  # Ward costs; noise alone costs about sigma^2
ONLINE_SMOOTH = {0.5: (0.25, 0.5, 1.0), 3.0: (2.0, 4.0, 6.0)}
COSINES = {0.5: (0.2, 0.3, 0.5, 0.7), 3.0: (-0.1, 0.0, 0.1)}
SMOOTH = 5  # windows


@dataclass(frozen=True)
class Stream:
    """Embeddings [T, 64], directions [30, 64], and (time in windows, direction) of each segment."""

    embeddings: Tensor
    directions: Tensor
    annotations: list[tuple[float, str]]


def stream(sigma: float, seed: int) -> Stream:
    """Segments of exponential lengths; one much shorter than a window shows in none, and nobody can find it."""
    chance = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(DIRECTIONS, WIDTH, generator=chance), dim=1)
    shares = torch.empty(SEGMENTS).exponential_(generator=chance)
    ends = shares.cumsum(0) / shares.sum() * WINDOWS
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    which = torch.randint(DIRECTIONS, (SEGMENTS,), generator=chance)
    seen = which[torch.searchsorted(ends, torch.arange(WINDOWS) + 0.5).clamp(max=SEGMENTS - 1)]  # in a window's middle
    noise = torch.randn(WINDOWS, WIDTH, generator=chance) * sigma / WIDTH**0.5
    middles = (starts + ends) / 2 - 0.5  # a window's time is its number, in its middle
    said = [(float(time), str(int(one))) for time, one in zip(middles, which, strict=True)]
    return Stream(directions[seen] + noise, directions, said)


class Nearest:
    """Decodes an embedding to the number of the nearest direction."""

    def __init__(self, directions: Tensor) -> None:
        self.directions = directions

    def decode(self, embeddings: Tensor) -> list[str]:
        """[n, 64] -> n numbers."""
        return [str(place) for place in (embeddings @ self.directions.T).argmax(1).tolist()]


def simulate(sigma: float, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy of annotations and decodings per second, mean and spread over streams, of every rule and setting."""
    streams = [stream(sigma, seed) for seed in seeds]
    found = []
    plans: list[tuple[str, dict[str, Any]]] = [
        *((name, {"rate": rate, "fps": FPS}) for rate in RATES for name in ("uniform", "ward", "random")),
        *(("ward", {"rate": rate, "fps": FPS, "smooth": SMOOTH}) for rate in RATES[:-1]),
        *(("online", {"threshold": cost, "window": 4}) for cost in ONLINE[sigma]),
        *(("online", {"threshold": cost, "window": 4, "smooth": SMOOTH}) for cost in ONLINE_SMOOTH[sigma]),
        *(("cosine", {"threshold": cosine}) for cosine in COSINES[sigma]),
    ]
    for method, settings in plans:
        for pool in (False, True):
            right, rates = [], []
            for seed, one in zip(seeds, streams, strict=True):
                own = settings | ({"seed": seed} if method == "random" else {})
                decoded = SelectiveDecoder(Nearest(one.directions), method, pool, own).run(one.embeddings)
                pairs = matched(one.annotations, decoded)
                right.append(statistics.fmean(text == said for text, said in pairs))
                rates.append(len(decoded) * FPS / WINDOWS)
            row = {"method": method, "pool": pool} | {key: value for key, value in settings.items() if key != "fps"}
            row |= {"hertz": round(statistics.fmean(rates), 3), "right": round(statistics.fmean(right), 4)}
            found.append(row | {"spread": round(statistics.stdev(right), 4)})
    return found
