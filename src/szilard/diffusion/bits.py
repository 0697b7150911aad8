"""From bits to rounds: how much information each round of a run committed, and how many rounds that takes at least.

Fu et al., "From Bits to Rounds: Parallel Decoding with Exploration for Diffusion Language Models", arXiv 2511.21103.
With S_t committed in round t at probabilities p_i, I_t = sum over S_t of -log2 p_i and N = sum_t I_t,

    rounds >= N / max_t I_t    (the formal version is inferred from the abstract's statement).

N is the sample's negative log-likelihood along the path it was decoded, not that of an autoregressive model. Where
dependent tokens were committed together it is more than the sample's information.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from szilard.decoding.trace import Trace
    from szilard.diffusion.state import DenoisingState


def rounds_lower_bound(total_bits: float, budget: float) -> int:
    """Rounds that so many bits take when no round commits more than `budget` of them.

    Raises:
        ValueError: bits without a budget.
    """
    if total_bits < 0 or budget < 0 or (budget == 0 and total_bits > 0):
        raise ValueError(f"{total_bits} bits cannot come in rounds of {budget} bits.")
    return math.ceil(total_bits / budget - 1e-9) if total_bits else 0


def bits_per_round(trace: Trace) -> list[float]:
    """Bits that each round of a row committed, from round 1 on; a round may have committed certain tokens alone: 0.

    Args:
        trace: of one row of a diffusion model, as `Result.trace` is.

    Raises:
        ValueError: the trace has no rounds.
    """
    if "round" not in trace.columns:
        raise ValueError("the trace has no rounds: it is not that of a masked diffusion model.")
    return _sums(trace["round"].tolist(), trace["probability"].tolist())


def bits_of_rows(state: DenoisingState) -> list[list[float]]:
    """`bits_per_round` of every row of a finished state, all columns of its canvas counted."""
    found = []
    for rounds, probabilities in zip(state.round_of.tolist(), state.probability_of.tolist(), strict=True):
        found.append(_sums(rounds, probabilities))
    return found


def _sums(rounds: Sequence[int], probabilities: Sequence[float]) -> list[float]:
    sums: dict[int, float] = defaultdict(float)
    for number, probability in zip(rounds, probabilities, strict=True):
        if number:
            sums[number] += -math.log2(probability) if probability > 0 else math.inf
    return [sums[number] for number in range(1, max(sums, default=0) + 1)]
