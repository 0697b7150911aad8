"""Which words stay: one decision on scores and token counts, for every compressor that drops words.

    budget      the words with the highest scores, ties by position, while their tokens fit
    percentile  score > the (100 - 100 rate + 1)-th percentile of the scores, each repeated once per token
    threshold   score >= a fixed number
    corpus      one threshold for a whole batch, so that the batch together meets the budget

Source: Pan et al. 2024 (LLMLingua-2), arXiv 2403.12968, section 4.2 ("budget") and appendix L ("corpus", there "dynamic
compression ratio"); "percentile" is what its released code does in the place of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szilard.options import check_choice

SELECTIONS = ("budget", "percentile", "threshold", "corpus")
Mask = NDArray[np.bool_]
_RECOUNTS = 8  # a text's tokens differ from the sum of its words' by a few, so that two or three recounts are usual


def select(
    scores: Any,
    tokens: Any,
    mode: str = "budget",
    *,
    budget: int | None = None,
    rate: float | None = None,
    threshold: float | None = None,
    forced: Any = None,
    fill: bool = False,
) -> Mask:
    """The words of one text that stay.

    Args:
        scores: [words], how much each is worth keeping.
        tokens: [words], what each costs, at least 0.
        mode: "budget", "percentile" or "threshold"; see the module. "corpus" is `select_corpus`.
        budget: of "budget", in tokens.
        rate: of "percentile", the share of tokens to keep, in [0, 1]; 1 keeps all words.
        threshold: of "threshold".
        forced: [words], words that stay whatever they score. They spend the budget first; where they exceed it exactly
            they stay. In "percentile" they count as words of probability 1, as in the released code.
        fill: of "budget": pass over a word that does not fit and go on with those after it. Without, a smaller budget
            always keeps a subset of what a larger one keeps.

    Returns:
        bool [words].

    Raises:
        ValueError: shapes that differ, NaN scores, or a mode without its number.
    """
    check_choice("mode", mode, SELECTIONS[:3])
    values, costs, always = _checked(scores, tokens, forced)
    if mode == "threshold":
        return (values >= _given("threshold", threshold, mode)) | always
    if mode == "percentile":
        return _by_percentile(values, costs, always, _given("rate", rate, mode))
    order = _order(values, always)
    return _first_that_fit(order, costs, always, int(_given("budget", budget, mode)), fill)


def select_within(
    scores: Any,
    tokens: Any,
    budget: int,
    count: Callable[[Mask], int],
    *,
    forced: Any = None,
    fill: bool = False,
) -> Mask:
    """As "budget", where the tokens of the finished text count, and not the sum over its words.

    Tokens change where words go: neighbours merge, a separator appears. So the text is counted, and the sum over words
    that is aimed at is moved by what was too much or left over, until nothing changes.

    Args:
        count: tokens of the text that a mask leaves.

    Returns:
        bool [words]; `count` of it is at most `budget`, unless forced words alone exceed it.
    """
    values, costs, always = _checked(scores, tokens, forced)
    order = _order(values, always)
    best = always.copy()
    size = -1  # of the best text that fits
    aim, over = budget, int(costs.sum()) + budget + 1  # `over`: an aim known to be too high
    for _ in range(_RECOUNTS):
        mask = _first_that_fit(order, costs, always, aim, fill)
        found = count(mask)
        if found <= budget:
            if found > size:
                best, size = mask, found
            step = min(aim + budget - found, over - 1)
        else:
            if bool((mask == always).all()):
                return mask
            over = min(over, aim)
            step = max(aim - (found - budget), 0)
        if step == aim:
            break
        aim = step
    if size >= 0:
        return best
    while aim > 0:  # nothing fitted so far: a tokenizer under which sums say little; halving ends at the forced words
        aim //= 2
        mask = _first_that_fit(order, costs, always, aim, fill)
        if count(mask) <= budget:
            return mask
    return best


def select_corpus(
    scores: Sequence[Any],
    tokens: Sequence[Any],
    budget: int,
    *,
    forced: Sequence[Any] | None = None,
    fill: bool = False,
    count: Callable[[list[Mask]], int] | None = None,
) -> list[Mask]:
    """One threshold for all texts: the words with the highest scores of the whole batch, ties by position.

    Args:
        scores, tokens, forced: per text, as `select`.
        budget: tokens of all texts together.
        count: tokens of the finished texts together; None: sums over words.

    Returns:
        bool [words], per text.
    """
    cuts = np.cumsum([len(row) for row in scores])[:-1]
    values, costs = _joined(scores), _joined(tokens)
    always = None if forced is None else _joined(forced).astype(bool)
    if count is None:
        mask = select(values, costs, budget=budget, forced=always, fill=fill)
    else:
        counted = count
        mask = select_within(
            values, costs, budget, lambda whole: counted(np.split(whole, cuts)), forced=always, fill=fill
        )
    return np.split(mask, cuts)


def _joined(rows: Sequence[Any]) -> NDArray[Any]:
    return np.concatenate([np.asarray(row) for row in rows]) if len(rows) else np.zeros(0)


def _by_percentile(scores: NDArray[Any], tokens: NDArray[Any], forced: Mask, rate: float) -> Mask:
    reduce_rate = max(0.0, 1 - rate)
    if reduce_rate <= 0 or not len(scores):
        return np.ones(len(scores), dtype=bool)
    scores = np.where(forced, 1.0, scores)
    weighted = np.repeat(scores, tokens)
    if not len(weighted):
        return forced.copy()
    # int() cuts a rounding error of the subtraction, as the released code does: rate 0.33 is the 67th or 68th.
    # Paper: rate 0 is beyond the 100th percentile; here: it is the 100th, because nothing is above it either way.
    threshold = np.percentile(weighted, min(int(100 * reduce_rate + 1), 100))
    return (scores > threshold) | ((threshold == 1.0) & (scores == 1.0)) | forced


def _order(scores: NDArray[Any], forced: Mask) -> NDArray[np.intp]:
    """Words from best to worst, without the forced ones."""
    order = np.argsort(-scores, kind="stable")
    return order[~forced[order]]


def _first_that_fit(order: NDArray[np.intp], tokens: NDArray[Any], forced: Mask, budget: int, fill: bool) -> Mask:
    kept = forced.copy()
    left = budget - int(tokens[forced].sum())
    while left > 0 and len(order):
        spent = np.cumsum(tokens[order])
        fitting = int(np.searchsorted(spent, left, side="right"))
        kept[order[:fitting]] = True
        if not fill or fitting == len(order):
            break
        left -= int(spent[fitting - 1]) if fitting else 0
        order = order[fitting:]
        order = order[tokens[order] <= left]  # at least the one that did not fit goes
    return kept


def _checked(scores: Any, tokens: Any, forced: Any) -> tuple[NDArray[Any], NDArray[Any], Mask]:
    values, costs = np.asarray(scores, dtype=np.float64), np.asarray(tokens, dtype=np.int64)
    always = np.zeros(len(values), dtype=bool) if forced is None else np.asarray(forced, dtype=bool)
    if values.ndim != 1 or costs.shape != values.shape or always.shape != values.shape:
        raise ValueError(
            f"scores, tokens and forced have one entry per word, not shapes {list(values.shape)}, {list(costs.shape)} "
            f"and {list(always.shape)}."
        )
    if np.isnan(values).any():
        raise ValueError("a word's score is NaN: the model that scores gives no numbers.")
    if (costs < 0).any():
        raise ValueError("a word costs at least 0 tokens.")
    return values, costs, always


def _given(name: str, value: float | None, mode: str) -> float:
    if value is None:
        raise ValueError(f"mode={mode!r} needs {name}.")
    return value
