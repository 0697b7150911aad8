"""What a model predicts of given texts: loss, entropy, mass of its first choices, and which these are.

All teacher-forced: position t of a row [length] predicts token t + 1, so that a row gives length - 1 predictions.
Entropies are of logits in float32, nats. Paper's code: -sum p log(p + 1e-9); here: without the 1e-9, which half
precision drops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from szilard.information.logits import entropy, measure

_TEMPERATURES = (0.02, 50.0)  # between which one is looked for
_GRID = 17  # temperatures at once
_LARGEST = 709.0  # of which exp is still a float
TOP = (1, 3, 5)  # first choices whose mass is summed


@dataclass(frozen=True)
class Predictions:
    """Means over all predictions of some texts.

    Attributes:
        loss: of the true tokens, nats.
        perplexity: exp(loss).
        entropy: nats.
        top_1, top_3, top_5: summed probability of so many first choices.
    """

    loss: float
    perplexity: float
    entropy: float
    top_1: float
    top_3: float
    top_5: float


@torch.no_grad()
def held_out_predictions(model: Any, ids: Tensor, *, batch_size: int = 8) -> Predictions:
    """Loss, entropy and top-k mass on texts of one length, int64 [texts, length].

    Raises:
        ValueError: no texts, or of fewer than two tokens.
    """
    sums, count = torch.zeros(2 + len(TOP), dtype=torch.float64), 0
    for rows, logits in _predicted(model, ids, batch_size):
        found = measure(logits, probabilities=True)
        assert found.probabilities is not None
        right = logits.gather(-1, rows[:, 1:, None]).squeeze(-1)
        most = min(max(TOP), logits.shape[-1])
        mass = found.probabilities.topk(most, dim=-1).values.cumsum(-1)  # [batch, length - 1, 5]
        values = [found.log_normaliser - right, found.entropy, *(mass[..., min(k, most) - 1] for k in TOP)]
        sums += torch.stack([value.double().sum() for value in values]).cpu()
        count += right.numel()
    loss, mean_entropy, *masses = (sums / count).tolist()
    return Predictions(loss, math.exp(loss) if loss < _LARGEST else math.inf, mean_entropy, *masses)


def predictive_entropy(model: Any, ids: Tensor, *, batch_size: int = 8) -> float:
    """Mean entropy of a model's predictions of texts, int64 [texts, length], in nats.

    Raises:
        ValueError: no texts, or of fewer than two tokens.
    """
    return held_out_predictions(model, ids, batch_size=batch_size).entropy


@torch.no_grad()
def top_tokens(model: Any, ids: Tensor, *, batch_size: int = 8) -> Tensor:
    """A model's first choice at every position: int64 [texts, length] -> int64 [texts, length - 1], on the CPU."""
    return torch.cat([logits.argmax(-1).cpu() for _, logits in _predicted(model, ids, batch_size)])


@torch.no_grad()
def ranks_of(model: Any, ids: Tensor, tokens: Tensor, *, batch_size: int = 8) -> Tensor:
    """How many tokens a model likes better than given ones at every position; 0: its first choice.

    Args:
        ids: texts, int64 [texts, length].
        tokens: one for each position, int64 [texts, length - 1].

    Raises:
        ValueError: the shapes do not fit.
    """
    if tuple(tokens.shape) != (len(ids), ids.shape[-1] - 1):
        raise ValueError(
            f"tokens has the shape {list(tokens.shape)}, but texts of shape {list(ids.shape)} have predictions "
            f"{[len(ids), ids.shape[-1] - 1]}."
        )
    parts, start = [], 0
    for rows, logits in _predicted(model, ids, batch_size):
        chosen = tokens[start : start + len(rows), :, None].to(logits.device)
        parts.append((logits > logits.gather(-1, chosen)).sum(-1).cpu())
        start += len(rows)
    return torch.cat(parts)


def top1_agreement(model_a: Any, model_b: Any, ids: Tensor, *, batch_size: int = 8) -> float:
    """Share of positions of texts, int64 [texts, length], at which two models have the same first choice.

    Raises:
        ValueError: no texts, or of fewer than two tokens.
    """
    first = top_tokens(model_a, ids, batch_size=batch_size)
    return float((first == top_tokens(model_b, ids, batch_size=batch_size)).double().mean())


def entropy_matched_temperature(model: Any, ids: Tensor, target_entropy: float, *, batch_size: int = 8) -> float:
    """The temperature at which a model's predictions have a given mean entropy.

    The baseline that tells sharpening from re-ranking: at this temperature a model is as sure as another, with its own
    order of tokens. Entropy rises with the temperature; it is taken at 17 temperatures between 0.02 and 50, then at 17
    between the two around the target, so the model runs twice over the texts.

    Args:
        ids: texts, int64 [texts, length].
        target_entropy: nats.

    Raises:
        ValueError: no temperature between 0.02 and 50 gives it.
    """
    grid = _temperatures(*_TEMPERATURES)
    found = _entropies(model, ids, grid, batch_size)
    if not float(found[0]) <= target_entropy <= float(found[-1]):
        raise ValueError(
            f"no temperature between {_TEMPERATURES[0]:g} and {_TEMPERATURES[1]:g} gives a mean entropy of "
            f"{target_entropy:g} nats: this model reaches {float(found[0]):.3g} to {float(found[-1]):.3g}."
        )
    above = max(1, int((found < target_entropy).sum()))
    grid = _temperatures(float(grid[above - 1]), float(grid[above]))
    found = _entropies(model, ids, grid, batch_size)
    above = min(max(1, int((found < target_entropy).sum())), _GRID - 1)
    low, high = found[above - 1 : above + 1].tolist()
    share = 0.0 if high <= low else min(max((target_entropy - low) / (high - low), 0.0), 1.0)
    return float(grid[above - 1] ** (1 - share) * grid[above] ** share)


def _temperatures(low: float, high: float) -> Tensor:
    """Evenly spaced on a logarithmic scale, float64 [17]."""
    return torch.logspace(math.log10(low), math.log10(high), _GRID, dtype=torch.float64)


@torch.no_grad()
def _entropies(model: Any, ids: Tensor, temperatures: Tensor, batch_size: int) -> Tensor:
    """Mean entropy at each temperature, float64 [temperatures]."""
    sums, count = torch.zeros(len(temperatures), dtype=torch.float64), 0
    for _, logits in _predicted(model, ids, batch_size):
        means = [entropy(logits / temperature).double().sum() for temperature in temperatures.tolist()]
        sums += torch.stack(means).cpu()
        count += logits[..., 0].numel()
    return sums / count


def _predicted(model: Any, ids: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of texts with the logits that predict their next tokens: [batch, length], [batch, length - 1, vocab]."""
    if ids.dim() != 2 or not len(ids) or ids.shape[1] < 2:
        raise ValueError(f"texts are rows of at least 2 token ids, [texts, length], not of shape {list(ids.shape)}.")
    was_training = model.training
    model.eval()
    try:
        for rows in ids.split(batch_size):
            rows = rows.to(model.device)
            logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
            yield rows, logits if logits.dtype == torch.float64 else logits.float()
    finally:
        model.train(was_training)
