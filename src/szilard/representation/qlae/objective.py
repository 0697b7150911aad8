"""The loss of QLAE and its baselines: reconstruction by cross entropy, and the bottleneck's penalties.

    L = mean over C, H, W of the sigmoid cross entropy  +  w_q L_q + w_c L_c            (means, as all weights assume)
    beta-VAE: + beta KL / (C H W), so that beta is that of the usual sums over pixels and latents (inferred)

Decay and clipping are of encoder and decoder weights, norm scales and the constant map included; biases and codebooks
have neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from szilard.representation.qlae.config import QlaeConfig
from szilard.representation.qlae.model import LatentAutoencoder, unit


def is_decayed(name: str) -> bool:
    """Whether a parameter of an objective is decayed: a weight, and no bias or codebook."""
    return not name.endswith("bias") and "bottleneck." not in name


def penalty_weights(model: LatentAutoencoder, config: QlaeConfig) -> dict[str, float]:
    """The weights of a bottleneck's penalties by name."""
    given = {
        "quantization": config.quantization_weight,
        "commitment": config.commitment_weight,
        "nonnegativity": config.nonnegativity_weight,
        "activity": config.activity_weight,
    }
    if model.kind == "beta-vae":
        given["divergence"] = config.beta
    elif model.kind == "beta-tcvae":  # KL + (beta - 1) TC
        given["total_correlation"] = config.beta - 1
    share = model.shape.channels * model.shape.image_size**2 if model.bottleneck.per_picture else 1
    chosen = {}
    for name, own in model.bottleneck.weights.items():
        value = given.get(name)
        chosen[name] = (own if value is None else value) / share
    return chosen


class ReconstructionObjective(nn.Module):
    """What `fit` trains.

    Args:
        model: is trained in place.
        config: the settings.
    """

    def __init__(self, model: LatentAutoencoder, config: QlaeConfig) -> None:
        super().__init__()
        self.model, self.decay = model, config.weight_decay
        self.penalty_weights = penalty_weights(model, config)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures [B, C, s, s], bytes or in [0, 1] -> "loss", "cross_entropy", "psnr" (of the batch) and penalties."""
        target = unit(pictures)
        logits, code = self.model(target)
        cross_entropy = binary_cross_entropy_with_logits(logits, target)
        loss = cross_entropy
        for name, value in code.penalties.items():
            loss = loss + self.penalty_weights[name] * value
        error = (logits.detach().sigmoid() - target).square().mean()
        return {"loss": loss, "cross_entropy": cross_entropy, "psnr": -10 * error.log10(), **code.penalties}

    def weight_decay_of(self, name: str) -> float:
        """Of a parameter."""
        return self.decay if is_decayed(name) else 0.0

    def clips(self, name: str) -> bool:
        """Whether a parameter's gradient is cut number by number."""
        return is_decayed(name)


@torch.no_grad()
def measure(
    model: LatentAutoencoder, pictures: Tensor, factors: Any = None, *, batch_size: int = 256
) -> dict[str, float]:
    """What a model makes of pictures.

    Args:
        model: in evaluation mode.
        pictures: [N, C, s, s], bytes or in [0, 1].
        factors: [N, n_s] the factors that made them; None: only the reconstruction is measured. Factors of one value
            are left out.
        batch_size: pictures at a time.

    Returns:
        "psnr" (dB, of the mean squared error over all pictures), "cross_entropy" (nats per number) and, of factors,
        "modularity", "explicitness", "compactness", "active" (latents).
    """
    error = entropy = 0.0
    codes = []
    for part in pictures.split(batch_size):
        target = unit(part.to(model.decoder.constant.device))
        code = model.bottleneck(model.encoder(target))
        logits = model.decoder(model.bottleneck.decode(code.codes))
        error += float((logits.sigmoid() - target).square().sum())
        entropy += float(binary_cross_entropy_with_logits(logits, target, reduction="sum"))
        codes.append(code.codes.cpu())
    numbers = pictures.numel()
    found = {"psnr": -10 * float(torch.tensor(max(error / numbers, 1e-12)).log10()), "cross_entropy": entropy / numbers}
    if factors is not None:
        from szilard.information.infomec import infomec

        labels = torch.as_tensor(factors)
        labels = labels[:, (labels != labels[:1]).any(0)]
        report = infomec(labels, torch.cat(codes), discrete=model.discrete)
        found |= {
            "modularity": report.modularity,
            "explicitness": report.explicitness,
            "compactness": report.compactness,
            "active": float(report.active.sum()),
        }
    return found
