"""Depth-wise transmission: what each token takes from every layer of the frozen model.

Ye et al. 2026, arXiv 2602.03784, section "depth-wise transmission". A token has the hidden states h^(0..L), [d] each:
h^(0) its embedding, h^(L) behind the final norm.

    c    = sum_l softmax(w)_l h^(l)                                        what the token is about, w: prior
    a_l  = softmax_l( <W_q c, W_k h^(l) + e_l> / (sqrt(g) tau) )           gate
    h~   = sum_l a_l W_v h^(l)                                             anchor

The states are read where they lie, layer by layer, in two passes (c, then gates and anchor), and never stacked. Two
products are moved out of the sum over layers, with the same result: <W_q c, W_k h> = <W_k^T W_q c, h>, and W_v after
the weighted sum, whose weights add up to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class DepthTransmission(nn.Module):
    """Gates over all layers' hidden states.

    Args:
        hidden_size: d.
        states: L + 1 hidden states of a token.
        gate_width: g.
        temperature: tau; the code divides by sqrt(g) too, the paper does not.
        source: None: gates over all; a number: only that hidden state (0: the embeddings), all gates on it.
        unit_states: bring every hidden state to a root mean square of 1 first.
    """

    def __init__(
        self,
        hidden_size: int,
        states: int,
        *,
        gate_width: int,
        temperature: float,
        source: int | None = None,
        unit_states: bool = False,
    ) -> None:
        super().__init__()
        self.states, self.source, self.unit_states = states, source, unit_states
        self.scale = (gate_width**0.5 * temperature) ** -1
        if source is None:
            self.prior = nn.Parameter(torch.zeros(states))  # w
            self.query = nn.Linear(hidden_size, gate_width)  # W_q
            self.key = nn.Linear(hidden_size, gate_width)  # W_k
            self.layer = nn.Parameter(torch.randn(states, gate_width) * 0.02)  # e
        self.value = nn.Linear(hidden_size, hidden_size)  # W_v

    def forward(self, hidden: Sequence[torch.Tensor], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Anchors and gates.

        Args:
            hidden: L + 1 tensors [batch, tokens, d].
            mask: bool [batch, tokens], False for padding.

        Returns:
            Anchors [batch, tokens, d]; gates [batch, tokens, L + 1], adding up to 1, and 0 for padding.
        """
        exact = self.value.weight.dtype
        valid = mask.to(exact)[..., None]
        if self.source is not None:
            gates = torch.nn.functional.one_hot(torch.tensor(self.source), self.states).to(valid) * valid
            state = hidden[self.source].to(exact)
            return self.value(state * (self._inverse_size(state) * valid)), gates
        sizes = [self._inverse_size(state) for state in hidden]
        gates = self.gates(hidden, sizes) * valid
        return self.value(_mixed(gates.unbind(-1), hidden, sizes, exact)), gates

    def gates(self, hidden: Sequence[torch.Tensor], sizes: Sequence[torch.Tensor]) -> torch.Tensor:
        """a, [batch, tokens, L + 1], of every token, padding too."""
        exact = self.value.weight.dtype
        with torch.autocast(hidden[0].device.type, enabled=False):  # norms reach 1e4 in some models
            query = self.query(_mixed(self.prior.softmax(0).unbind(), hidden, sizes, exact))  # [batch, tokens, g]
            lifted = query @ self.key.weight  # W_k^T W_q c, [batch, tokens, d]
            offsets = query @ (self.key.bias + self.layer).T  # [batch, tokens, L + 1]
            products = [
                torch.linalg.vecdot(lifted, state.to(exact)) * size[..., 0]
                for state, size in zip(hidden, sizes, strict=True)
            ]
            return ((torch.stack(products, dim=-1) + offsets) * self.scale).softmax(-1)

    def _inverse_size(self, state: torch.Tensor) -> torch.Tensor:
        """What a hidden state is multiplied by, [batch, tokens, 1]."""
        exact = self.value.weight.dtype
        if not self.unit_states:
            return torch.ones((), dtype=exact, device=state.device).expand(*state.shape[:-1], 1)
        return (state.to(exact).square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def _mixed(
    weights: Sequence[torch.Tensor], hidden: Sequence[torch.Tensor], sizes: Sequence[torch.Tensor], exact: torch.dtype
) -> torch.Tensor:
    """Weighted sum of the states: one running sum [batch, tokens, d], weights [batch, tokens] or []."""
    total = torch.zeros((), dtype=exact, device=hidden[0].device)
    for weight, state, size in zip(weights, hidden, sizes, strict=True):
        total = torch.addcmul(total, weight[..., None] * size, state.to(exact))
    return total
