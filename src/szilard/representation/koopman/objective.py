"""What a Koopman model is trained on: reconstruction, and three terms of information.

    L = L_forward + lambda L_identity + alpha InfoNCE(z; neighbours) + beta ||z_{n+1} - K z_n||^2 - gamma S(C / tr C)

L_forward decodes K z_n and is compared with x_{n+1}; both reconstructions are sums over the steps of a window of means
over batch and state, as in the published code. S is the von Neumann entropy of the covariance of a batch's latents.

# Published code: adds + gamma S to the loss, which lowers the entropy; here: - gamma S, as the paper says.

The variational form (the paper's for control) samples z from the encoder's Gaussian and, per step, has -log p(x | z)
with a unit variance, KL(p(z | x) || N(0, I)), and beta KL(p(z_n | x_n) || N(K z_{n-1} + B a_{n-1}, Sigma)), which is
the mutual information that dissipates.

# Paper: its two -log p(x | z), alone and in the ELBO, have the same z; here: the one alone decodes K z_{n-1}, as the
# autoencoder's does, and the one in the ELBO the sampled z_n.

# Paper: ||z_{n+1} - K z_n||^2 adds up over dimensions; here: it is their mean, so that beta means the same for every d.

# Published code: InfoNCE over the first T states of a window; here: over all T + 1, since all of them are encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from szilard.information.gaussian_latents import von_neumann_entropy
from szilard.information.temporal_infonce import temporal_infonce
from szilard.representation.koopman.model import InformationKoopman, ridge_operator

if TYPE_CHECKING:
    from szilard.representation.koopman.config import KoopmanConfig


class KoopmanObjective(nn.Module):
    """Windows of states -> the loss and its terms.

    Args:
        model: what is trained.
        config: the weights of the terms.
    """

    def __init__(self, model: InformationKoopman, config: KoopmanConfig) -> None:
        super().__init__()
        self.model, self.settings = model, config

    def forward(self, states: Tensor, controls: Tensor | None = None) -> dict[str, Tensor]:
        """Terms of a batch.

        Args:
            states: [B, T + 1, *state].
            controls: [B, T, controls].

        Returns:
            "loss", and what went into it.
        """
        model, config = self.model, self.settings
        mean, log_variance = model.encode_distribution(states)
        z = mean
        if log_variance is not None:
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        before, after = z[:, :-1], z[:, 1:]
        if model.operator_kind == "ridge":
            predicted = before @ ridge_operator(before, after, config.ridge)
        else:
            predicted = model.step(before, controls)
        target = (states - model.mean) / model.spread
        found = {"forward": _by_step(model.decode_scaled(predicted), target[:, 1:])}
        identity = _by_step(model.decode_scaled(before), target[:, :-1])
        found["identity"] = identity
        loss = found["forward"] + config.identity_weight * identity
        if log_variance is not None:
            loss = loss + self._variational(found, mean, log_variance, predicted, target)
        elif config.consistency_weight:
            found["consistency"] = (after - predicted).square().mean()
            loss = loss + config.consistency_weight * found["consistency"]
        if config.mutual_information_weight:
            found["infonce"] = temporal_infonce(
                z, config.neighbors, config.temperature, negatives=config.negatives, positives=config.positives
            )
            loss = loss + config.mutual_information_weight * found["infonce"]
        if config.entropy_weight:
            found["entropy"] = von_neumann_entropy(z.flatten(0, 1)).float()
            loss = loss - config.entropy_weight * found["entropy"]
        return {"loss": loss, **found}

    def _variational(
        self, found: dict[str, Tensor], mean: Tensor, log_variance: Tensor, predicted: Tensor, target: Tensor
    ) -> Tensor:
        """KL to N(0, I), beta times KL to the step before, and the ELBO's -log p(x | z); sums over steps."""
        noise = self.model.log_noise
        assert noise is not None
        prior = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        ahead, spread = mean[:, 1:], log_variance[:, 1:]
        dissipated = 0.5 * (((ahead - predicted).square() + spread.exp()) / noise.exp() - 1 + noise - spread).sum(-1)
        found["prior"], found["dissipated"] = prior.mean(0).sum(), dissipated.mean(0).sum()
        # -log p of a unit variance is half the sum of squares, and reconstructions are means over the state: the KL
        # terms are brought to these.
        scale = 2 / target[0, 0].numel()
        return (found["prior"] + self.settings.consistency_weight * found["dissipated"]) * scale + found["identity"]


def _by_step(decoded: Tensor, target: Tensor) -> Tensor:
    """Mean over batch and state, summed over the steps of a window."""
    return (decoded - target).square().flatten(2).mean((0, 2)).sum()
