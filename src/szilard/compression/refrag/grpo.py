"""GRPO: sequences of one context are compared with each other; no value network, and no KL term.

    A^(i) = (r_i - mean r) / std r
    J = 1/G sum_i 1/T' sum_t min(rho A^(i), clip(rho, 1 - eps, 1 + eps) A^(i)),   rho = pi_theta / pi_theta_old per step

Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, as REFRAG (Lin et al. 2025, section 4) writes it.
"""

from __future__ import annotations

import torch

_EPSILON = 1e-6


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards [batch, G] against those of their group: mean 0, population standard deviation 1 (inferred).

    All zero where the rewards of a group are equal.
    """
    given = rewards.double()
    centred = given - given.mean(-1, keepdim=True)
    spread = given.std(-1, correction=0, keepdim=True)
    equal = given.amax(-1, keepdim=True) == given.amin(-1, keepdim=True)
    return torch.where(equal, 0.0, centred / (spread + _EPSILON)).to(rewards.dtype)


def clipped_objective(
    log_probs: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, real: torch.Tensor, clip: float
) -> torch.Tensor:
    """J, to be maximised: a scalar, the mean over contexts.

    Args:
        log_probs, old: of every step, now and when it was drawn, [batch, G, T].
        advantage: [batch, G].
        real: which steps there are, bool [batch, G, T].
        clip: eps.
    """
    ratio = (log_probs - old).exp()
    wanted = advantage[..., None]
    each = torch.minimum(ratio * wanted, ratio.clamp(1 - clip, 1 + clip) * wanted)
    return ((each * real).sum(-1) / real.sum(-1).clamp(min=1)).mean()
