"""The information surplus of a state about tokens beyond the next one, exactly, for finite Markov chains.

Zhang, "A Markov Categorical Framework for Language Modeling", arXiv:2507.19247, equations 4.1 and 4.2. For a chain of
an order m over V symbols, H_t the last m symbols before W_t:

    I(H_t; W_t .. W_{t+K-1}) = I(H_t; W_t) + Surplus_K,    Surplus_K = I(H_t; W_{t+1} .. W_{t+K-1} | W_t)

0 for a chain of order 1, whatever K: what comes after the next token depends on it alone. Nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.information.arrays import as_floats
from szilard.information.categorical_entropy import checked_probabilities
from szilard.options import check_number

MOST_STATES, MOST_CELLS = 4096, 20_000_000


def stationary_distribution(transition: Any) -> Tensor:
    """Of the last m symbols, [V, ..., V] with m axes, float64.

    Args:
        transition: P(next | m symbols before, the oldest first), [V, ..., V] with m + 1 axes.

    Raises:
        ValueError: another shape, no distributions, too many states, or a chain with several stationary distributions.
    """
    p = _checked(transition)
    order, size = p.dim() - 1, p.shape[0]
    states = size**order
    if states > MOST_STATES:
        raise ValueError(
            f"{size} symbols to the power of the order {order} are {states} states: at most {MOST_STATES}."
        )
    step = torch.zeros(states, states, dtype=torch.float64)
    flat = p.reshape(states, size)
    following = (torch.arange(states).unsqueeze(1) % size ** (order - 1)) * size + torch.arange(size)
    step.scatter_add_(1, following, flat)
    system = torch.cat([step.T - torch.eye(states, dtype=torch.float64), torch.ones(1, states, dtype=torch.float64)])
    if int(torch.linalg.matrix_rank(system, rtol=1e-9)) < states:
        raise ValueError("the chain falls apart, so it has several stationary distributions: give one that mixes.")
    wanted = torch.zeros(states + 1, dtype=torch.float64)
    wanted[-1] = 1
    return torch.linalg.lstsq(system, wanted).solution.clamp(min=0).view([size] * order)


def entropy_rate(transition: Any) -> float:
    """H(W_t | the m symbols before), nats per symbol: what the best model of the chain has as its loss."""
    p = _checked(transition)
    return float((stationary_distribution(transition).unsqueeze(-1) * -torch.xlogy(p, p)).sum())


def next_token_information(transition: Any) -> float:
    """I(H_t; W_t), nats."""
    joint = _joint(_checked(transition), 1)
    return _entropy(joint.sum(-1)) + _entropy(joint.flatten(0, -2).sum(0)) - _entropy(joint)


def markov_surplus(transition: Any, horizon: int) -> float:
    """Surplus_K for H_t = the m symbols before W_t.

    Args:
        transition: as in `stationary_distribution`.
        horizon: K, at least 1; 1 gives 0.

    Returns:
        Nats, at least 0, never falling in K.

    Raises:
        ValueError: as there, or a horizon whose table would be too large.
    """
    check_number("horizon", horizon, low=1, integer=True)
    p = _checked(transition)
    order = p.dim() - 1
    if p.shape[0] ** (order + horizon) > MOST_CELLS:
        raise ValueError(
            f"the joint table of {order + horizon} symbols out of {p.shape[0]} is too large (at most {MOST_CELLS:,} "
            "cells): lower the horizon."
        )
    joint = _joint(p, horizon)  # [V] * (order + horizon)
    state, later = tuple(range(order)), tuple(range(order + 1, order + horizon))
    # I(H; later | W_t) = H(H, W_t) + H(W_t, later) - H(H, W_t, later) - H(W_t)
    known = _entropy(joint.sum(later) if later else joint)
    return max(0.0, known + _entropy(joint.sum(state)) - _entropy(joint) - _entropy(joint.sum((*state, *later))))


def sample_chain(transition: Any, sequences: int, length: int, *, seed: int = 0) -> Tensor:
    """Draw [sequences, length] symbols from the stationary chain, int64."""
    for name, value in (("sequences", sequences), ("length", length)):
        check_number(name, value, low=1, integer=True)
    check_number("seed", seed, low=0, integer=True)
    p = _checked(transition)
    order, size = p.dim() - 1, p.shape[0]
    chance = torch.Generator().manual_seed(seed)
    start = torch.multinomial(
        stationary_distribution(transition).flatten(), sequences, replacement=True, generator=chance
    )
    symbols = [start // size ** (order - 1 - at) % size for at in range(order)]
    flat, state = p.reshape(-1, size), start
    while len(symbols) < length:
        drawn = torch.multinomial(flat[state], 1, generator=chance).squeeze(1)
        symbols.append(drawn)
        state = state % size ** (order - 1) * size + drawn
    return torch.stack(symbols[:length], 1)


def _joint(p: Tensor, horizon: int) -> Tensor:
    order, size = p.dim() - 1, p.shape[0]
    joint = stationary_distribution(p)
    for at in range(horizon):
        joint = joint.unsqueeze(-1) * p.view([1] * at + [size] * (order + 1))
    return joint


def _entropy(table: Tensor) -> float:
    return float(-torch.xlogy(table, table).sum())


def _checked(transition: Any) -> Tensor:
    p = as_floats("transition", transition)
    if p.dim() < 2 or len(set(p.shape)) != 1:
        raise ValueError(f"a chain of order m must be [V] * (m + 1) with m of at least 1, not {list(p.shape)}.")
    p = checked_probabilities(p)
    return p / p.sum(-1, keepdim=True)
