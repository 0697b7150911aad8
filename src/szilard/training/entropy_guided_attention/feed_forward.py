"""Feed-forward networks without an activation: one matrix instead of two, and learnable scales.

FuFFN    FFN(x) = x W + b,  W = W_in W_out [d, d]: an eighth of the operations of d -> 4d -> d
scaled   X_out = beta X_SA + (1/alpha) FFN(X_SA),   alpha, beta learned per layer, from 1
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_LEAST = 1e-2  # of |alpha|: 1/alpha stays finite


class FusedFeedForward(nn.Module):
    """A single matrix in the place of two, `fused`, followed by the dropout of the two.

    Args:
        width: d.
        dropout: of the output, a share.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.fused = Conv1D(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, n, d] to [batch, n, d]."""
        return self.dropout(self.fused(hidden_states))

    @torch.no_grad()
    def take(self, first: nn.Module, second: nn.Module) -> None:
        """W_in W_out and b_in W_out + b_out of two layers [inputs, outputs]."""
        w_in, w_out = first.weight, second.weight
        self.fused.weight.copy_(w_in @ w_out)  # type: ignore[operator]
        self.fused.bias.copy_(first.bias @ w_out + second.bias)  # type: ignore[operator]


class ScaledFeedForward(nn.Module):
    """A feed-forward network whose residual connection is scaled, in a block without layer normalisation.

    The block adds what this returns to X_SA, which is also what this is given: (beta - 1) X_SA + (1/alpha) FFN(X_SA).

    Args:
        network: the feed-forward network.
        folded: 1/alpha is in the network's weights.
    """

    def __init__(self, network: nn.Module, folded: bool = False) -> None:
        super().__init__()
        self.network = network
        self.beta = nn.Parameter(torch.ones(()))
        self.alpha = None if folded else nn.Parameter(torch.ones(()))

    @property
    def scale(self) -> torch.Tensor:
        """1/alpha, with alpha kept away from 0 on its side of it."""
        assert self.alpha is not None
        return 1 / torch.where(self.alpha >= 0, self.alpha.clamp(min=_LEAST), self.alpha.clamp(max=-_LEAST))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, n, d] to [batch, n, d]."""
        out = self.network(hidden_states)
        return (self.beta - 1) * hidden_states + (out if self.alpha is None else out * self.scale)
