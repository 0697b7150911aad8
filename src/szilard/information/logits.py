"""How uncertain is a next-token distribution? Measures of logits rows.

For logits z and p = softmax(z) over a vocabulary of V tokens:

    Z  = sum_v exp(z_v)                              log-normaliser  ln Z
    H  = - sum_v p_v ln p_v                          entropy
    Vh = sum_v p_v (ln p_v + H)^2                    varentropy: the variance of the surprise -ln p_v

Conventions that hold for every function here:

- **Units**: nats. Shapes: the vocabulary is the last axis, any leading axes are rows.
- **Precision**: bfloat16 and float16 are accumulated, and returned, in float32; float64 stays float64.
- **-inf** logits are allowed and mean "impossible"; p ln p is 0 there.
- **NaN out, no error** for a row without a distribution: one that holds NaN or +inf, or nothing but -inf.
- Inputs are never written to, and no gradient flows: these are instruments, not losses.

Source: ours; the definitions are textbook (Cover and Thomas, Elements of Information Theory, chapter 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Gaps ln p_v - ln p_max below this are cut to it before they are multiplied by p_v, so that a -inf gap gives 0 and not
# 0 * inf. exp(-1e4) is exactly 0 in float32 and float64, so that nothing else changes.
_LARGEST_GAP = -1e4

# Rows are worked through in chunks of about this many elements. It bounds the working memory (4 MiB a temporary on a
# CPU, 256 MiB elsewhere), and on a CPU it is several times faster than one pass over a large batch, whose temporaries
# the system allocator hands back and page-faults in anew. Not smaller: softmax threads over the rows of a chunk.
_CHUNK_ELEMENTS_CPU = 2**20
_CHUNK_ELEMENTS = 2**26


class Measures(NamedTuple):
    """What `measure` reads from one batch of rows; every field but `probabilities` has the rows' shape `[...]`."""

    entropy: Tensor
    """H, nats, in [0, ln V]."""
    varentropy: Tensor
    """Variance of -ln p under p, nats squared."""
    max_probability: Tensor
    """Probability of the most likely token."""
    log_normaliser: Tensor
    """ln sum exp(z), nats: ln p = logits - log_normaliser."""
    top_k_mass: Tensor | None = None
    """Summed probability of the `top_k` most likely tokens; None unless `top_k` was given."""
    probabilities: Tensor | None = None
    """softmax(logits), `[..., V]`, float32 (float64 for float64 logits); None unless asked for."""


@torch.no_grad()
def measure(logits: Tensor, *, top_k: int | None = None, probabilities: bool = False) -> Measures:
    """Entropy, varentropy, largest probability and log-normaliser of each row, from one softmax.

    Args:
        logits: `[..., V]`, any floating dtype.
        top_k: also sum the probability of this many most likely tokens, 1 <= top_k <= V.
        probabilities: also return the softmax itself, which was computed anyway.

    Raises:
        TypeError: `logits` is not a floating tensor.
        ValueError: `logits` has no vocabulary axis, or `top_k` is out of range.
    """
    _check_logits(logits)
    if top_k is not None:
        _check_top_k(top_k, logits.shape[-1])

    parts = [_measure_rows(rows, top_k, probabilities) for rows in _row_chunks(logits)]
    fields: list[Tensor | None] = []
    for values in zip(*parts, strict=True):
        fields.append(None if values[0] is None else _join(values, logits.shape[:-1]))
    return Measures(*fields)  # type: ignore[arg-type]


@torch.no_grad()
def entropy(logits: Tensor) -> Tensor:
    """H = - sum p ln p of each row, nats: `[..., V] -> [...]`.

    Raises:
        TypeError: `logits` is not a floating tensor.
        ValueError: `logits` has no vocabulary axis.
    """
    _check_logits(logits)
    return _join([_entropy_of_rows(rows) for rows in _row_chunks(logits)], logits.shape[:-1])


def varentropy(logits: Tensor) -> Tensor:
    """sum p (ln p + H)^2 of each row, nats squared: `[..., V] -> [...]`. 0 for a uniform and for a one-hot row.

    Raises: as `measure`.
    """
    return measure(logits).varentropy


@torch.no_grad()
def top_k_mass(logits: Tensor, k: int) -> Tensor:
    """Probability that the `k` most likely tokens hold together: `[..., V] -> [...]`, in (0, 1].

    Raises:
        TypeError: `logits` is not a floating tensor.
        ValueError: `logits` has no vocabulary axis, or not 1 <= k <= V.
    """
    _check_logits(logits)
    _check_top_k(k, logits.shape[-1])
    p = torch.softmax(_widen(logits), dim=-1)
    return _top_k_sum(p, k) / p.sum(-1)


@torch.no_grad()
def entropy_of_probabilities(p: Tensor) -> Tensor:
    """H = - sum p ln p of each row of probabilities, nats: `[..., V] -> [...]`.

    For distributions that do not come from logits (attention rows, mixtures, spectra). `p` is taken as it is: entries
    in [0, 1], not renormalised. `measure(logits).entropy` is faster and more exact where logits exist.

    Raises:
        TypeError: `p` is not a floating tensor.
        ValueError: `p` has no last axis.
    """
    _check_logits(p, name="p")
    smallest = torch.finfo(_accumulator(p.dtype)).tiny
    parts = []
    for rows in _row_chunks(p):
        wide = _widen(rows)
        parts.append(0.0 - wide.clamp(min=smallest).log_().mul_(wide).sum(-1))  # "0.0 -": one-hot gives 0 and not -0
    return _join(parts, p.shape[:-1])


@torch.no_grad()
def kl_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) = sum p (ln p - ln q) of each pair of rows, nats: `[..., V], [..., V] -> [...]`.

    inf where q gives no mass to a token to which p gives some (a p below the smallest float counts as none).
    Leading axes broadcast.

    Raises:
        TypeError: an argument is not a floating tensor.
        ValueError: the vocabularies differ in size.
    """
    _check_pair(p_logits, q_logits)
    return _kl_of_log_probabilities(_log_probabilities(p_logits), _log_probabilities(q_logits))


@torch.no_grad()
def js_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, nats, in [0, ln 2].

    Shapes `[..., V], [..., V] -> [...]`, leading axes broadcast. Symmetric; ln 2 for disjoint supports, never inf.

    Raises: as `kl_divergence`.
    """
    _check_pair(p_logits, q_logits)
    log_p, log_q = _log_probabilities(p_logits), _log_probabilities(q_logits)
    log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2.0))
    divergence = (_kl_of_log_probabilities(log_p, log_m) + _kl_of_log_probabilities(log_q, log_m)) / 2
    return divergence.clamp_(max=math.log(2.0))


@torch.no_grad()
def perplexity(logits: Tensor, targets: Tensor, *, mask: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    """exp of the mean of -ln p(target) over all counted positions: `[..., V], [...] -> []`.

    `logits[..., t, :]` must already be the row that predicts `targets[..., t]` (nothing is shifted here).

    Args:
        logits: `[..., V]`, any floating dtype; worked through in chunks, so no full float32 copy is made.
        targets: `[...]` token ids.
        mask: `[...]`, true or non-zero where a position counts; None counts all.
        ignore_index: positions with this target never count.

    Returns:
        A scalar. inf if a counted target has no mass; NaN if nothing counts or a counted row has no distribution.

    Raises:
        TypeError: `logits` is not a floating or `targets` not an integer tensor.
        ValueError: the shapes do not fit, or a counted target is not in [0, V).
    """
    _check_logits(logits)
    vocab_size = logits.shape[-1]
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets must hold integer token ids, got dtype {targets.dtype}.")
    for name, tensor in (("targets", targets), ("mask", mask)):
        if tensor is not None and tensor.shape != logits.shape[:-1]:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, but logits of shape {list(logits.shape)} "
                f"need {list(logits.shape[:-1])}: one entry per row."
            )
    counted = targets != ignore_index
    if mask is not None:
        counted = counted & mask.bool()
    if ((targets < 0) | (targets >= vocab_size)).logical_and_(counted).any():
        raise ValueError(
            f"targets holds ids outside [0, {vocab_size}); exclude such positions with mask "
            f"or set them to ignore_index={ignore_index}."
        )

    total = torch.zeros((), dtype=_accumulator(logits.dtype), device=logits.device)
    start = 0
    flat_targets = targets.reshape(-1, 1).long().clamp(0, vocab_size - 1)  # ids that do not count only have to be legal
    ignored = ~counted.reshape(-1)
    for rows in _row_chunks(logits):
        part = slice(start, start + rows.shape[0])
        wide = _widen(rows)  # [chunk, V]
        surprise = torch.logsumexp(wide, dim=-1) - wide.gather(-1, flat_targets[part]).squeeze(-1)
        total += surprise.masked_fill_(ignored[part], 0.0).sum()
        start = part.stop
    return torch.exp(total / counted.sum())


def _measure_rows(rows: Tensor, top_k: int | None, probabilities: bool) -> Measures:
    """`measure` for one chunk `[rows, V]`."""
    largest, gaps, weights, largest_weight = _gaps_and_weights(rows)
    total = weights.sum(-1)  # [rows]
    log_normaliser = torch.log(total / largest_weight)  # of the gaps; [rows]
    mean_gap = (weights * gaps).sum(-1) / total  # [rows]
    return Measures(
        entropy=log_normaliser - mean_gap,  # not negative: gaps <= 0 and total >= largest_weight
        varentropy=gaps.sub_(mean_gap.unsqueeze(-1)).square_().mul_(weights).sum(-1) / total,
        max_probability=largest_weight / total,
        log_normaliser=log_normaliser + largest,
        top_k_mass=None if top_k is None else _top_k_sum(weights, top_k) / total,
        probabilities=weights.div_(total.unsqueeze(-1)) if probabilities else None,
    )


def _entropy_of_rows(rows: Tensor) -> Tensor:
    """`measure(...).entropy` for one chunk `[rows, V]`, without the passes that only the other fields need."""
    _, gaps, weights, largest_weight = _gaps_and_weights(rows)
    total = weights.sum(-1)
    return torch.log(total / largest_weight) - gaps.mul_(weights).sum(-1) / total


def _row_chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    """`[..., V]` as views `[rows, V]` of at most a chunk's elements each (never less than one row)."""
    width = tensor.shape[-1]
    elements = _CHUNK_ELEMENTS_CPU if tensor.device.type == "cpu" else _CHUNK_ELEMENTS
    return tensor.reshape(-1, width).split(max(1, elements // width))


def _join(parts: Sequence[Tensor], rows_shape: torch.Size) -> Tensor:
    """Chunks `[rows, ...]` put together again as `[*rows_shape, ...]`."""
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return whole.reshape(rows_shape + whole.shape[1:])


def _gaps_and_weights(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The one expensive pass: exponentials of a chunk `[rows, V]`.

    Returns:
        The largest logit `[rows]`; the gaps z - max z `[rows, V]`, finite unless NaN; weights proportional to
        p `[rows, V]`; the largest weight `[rows]`. All new tensors.

    Working with gaps instead of logits keeps every product p * gap small: huge or strongly shifted logits lose nothing.
    The weights are not trusted to sum to 1: the softmax kernel adds up its normaliser naively, over 50,000 tokens only
    to about 1e-6, which ln p and its square amplify. A careful sum of the weights costs one cheap pass.
    """
    wide = _widen(rows)
    largest = wide.amax(-1, keepdim=True)
    gaps = wide - largest if wide is rows else wide.sub_(largest)
    gaps.clamp_(min=_LARGEST_GAP)
    largest = largest.squeeze(-1)
    if rows.shape[0] == 1:  # softmax threads over rows, exp over elements: twice as fast for a single row
        return largest, gaps, gaps.exp(), torch.ones_like(largest)
    weights = torch.softmax(gaps, dim=-1)
    return largest, gaps, weights, weights.amax(-1)


def _log_probabilities(logits: Tensor) -> Tensor:
    """ln softmax(logits), `[..., V]`, a new tensor; unlike the fused kernel it adds up its normaliser carefully."""
    wide = _widen(logits)
    largest = wide.amax(-1, keepdim=True)
    gaps = wide - largest if wide is logits else wide.sub_(largest)
    return gaps.sub_(gaps.exp().sum(-1, keepdim=True).log_())


def _kl_of_log_probabilities(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum p (ln p - ln q) over the last axis, clipped at 0; overwrites neither argument."""
    p = log_p.exp()
    terms = (log_p - log_q).mul_(p)  # 0 * inf and inf - inf where p is 0 ...
    terms.masked_fill_(p == 0, 0.0)  # ... are 0 by definition; NaN is not == 0 and stays
    return terms.sum(-1).clamp_(min=0.0)


def _top_k_sum(p: Tensor, k: int) -> Tensor:
    return torch.topk(p, k, dim=-1, sorted=False).values.sum(-1)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _widen(tensor: Tensor) -> Tensor:
    """The tensor itself if it is float32 or float64, else a float32 copy."""
    return tensor.to(_accumulator(tensor.dtype))


def _check_logits(logits: Tensor, name: str = "logits") -> None:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        what = f"dtype {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {what}.")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{name} must have a non-empty last axis [..., V], got shape {list(logits.shape)}.")


def _check_pair(p_logits: Tensor, q_logits: Tensor) -> None:
    _check_logits(p_logits, "p_logits")
    _check_logits(q_logits, "q_logits")
    if p_logits.shape[-1] != q_logits.shape[-1]:
        raise ValueError(
            f"p_logits scores {p_logits.shape[-1]} tokens and q_logits {q_logits.shape[-1]}: "
            "compare models with the same vocabulary, or slice both to the common size."
        )


def _check_top_k(k: int, vocab_size: int) -> None:
    if not 1 <= k <= vocab_size:
        raise ValueError(f"top_k must be between 1 and the vocabulary size {vocab_size}, got {k}.")
