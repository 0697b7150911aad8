"""What follows from the points: which pair to take within a budget, and which choice matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from szilard.analysis.agentic_mi.report import Point
from szilard.options import check_number


@dataclass(frozen=True)
class Recommendation:
    """A point, and why it.

    Attributes:
        point: the chosen pair; None where nothing fits the budgets.
        reason: a sentence.
    """

    point: Point | None
    reason: str


def recommend(
    points: Sequence[Point],
    *,
    tokens: float | None = None,
    flops: float | None = None,
    cost: float | None = None,
) -> Recommendation:
    """The best compressor and predictor within budgets (ours).

    With predictors: the least distortion; among pairs within one standard error of it, the one of fewest FLOPs.
    Without: the most bits; among compressors with 95 % of them, the shortest texts.

    Args:
        points: measured on the same contexts, all with a predictor or all without.
        tokens: at most so many through the predictor per question; without a predictor, in a compression.
        flops: at most so many per question, compressor and predictor together.
        cost: at most so much money per question.

    Raises:
        ValueError: no points, some with and some without a predictor, or estimates with different ceilings.
    """
    if not points:
        raise ValueError("there are no points to choose from.")
    answered = points[0].distortion is not None
    if any((one.distortion is not None) != answered for one in points):
        raise ValueError("some points have a distortion and some have none: choose among points of one kind.")
    if len({round(one.ceiling_bits, 9) for one in points}) > 1:
        raise ValueError("these points were measured against different numbers of contexts and cannot be compared.")
    for what, limit in (("tokens", tokens), ("flops", flops), ("cost", cost)):
        check_number(what, limit, low=0, optional=True)

    def spent(one: Point) -> float:
        return one.length if one.tokens is None else one.tokens

    within = [
        one
        for one in points
        if (tokens is None or spent(one) <= tokens)
        and (flops is None or one.flops <= flops)
        and (cost is None or (one.cost is not None and one.cost <= cost))
    ]
    if not within:
        least = min(points, key=spent)
        return Recommendation(
            None, f"nothing fits; the fewest tokens take {least.pair}: {spent(least):.0f}, and {least.flops:.3g} FLOPs."
        )
    if answered:
        best = min(within, key=lambda one: (one.distortion, one.flops))
        error = best.error if best.error is not None and math.isfinite(best.error) else 0.0
        near = [one for one in within if (one.distortion or 0.0) <= (best.distortion or 0.0) + error]
        chosen = min(near, key=lambda one: (one.flops, one.distortion))
        reason = (
            f"{chosen.pair}: distortion {chosen.distortion:.3f} with {chosen.bits:.2f} bits in {chosen.length:.0f} "
        )
        reason += f"tokens, {chosen.flops:.3g} FLOPs a question"
        if chosen is not best:
            reason += (
                f"; {best.pair} reaches {best.distortion:.3f}, which is within its standard error ({error:.3f}), for "
                f"{best.flops:.3g}"
            )
    else:
        best = max(within, key=lambda one: (one.bits, -one.length))
        near = [one for one in within if one.bits >= 0.95 * best.bits]
        chosen = min(near, key=lambda one: (one.length, -one.bits))
        reason = f"{chosen.pair}: {chosen.bits:.2f} of {chosen.ceiling_bits:.2f} bits in {chosen.length:.0f} tokens"
        if chosen is not best:
            reason += f"; {best.pair} has {best.bits:.2f} bits in {best.length:.0f}"
        reason += "; no predictor was measured, and bits are not usefulness"
    missed = [one for one in points if one not in within and answered and (one.distortion or 0) < chosen.distortion]  # type: ignore[operator]
    if missed:
        over = min(missed, key=lambda one: one.distortion or 0.0)
        reason += f"; beyond the budget {over.pair} reaches {over.distortion:.3f}"
    return Recommendation(chosen, reason + ".")


def partial_correlation(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> float:
    """Pearson correlation of x and y after the linear effect of `given` is taken from both: accuracy and information
    at equal length (ours: the paper does not separate the two). NaN where one of them has no variance left.

    Raises:
        ValueError: different lengths, or fewer than 4 numbers.
    """
    a, b, z = (np.asarray(values, dtype=float) for values in (x, y, given))
    if not len(a) == len(b) == len(z) or len(a) < 4:
        raise ValueError("a partial correlation takes three lists of equally many numbers, at least 4.")
    design = np.stack([np.ones_like(z), z], axis=1)
    rests = []
    for values in (a, b):
        rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        if np.linalg.norm(rest) <= 1e-9 * max(float(np.linalg.norm(values - values.mean())), 1e-300):
            return math.nan
        rests.append(rest / np.linalg.norm(rest))
    return float(rests[0] @ rests[1])


def choice_importance(choices: Sequence[Mapping[str, Any]], correct: Sequence[float]) -> dict[str, float]:
    """How much each choice tells about whether an answer is right: nats of log loss per answer that a logistic
    regression loses without it (ours; the paper fits one on the same factors).

    Args:
        choices: per answer, values by factor: "compressor family", "compressor size", "predictor size", ... Texts are
            categories, numbers enter as they are (take logarithms of sizes).
        correct: per answer, 1 or 0.

    Returns:
        Factors by importance, greatest first.

    Raises:
        ValueError: other counts, factors that differ between answers, answers that are all right or all wrong, or
            scikit-learn is missing (it comes with the extra `eval`).
    """
    try:
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import log_loss
    except ModuleNotFoundError:
        raise ValueError("the importance of choices needs scikit-learn: pip install 'szilard[eval]'") from None
    names = list(choices[0]) if choices else []
    right = np.asarray(correct) >= 0.5
    if len(choices) != len(right) or not names or any(set(choice) != set(names) for choice in choices):
        raise ValueError("every answer needs the same factors, and a 1 or 0.")
    if right.all() or not right.any():
        raise ValueError("the answers are all right or all wrong: nothing depends on the choices.")

    def loss(kept: Sequence[str]) -> float:
        if not kept:
            return float(log_loss(right, np.full(len(right), right.mean())))
        features = DictVectorizer(sparse=False).fit_transform([{name: row[name] for name in kept} for row in choices])
        model = LogisticRegression(C=100.0, max_iter=2000).fit(features, right)
        return float(log_loss(right, model.predict_proba(features)[:, 1]))

    whole = loss(names)
    lost = {name: loss([other for other in names if other != name]) - whole for name in names}
    return dict(sorted(lost.items(), key=lambda item: -item[1]))
