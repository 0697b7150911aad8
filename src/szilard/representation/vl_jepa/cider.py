"""CIDEr-D: how much of what people say about a picture a caption says, rare words counting more.

Vedantam, Zitnick, Parikh, "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015. For n = 1 .. 4, a caption
is a vector of its n-grams' counts times log(N / document frequency); the score is ten times the mean cosine over n and
references, in which a count above the reference's is clipped and a difference l in length costs exp(-l^2 / 2 sigma^2).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from szilard.options import check_number

_WORD = re.compile(r"[\w']+")
Grams = Counter[tuple[str, ...]]


def cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, n: int = 4, sigma: float = 6.0
) -> tuple[float, list[float]]:
    """The mean and the score of each caption, between 0 and 10.

    Args:
        candidates: a caption each.
        references: what people say about each. Document frequencies are counted over these, so one picture alone, or
            pictures that are all described alike, score 0.
        n: longest n-grams.
        sigma: of the penalty of length, in words.

    Raises:
        ValueError: no candidate, as many references as candidates are not given, or a candidate without any.
    """
    check_number("n", n, low=1, integer=True)
    check_number("sigma", sigma, low=1e-6)
    if not candidates or len(candidates) != len(references):
        raise ValueError(
            f"there are {len(candidates)} candidates and references of {len(references)}: give at least one of each."
        )
    if not all(references):
        raise ValueError(f"candidate {next(i for i, own in enumerate(references) if not own)} has no reference.")
    counted = [[_grams(text, n) for text in own] for own in references]
    frequency: Grams = Counter()
    for own in counted:
        frequency.update({gram for grams in own for gram in grams})
    log_count = math.log(len(references))

    def weighed(grams: Grams) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(n)]
        for gram, count in grams.items():
            vectors[len(gram) - 1][gram] = count * (log_count - math.log(max(1, frequency[gram])))
        norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
        return vectors, norms, sum(count for gram, count in grams.items() if len(gram) == 1)

    scores = []
    for text, own in zip(candidates, counted, strict=True):
        hypothesis, lengths, words = weighed(_grams(text, n))
        total = 0.0
        for reference in map(weighed, own):
            penalty = math.exp(-((words - reference[2]) ** 2) / (2 * sigma**2))
            for order in range(n):
                there = reference[0][order]
                dot = sum(min(value, there[g]) * there[g] for g, value in hypothesis[order].items() if g in there)
                norm = lengths[order] * reference[1][order]
                total += penalty * (dot / norm if norm else 0.0)
        scores.append(10 * total / (n * len(own)))
    return sum(scores) / len(scores), scores


def _grams(text: str, n: int) -> Grams:
    words = _WORD.findall(text.lower())
    return Counter(tuple(words[at : at + size]) for size in range(1, n + 1) for at in range(len(words) - size + 1))
