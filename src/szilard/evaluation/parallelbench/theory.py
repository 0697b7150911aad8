"""What parallel decoding must lose, in bits, and how often an ideal model is right.

Conditional total correlation: C(Y) = sum_i H(y_i) - H(Y). Committing a set S at once from its true marginals costs at
least C(S | what was committed before) in KL divergence, so that steps S_1 .. S_T cost

    L = sum_t E C(S_t | S_<t),      L = 0 for one at a time,      L = C(Y) for all at once.

Joints are probability tables, one axis per position. All in bits (log2). Kang et al. 2025, arXiv 2510.04767, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from szilard.options import check_bool, check_choice, check_number


def total_correlation(joint: Tensor) -> float:
    """C(Y) in bits of a joint distribution [symbols of y_1, ..., symbols of y_n].

    Raises:
        ValueError: not a probability table.
    """
    entropies = _Entropies(joint)
    everything = frozenset(range(joint.dim()))
    return entropies.correlation(everything, frozenset())


def step_bound(joint: Tensor, partition: Sequence[Sequence[int]]) -> float:
    """L in bits: the least KL divergence of decoding the positions of each set of the partition at once, in that order.

    Raises:
        ValueError: not a probability table, or not a partition of its axes.
    """
    entropies = _Entropies(joint)
    flat = [position for step in partition for position in step]
    if sorted(flat) != list(range(joint.dim())) or not all(len(step) for step in partition):
        raise ValueError(
            f"partition must name each of the {joint.dim()} positions once, in non-empty sets, not {partition!r}."
        )
    bits, before = 0.0, frozenset[int]()
    for step in partition:
        bits += entropies.correlation(frozenset(step), before)
        before |= frozenset(step)
    return bits


def best_bound(joint: Tensor, steps: int) -> float:
    """The least `step_bound` of all partitions into so many steps, in bits; never increases with `steps`."""
    return _best(joint, steps)[0]


def best_partition(joint: Tensor, steps: int) -> tuple[tuple[int, ...], ...]:
    """A partition that attains `best_bound`.

    Raises:
        ValueError: not a probability table, or more steps than positions.
    """
    return _best(joint, steps)[1]


def _best(joint: Tensor, steps: int) -> tuple[float, tuple[tuple[int, ...], ...]]:
    """Exhaustive: every set of positions may come next after every other, 3^n sets in all."""
    entropies, n = _Entropies(joint), joint.dim()
    check_number("steps", steps, low=1, high=n, integer=True)

    @cache
    def rest(before: frozenset[int], left: int) -> tuple[float, tuple[tuple[int, ...], ...]]:
        open_ = sorted(set(range(n)) - before)
        if left == 1:
            return entropies.correlation(frozenset(open_), before), (tuple(open_),)
        found = []
        for chosen in range(1, 2 ** len(open_) - 1):
            step = tuple(position for bit, position in enumerate(open_) if chosen >> bit & 1)
            if len(open_) - len(step) >= left - 1:
                bits, after = rest(before | frozenset(step), left - 1)
                found.append((entropies.correlation(frozenset(step), before) + bits, (step, *after)))
        return min(found)

    return rest(frozenset(), steps)


class _Entropies:
    """Entropies of all sets of positions of one joint, in bits."""

    def __init__(self, joint: Tensor) -> None:
        if not isinstance(joint, Tensor) or joint.dim() < 1 or not joint.is_floating_point():
            raise ValueError("joint must be a tensor of probabilities with one axis per position.")
        if not bool((joint >= 0).all()) or abs(float(joint.double().sum()) - 1) > 1e-6:
            raise ValueError("joint must be a probability table: non-negative numbers that sum to 1.")
        self.joint = joint.double()
        self._known: dict[frozenset[int], float] = {frozenset(): 0.0}

    def of(self, positions: frozenset[int]) -> float:
        if positions not in self._known:
            others = [axis for axis in range(self.joint.dim()) if axis not in positions]
            marginal = self.joint.sum(others) if others else self.joint
            self._known[positions] = -float(torch.special.xlogy(marginal, marginal).sum()) / math.log(2)
        return self._known[positions]

    def correlation(self, positions: frozenset[int], before: frozenset[int]) -> float:
        """E C(positions | before)."""
        known = self.of(before)
        apart = sum(self.of(before | {position}) - known for position in positions)
        return apart - (self.of(before | positions) - known)


# ---- the joints of the two free list tasks ----------------------------------------------------------------------


def shuffle_joint(n: int, *, must_differ: bool = False) -> Tensor:
    """The uniform distribution over orders of n items, [n] * n; `must_differ`: all but the given order."""
    _check_shuffle(n, must_differ)
    check_number("n", n, high=8, integer=True)
    joint = torch.zeros([n] * n, dtype=torch.float64)
    for order in permutations(range(n)):
        joint[order] = 1.0
    if must_differ:
        joint[tuple(range(n))] = 0.0
    return joint / joint.sum()


def replace_random_joint(n: int) -> Tensor:
    """One of n places, drawn uniformly, is replaced: [2] * n, of keep (0) and replaced (1)."""
    check_number("n", n, low=1, high=20, integer=True)
    joint = torch.zeros([2] * n, dtype=torch.float64)
    for place in range(n):
        joint[tuple(int(at == place) for at in range(n))] = 1 / n
    return joint


# ---- closed forms -----------------------------------------------------------------------------------------------


def shuffle_total_correlation(n: int, *, must_differ: bool = False) -> float:
    """C of shuffling n items, bits: n log2 n - log2 n!, which grows without bound.

    Args:
        n: items.
        must_differ: the given order does not count as shuffled (C is a little larger; ours).
    """
    _check_shuffle(n, must_differ)
    if not must_differ:
        return n * math.log2(n) - math.log2(math.factorial(n))
    orders, after = math.factorial(n) - 1, math.factorial(n - 1)
    own, other = (after - 1) / orders, after / orders  # of a place to keep its item, to get a certain other one
    entropy = -(own * math.log2(own) if own else 0.0) - (n - 1) * other * math.log2(other)
    return n * entropy - math.log2(orders)


def replace_random_total_correlation(n: int) -> float:
    """C of replacing one of n items, bits: (n - 1) (log2 n - log2(n - 1)), which tends to log2 e."""
    check_number("n", n, low=1, integer=True)
    return (n - 1) * (math.log2(n) - math.log2(n - 1)) if n > 1 else 0.0


def shuffle_step_bound(n: int, k: int) -> float:
    """L of shuffling n items, k at a time, bits: sum_t |S_t| log2(items left) - log2 n!."""
    _check_k(n, k)
    return sum(min(k, left) * math.log2(left) for left in range(n, 0, -k)) - math.log2(math.factorial(n))


def shuffle_accuracy(n: int, k: int) -> float:
    """How often shuffling n items, k at a time, is right: prod over steps of P(left, k) / left^k.

    The same for sampling and, with ties broken at random at each place, for greedy decoding.
    """
    _check_k(n, k)
    return math.prod(math.perm(left, min(k, left)) / left ** min(k, left) for left in range(n, 0, -k))


def replace_random_accuracy(n: int, k: int, temperature: float = 0) -> float:
    """How often replacing one of n items, k places at a time, is right.

    Greedy (0): every place prefers to keep its item while more than two are left, so that all hangs on the last step:
    right if that has one place, half of the time if it has two, and never if it has more. Sampling (1): exactly one
    step replaces, and exactly once; ((n - 1) / n)^(n - 1) with one step. Published for k = n and for greedy k that
    divides n; here by the same argument for all k.
    """
    _check_k(n, k)
    check_choice("temperature", temperature, (0, 1))  # type: ignore[arg-type]
    sizes = [(left, min(k, left)) for left in range(n, 0, -k)]
    if temperature == 0:
        return {1: 1.0, 2: 0.5}.get(sizes[-1][1], 0.0)
    right, not_yet = 0.0, 1.0
    for left, size in sizes:
        keep = 1 - 1 / left
        right += not_yet * size / left * keep ** (size - 1)
        not_yet *= keep**size
    return right


def _check_shuffle(n: int, must_differ: bool) -> None:
    check_bool("must_differ", must_differ)
    check_number("n", n, low=2 if must_differ else 1, integer=True)


def _check_k(n: int, k: int) -> None:
    check_number("n", n, low=1, integer=True)
    check_number("k", k, low=1, high=n, integer=True)
