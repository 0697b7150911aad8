"""What chunks to expand: a small transformer's logits, and choice without replacement by them.

    pi(l_t = i | l_<t) = exp(s_i) / sum over j not in l_<t of exp(s_j)

The logits s are computed once per context; the true state would compute them anew after every pick.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LAYERS = 2


class PolicyNetwork(nn.Module):
    """g_theta: two transformer layers over the chunk embeddings of a context, one logit per chunk.

    Chunks have no positions here, since a prompt may hold any number of them anywhere, and all logits begin as 0: an
    even choice (both inferred, as are the width, that of the embeddings, and the number of heads).

    Args:
        width: d_e.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = next(count for count in (8, 4, 2, 1) if width % count == 0)
        self.enter = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.leave = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, embeddings: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Logits [batch, L] of chunk embeddings [batch, L, d_e]; those of padding (`real` False) are -inf."""
        states = self.enter(embeddings)
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~real)
        return self.head(self.leave(states)).squeeze(-1).masked_fill(~real, -torch.inf)


def drawn_orders(
    logits: torch.Tensor, group: int, counts: torch.Tensor, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Choices without replacement, drawn one after the other from the masked softmax.

    The largest of logits with Gumbel noise, in descending order, are distributed exactly so (Plackett and Luce).

    Args:
        logits: [batch, L], -inf where there is no chunk.
        group: G, sequences per row.
        counts: T' of each row, int64 [batch].

    Returns:
        int64 [batch, G, largest T']; -1 behind a row's own T'.
    """
    noise = torch.empty(len(logits), group, logits.shape[1], device=logits.device)
    noise = -noise.exponential_(generator=generator).clamp(min=1e-30).log()  # Gumbel
    longest = int(counts.max())
    orders = (logits.float()[:, None] + noise).topk(longest, dim=-1).indices
    inside = torch.arange(longest, device=logits.device) < counts[:, None]
    return torch.where(inside[:, None], orders, -1)


def order_log_probs(logits: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """log pi(l_t | l_<t) of every step, with gradients for the logits.

    Args:
        logits: [batch, L].
        orders: int64 [batch, G, T], -1: no step.

    Returns:
        [batch, G, T]; 0 where there is no step.
    """
    real, places = orders >= 0, orders.clamp(min=0)
    picked = functional.one_hot(places, logits.shape[1]) * real[..., None]  # [batch, G, T, L]
    gone = (picked.cumsum(2) - picked).bool()
    left = logits[:, None, None].masked_fill(gone, -torch.inf)
    steps = left.gather(3, places[..., None]).squeeze(3) - left.logsumexp(-1)
    return torch.where(real, steps, 0.0)
