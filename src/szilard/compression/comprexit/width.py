"""Width-wise transmission: anchors of a window moved into its slots by one transport plan.

Ye et al. 2026, arXiv 2602.03784, section "width-wise transmission". For the W anchors h~_t and K_w slots of a window:

    r_k  = mean of the anchors in field k                                  receivers: the window cut into K_w fields
    C_tk = 1 - <u(h~_t), u(r_k)>,   u(x) = W_u LN(x) / ||W_u LN(x)||       cost
    a    = (1 - lambda) softmax_t(w_rho . LN'(h~_t) + b) + lambda / n      sender capacity, n: tokens of the window
    b_k  = 1 / (slots of the window whose field has tokens)                receiver capacity
    P    = sinkhorn(C, a, b; epsilon, 30 turns)                            plan
    z_k  = (1 / b_k) sum_t P_tk W_g LN''(h~_t)                             slots

A column of P adds up to b_k, so a slot is a convex combination of values, and W_g may come after the sum: K_w products
in the place of W. LN, the biases, lambda and 1 / b_k are of the released code only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from szilard.information.transport import sinkhorn


@dataclass(frozen=True)
class Moved:
    """What came of a batch of windows.

    Attributes:
        slots: z, [batch, windows, K_w, d]; zeros where there is no slot.
        valid: bool [batch, windows, K_w].
        plan: P, [batch, windows, W, K_w].
        capacity: a, [batch, windows, W].
    """

    slots: torch.Tensor
    valid: torch.Tensor
    plan: torch.Tensor
    capacity: torch.Tensor


class WidthTransmission(nn.Module):
    """Windows of anchors into slots.

    Args:
        hidden_size: d.
        metric_width: d_c.
        transmission: "transport"; "attention": each slot for itself takes softmax_t(-C_tk / epsilon), the ablation.
        capacity: "learned", or "uniform": every token of a window has the same.
        capacity_temperature: of its softmax.
        floor: lambda.
        epsilon: of the plan.
        iterations: turns of Sinkhorn's algorithm.
        position: weight in the cost of the distance between a token and a field's middle, in windows.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        metric_width: int,
        transmission: str,
        capacity: str,
        capacity_temperature: float,
        floor: float,
        epsilon: float,
        iterations: int,
        position: float = 0.0,
    ) -> None:
        super().__init__()
        self.transmission, self.epsilon, self.iterations = transmission, epsilon, iterations
        self.position = position
        self.capacity_temperature, self.floor = capacity_temperature, floor
        self.utility_norm = nn.LayerNorm(hidden_size)
        self.utility = nn.Linear(hidden_size, metric_width)  # W_u
        self.value_norm = nn.LayerNorm(hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)  # W_g
        self.capacity: nn.Sequential | None = None
        if transmission == "transport" and capacity == "learned":
            head = nn.Linear(hidden_size, 1)  # w_rho, b
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            self.capacity = nn.Sequential(nn.LayerNorm(hidden_size), head)

    def forward(self, windows: torch.Tensor, mask: torch.Tensor, slots: int) -> Moved:
        """Move anchors into slots.

        Args:
            windows: anchors, [batch, windows, W, d].
            mask: bool [batch, windows, W].
            slots: K_w.
        """
        with torch.autocast(windows.device.type, enabled=False):  # the plan breaks in half precision
            windows = windows.to(self.value.weight.dtype)
            owner = fields(windows.shape[2], slots).to(windows.device)
            shares = functional.one_hot(owner, slots).to(windows) * mask[..., None]  # [batch, windows, W, K_w]
            counts = shares.sum(-2)  # tokens per field, [batch, windows, K_w]
            valid = counts > 0
            receivers = shares.mT @ windows / counts.clamp(min=1)[..., None]
            cost = 1 - self._directions(windows) @ self._directions(receivers).mT
            if self.position:
                # Paper: the cost is one of meanings alone; here: on demand nearness, too, because a learned metric may
                # find all fields alike, and then all slots are one mean. (The released code holds such a term, unused.)
                places = (torch.arange(len(owner), device=owner.device) + 0.5) / len(owner)
                middles = torch.zeros(slots, device=owner.device).scatter_reduce(
                    0, owner, places, "mean", include_self=False
                )
                cost = cost + self.position * (places[:, None] - middles).abs().to(cost)  # [W, K_w]
            given = self.senders(windows, mask)
            taken = valid / valid.sum(-1, keepdim=True).clamp(min=1)  # b, [batch, windows, K_w]
            taken = taken.to(cost)
            if self.transmission == "transport":
                plan = sinkhorn(cost, given, taken, self.epsilon, self.iterations)
            else:
                # Paper: "window attention" without details; here: the same cost and temperature, columns independent.
                scores = (-cost / self.epsilon).masked_fill(~mask[..., None], torch.finfo(cost.dtype).min)
                plan = scores.softmax(-2) * mask[..., None] * taken[..., None, :]
            mixed = (plan / taken.clamp(min=1e-9)[..., None, :]).mT @ self.value_norm(windows)  # [.., K_w, d]
            return Moved(self.value(mixed) * valid[..., None], valid, plan, given)

    def senders(self, windows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """a, [batch, windows, W]: adds up to 1 in every window that has tokens, at least lambda / n for each."""
        even = mask / mask.sum(-1, keepdim=True).clamp(min=1)
        if self.capacity is None:
            return even.to(windows)
        scores = self.capacity(windows)[..., 0] / self.capacity_temperature
        share = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask
        mixed = (1 - self.floor) * share + self.floor * even
        return mixed / mixed.sum(-1, keepdim=True).clamp(min=1e-9)

    def _directions(self, anchors: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.utility(self.utility_norm(anchors)), dim=-1)


def fields(window: int, slots: int) -> torch.Tensor:
    """The field of every position of a window, int64 [W]: contiguous, the first W mod K_w fields one longer."""
    sizes = torch.full((slots,), window // slots)
    sizes[: window % slots] += 1
    return torch.repeat_interleave(torch.arange(slots), sizes)


def slots_per_window(window: int, ratio: float) -> int:
    """K_w = ceil(W / r), at least 1."""
    return max(1, math.ceil(window / ratio - 1e-9))
