"""Counting for methods that drop tokens once, after the first K of L layers.

Wang et al. 2026, EntropyPrune, arXiv 2602.17196; FLOPs of a layer as in FastV, Chen et al. 2024, arXiv 2403.06764.
"""

from __future__ import annotations

import math


def average_budget_to_keep(layers: int, prune_after: int, tokens: int, average: float) -> int:
    """How many tokens may stay in the later layers, so that all layers hold `average` of them in the mean.

        keep = int((L B - K N) / (L - K))

    Args:
        layers: L.
        prune_after: K, layers that hold all tokens.
        tokens: N.
        average: B.

    Returns:
        The tokens that stay, at most N.

    Raises:
        ValueError: no layer is left, or the first K layers alone hold more than that.
    """
    if not 1 <= prune_after < layers:
        raise ValueError(f"tokens can be dropped after 1 to {layers - 1} of {layers} layers, not after {prune_after}.")
    keep = min(tokens, int((layers * average - prune_after * tokens) / (layers - prune_after) + 1e-9))
    if keep < 1:
        least = math.ceil((prune_after * tokens + layers - prune_after) / layers)
        raise ValueError(
            f"an average of {average:g} of {tokens} tokens over {layers} layers is out of reach, since the first "
            f"{prune_after} hold all of them: the average is at least {least}; raise it, or lower `layer`."
        )
    return keep


def layer_flops(tokens: int, hidden: int, feed_forward: int) -> float:
    """F(n) = 8 n d^2 + 4 n^2 d + 6 n d m: a prompt of so many tokens through one layer."""
    return 8.0 * tokens * hidden**2 + 4.0 * tokens**2 * hidden + 6.0 * tokens * hidden * feed_forward


def flops_reduction(layers: int, prune_after: int, tokens: int, keep: int, hidden: int, feed_forward: int) -> float:
    """The share of a prompt's FLOPs that is saved: R = 1 - (K F(N) + (L - K) F(keep)) / (L F(N)).

    Args:
        layers: L.
        prune_after: K, layers that hold all tokens.
        tokens: N; with the text's tokens in it R is that of the whole prompt, without them of the pruned ones.
        keep: of these, what the other layers hold.
        hidden: d.
        feed_forward: m.
    """
    full = layer_flops(tokens, hidden, feed_forward)
    if not full:
        return 0.0
    run = prune_after * full + (layers - prune_after) * layer_flops(keep, hidden, feed_forward)
    return 1 - run / (layers * full)
