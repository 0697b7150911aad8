"""How far can a compressed text be trusted? Measures of LLMLingua-2's pairs, and what is left out for them.

Pan et al. 2024 (arXiv 2403.12968), section 3.3. With O the original's words, C the compressed text's, by lemma:

    variation rate  VR = (1/|C|) sum_{w in C} 1[w not in O]       words that the teacher made up
    hitting rate    HR = (1/|O|) sum_{w in C} 1[w in O]
    matching rate   MR = (1/|O|) sum_{w in O} label(w)
    alignment gap   AG = HR - MR                                  words that were there and found no place

Every label uses up a hit, so AG >= 0. First the worst pairs by VR go, then of the rest the worst by AG.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from szilard.compression.llmlingua2.annotation import Annotation
from szilard.options import check_number

PAPER = (0.05, 0.10)  # shares left out, by VR and by AG
RELEASED = (0.10, 0.10)  # 90th percentiles, twice


def variation_rate(annotation: Annotation) -> float:
    """VR; 1 where nothing is left, as in the released code."""
    if not annotation.compressed_words:
        return 1.0
    return (annotation.compressed_words - annotation.found) / annotation.compressed_words


def hitting_rate(annotation: Annotation) -> float:
    """HR."""
    return annotation.found / len(annotation.labels)


def matching_rate(annotation: Annotation) -> float:
    """MR."""
    return annotation.kept / len(annotation.labels)


def alignment_gap(annotation: Annotation) -> float:
    """AG."""
    return (annotation.found - annotation.kept) / len(annotation.labels)


def filter_pairs(
    annotations: Sequence[Annotation], *, variation_share: float = PAPER[0], gap_share: float = PAPER[1]
) -> list[Annotation]:
    """What the worst by VR, and then the worst by AG, are left out of.

    Args:
        annotations: all.
        variation_share: of all pairs, those that go for their VR; see `PAPER` and `RELEASED`.
        gap_share: of the rest, those that go for their AG.

    # Paper: the code drops everything from the percentile on, so perfect pairs, too, where most are perfect; here: a
    # pair with a VR, or AG, of 0 stays.
    """
    check_number("variation_share", variation_share, low=0, high=1)
    check_number("gap_share", gap_share, low=0, high=1)
    return _without_worst(_without_worst(annotations, variation_rate, variation_share), alignment_gap, gap_share)


def _without_worst(
    annotations: Sequence[Annotation], measure: Callable[[Annotation], float], share: float
) -> list[Annotation]:
    if not share or not annotations:
        return list(annotations)
    values = np.array([measure(annotation) for annotation in annotations])
    worst = (values >= np.quantile(values, 1 - share)) & (values > 0)
    return [annotation for annotation, bad in zip(annotations, worst, strict=True) if not bad]
