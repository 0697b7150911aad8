"""Matrix entropy of single tokens: how differently the heads of a layer look at a token.

Wang et al. 2026, "EntropyPrune: Matrix Entropy Guided Visual Token Pruning for Multimodal Large Language Models", EMNLP
2026 Findings, arXiv 2602.17196. Reference code: YahongWang1/EntropyPrune (Apache-2.0).

A token's states are a matrix M with a row per head, [heads h, head size d_h]:

    M~ = rows (v_j - mean v) / ||v_j - mean v||
    Sigma = M~^T M~ / h  (d_h x d_h, trace 1),  dual  M~ M~^T / h  (h x h): the same non-zero eigenvalues
    I = - sum_t sigma_t log sigma_t,   0 <= I <= log(h - 1)

The smaller of the two is diagonalised: with h = 32 and d_h = 128 the eigenvalues cost a 64th.
"""

from __future__ import annotations

import math

import torch

from szilard.information.matrix_entropy import matrix_entropy

_FLOOR = 1e-10  # of the released code's eigenvalues
VARIANTS = ("paper", "released")


def token_matrix_entropy(states: torch.Tensor, variant: str = "paper") -> torch.Tensor:
    """The matrix entropy of every token over its heads.

    Args:
        states: query or key states, [batch, heads, tokens, head size].
        variant: "paper": as above, invariant to scale. "released": what the released code computes, -sum lambda log
            lambda / log h of the eigenvalues of the centred, not normalised matrix; it is no entropy, depends on the
            length of the states and is negative for long ones.

    Returns:
        float64 [batch, tokens]; nats for "paper". A head that equals the mean of all heads counts as nothing; a single
        head gives 0, and so do two.

    Raises:
        ValueError: another shape, an unknown variant.
    """
    if states.dim() != 4:
        raise ValueError(f"states have the shape [batch, heads, tokens, head size], not {list(states.shape)}.")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, not {variant!r}.")
    matrices = states.transpose(1, 2)  # [batch, tokens, heads, head size]
    if variant == "paper":
        return matrix_entropy(matrices)
    heads = matrices.shape[2]
    if heads == 1:
        return torch.zeros(matrices.shape[:2], dtype=torch.float64, device=states.device)
    centred = matrices.double()
    centred = centred - centred.mean(2, keepdim=True)
    values = torch.linalg.eigvalsh(centred @ centred.transpose(-1, -2) / heads).clamp(min=_FLOOR)
    return -(values * values.log()).sum(-1) / math.log(heads)
