"""Learning AdaDec's threshold: at which entropy does a model's first choice stop being the right one?

He et al. 2025, arXiv 2506.08980. Once per model, without training it:

1. Feed prompt + reference solution; at every solution position note the entropy H and the rank of the true token.
2. y = 1 if the rank is 1. Undersample the larger class of the training part to 1 : 1 and fit the logistic regression
   P(y = 1 | H) = sigmoid(b0 + b1 H) with an L2 penalty on b1 (C = 1).
3. On the held-out part, as unbalanced as it is, take the cut p* of 0.01, ..., 0.99 with the best accuracy.
4. tau = (ln(p* / (1 - p*)) - b0) / b1.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from szilard.information import entropy

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

_HELD_OUT = 0.2
_NEWTON_STEPS = 100
_PIECE = 256  # positions scored at once


@dataclass(frozen=True)
class ThresholdFit:
    """A learned threshold and what it came from.

    Attributes:
        threshold: tau, nats.
        coefficient: b1.
        intercept: b0.
        cut: p*.
        accuracy: of the cut on the held-out positions.
        positions: scored positions.
        first: share of the positions at which the true token had rank 1.
        spearman: rank correlation of entropy and rank.
        above: statistics of the positions with H >= tau: their share, and P(rank 1), P(rank <= 3) above and below.
        model: name of the model.
        fingerprint: of its weights, in their precision.
        records: entropy and rank of every position (not saved).
    """

    threshold: float
    coefficient: float
    intercept: float
    cut: float
    accuracy: float
    positions: int
    first: float
    spearman: float
    above: dict[str, float]
    model: str = ""
    fingerprint: str = ""
    records: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False, compare=False)

    def belongs_to(self, engine: Engine) -> bool:
        """Whether it was learned on these weights (or, where they were not noted, on a model of this name)."""
        if self.fingerprint:
            return self.fingerprint == engine.fingerprint
        return not self.model or Path(self.model).name == Path(engine.name).name

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        path = Path(path)
        values = {name: value for name, value in asdict(self).items() if name != "records"}
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps({"method": "adadec"} | values, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> ThresholdFit:
        """Read a saved fit.

        Raises:
            ValueError: no such file, or another kind of file.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("method") != "adadec":
                raise KeyError("method")
            return cls(**values)
        except OSError:
            raise ValueError(
                f"there is no threshold file {str(path)!r}: write it with `szilard train adadec`, or give a number."
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{str(path)!r} is no threshold file of `szilard train adadec`.") from None


def fit_threshold(
    engine: Engine,
    examples: Iterable[tuple[Any, str]],
    *,
    seed: int = 42,
    raw: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ThresholdFit:
    """Learn tau for a model.

    Args:
        engine: the model, as it will be used (quantisation and prompt style change the threshold).
        examples: (prompt, reference solution) pairs that are not used for evaluation.
        seed: of the split and the undersampling.
        raw: prompts are continued as they are; False: put through the chat template.
        progress: called with the number of examples done.

    Raises:
        ValueError: no example, or too few positions of either class to fit.
    """
    entropies: list[np.ndarray] = []
    ranks: list[np.ndarray] = []
    for number, (prompt, solution) in enumerate(examples):
        found = score_reference(engine, prompt, solution, raw=raw)
        entropies.append(found[0])
        ranks.append(found[1])
        if progress is not None:
            progress(number + 1)
    if not entropies:
        raise ValueError("a threshold is learned from examples (prompt, solution): there are none.")
    fit = fit_records(np.concatenate(entropies), np.concatenate(ranks), seed=seed, model=engine.name)
    return replace(fit, fingerprint=engine.fingerprint)


@torch.no_grad()
def score_reference(engine: Engine, prompt: Any, solution: str, *, raw: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Entropy (nats) and rank of the true token (1 = likeliest) at every position of a reference solution."""
    start = engine.encode([prompt], raw=raw)["input_ids"][0]
    true = torch.tensor(engine.tokenizer.encode(solution, add_special_tokens=False), dtype=torch.long)
    if engine.context_window is not None:
        true = true[: max(0, engine.context_window - len(start) - 1)]
    if not len(true):
        return np.zeros(0), np.zeros(0, np.int64)
    state = engine.state(start, max_new_tokens=len(true))
    entropies, ranks = [], []
    logits = state.prefill()[:, None]  # [1, 1, vocab]: predicts the first token
    done = 0
    while True:
        aim = true[done : done + logits.shape[1]]
        rows = logits[0, : len(aim)].float()
        entropies.append(entropy(rows))
        ranks.append(1 + (rows > rows.gather(1, aim.to(rows.device)[:, None])).sum(1))
        done += len(aim)
        if done >= len(true):
            break
        fed = true[done - 1 : done - 1 + _PIECE][: len(true) - done]
        logits = state.feed(fed[None].to(state.device))
    state.close()
    return torch.cat(entropies).double().cpu().numpy(), torch.cat(ranks).cpu().numpy()


def fit_records(entropies: np.ndarray, ranks: np.ndarray, *, seed: int = 42, model: str = "") -> ThresholdFit:
    """Steps 2 to 4 on recorded positions.

    Raises:
        ValueError: too few positions of either class, or an entropy that does not tell them apart.
    """
    right = ranks == 1
    random = np.random.default_rng(seed)
    order = random.permutation(len(right))
    held_out, training = np.split(order, [max(1, round(_HELD_OUT * len(order)))])
    ones, zeros = training[right[training]], training[~right[training]]
    smaller = min(len(ones), len(zeros))
    if smaller < 2:
        raise ValueError(
            f"a threshold cannot be learned from {len(right)} positions, {int(right.sum())} of them with the true "
            "token first: give more examples."
        )
    balanced = np.concatenate(
        [random.choice(ones, smaller, replace=False), random.choice(zeros, smaller, replace=False)]
    )
    intercept, coefficient = logistic_regression(entropies[balanced], right[balanced])
    if coefficient >= 0:
        raise ValueError("in these examples entropy does not tell right first choices from wrong ones: give more.")
    probability = 1 / (1 + np.exp(-(intercept + coefficient * entropies[held_out])))
    cuts = np.arange(1, 100) / 100
    accuracy = np.array([((probability >= cut) == right[held_out]).mean() for cut in cuts])
    best = int(accuracy.argmax())
    cut = float(cuts[best])
    threshold = threshold_of(cut, intercept, coefficient)
    if threshold <= 0:
        raise ValueError(
            f"in these examples no entropy is low enough to trust the first choice (the threshold would be "
            f"{threshold:.3f} nats): give more, or other ones."
        )
    above = entropies >= threshold
    return ThresholdFit(
        threshold=threshold,
        coefficient=coefficient,
        intercept=intercept,
        cut=cut,
        accuracy=float(accuracy[best]),
        positions=len(right),
        first=float(right.mean()),
        spearman=_spearman(entropies, ranks),
        above={
            "share": float(above.mean()),
            "first_above": _mean(right[above]),
            "first_below": _mean(right[~above]),
            "first_three_above": _mean(ranks[above] <= 3),
        },
        model=model,
        records=(entropies, ranks),
    )


def threshold_of(cut: float, intercept: float, coefficient: float) -> float:
    """The entropy at which the regression's probability is `cut`."""
    return (math.log(cut / (1 - cut)) - intercept) / coefficient


def logistic_regression(x: np.ndarray, y: np.ndarray, *, strength: float = 1.0) -> tuple[float, float]:
    """Intercept and coefficient of one-feature logistic regression with the penalty b1^2 / (2 C) (Newton's method)."""
    features = np.stack([np.ones_like(x), x], axis=1)
    penalty = np.diag([0.0, 1.0 / strength])
    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (probability - y) + penalty @ weights
        curvature = (features * (probability * (1 - probability))[:, None]).T @ features + penalty
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0]), float(weights[1])


def _spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Rank correlation, ties at their mean rank."""
    return float(np.corrcoef(_mean_ranks(np.asarray(a)), _mean_ranks(np.asarray(b)))[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts - 1) / 2)[inverse]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
