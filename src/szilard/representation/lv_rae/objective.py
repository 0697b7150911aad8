"""What the loop trains: the autoencoder's losses in a stage, and beside them the discriminator's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.representation.lv_rae.config import LVRAETraining
from szilard.representation.lv_rae.discriminator import Discriminator, as_bytes
from szilard.representation.lv_rae.losses import hinge_loss
from szilard.representation.lv_rae.model import LVRAE
from szilard.representation.qlae.model import unit

_CHUNK = 64  # pictures at a time, where nothing learns


class AutoencoderObjective(nn.Module):
    """A stage's loss.

    Args:
        model: what learns.
        settings: of the training.
        stage: 1 or 2.
        perceptual: beside L1.
        discriminator: learns along; None: no adversarial term.
    """

    def __init__(
        self,
        model: LVRAE,
        settings: LVRAETraining,
        stage: int,
        perceptual: nn.Module | None = None,
        discriminator: Discriminator | None = None,
    ) -> None:
        super().__init__()
        self.model, self.settings, self.stage = model, settings, stage
        self.perceptual, self.discriminator = perceptual, discriminator
        self.skips_parameters = model.config.tune_vfm  # a pooled head of the copy is not used

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Bytes or numbers [B, 3, H, W] -> "loss" and its parts."""
        pixels = unit(pictures)
        judge = self.discriminator

        def discriminate(decoded: Tensor) -> Tensor:
            assert judge is not None
            with judge.as_judge():
                logits: Tensor = judge(2 * decoded - 1)
            return logits

        losses = self.model.training_losses(
            pixels,
            self.stage,
            perceptual=self.perceptual,
            perceptual_weight=self.settings.perceptual_weight,
            discriminate=None if judge is None else discriminate,
        )
        loss, decoded = losses.pop("total"), losses.pop("pixels")
        if judge is not None:
            # Paper (RAE's code): the discriminator sees what the decoder gives after its step, and has an optimiser of
            # its own; here: both learn in one backward pass from the same decoded pictures, because there is one loop.
            # The terms share no learning weight, so AdamW treats them as two.
            hinge = hinge_loss(judge(2 * pixels - 1), judge(as_bytes(2 * decoded - 1)))
            losses["discriminator"] = hinge.detach()
            loss = loss + hinge
        return {name: value.detach() for name, value in losses.items()} | {"loss": loss}


def psnr(found: Tensor, pixels: Tensor) -> Tensor:
    """Of each picture, dB, [B]; both [B, C, H, W] in [0, 1]."""
    error = (found - pixels).square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-10).log10()


@torch.no_grad()
def measure(model: LVRAE, pictures: Tensor, sigmas: Sequence[float] = (0.1, 0.2), seed: int = 0) -> dict[str, float]:
    """How well pictures come back, from their latents and from noisy ones.

    Args:
        model: in evaluation mode.
        pictures: [N, 3, H, W], bytes or numbers in [0, 1].
        sigmas: deviations of the noise on latents.
        seed: of that noise.

    Returns:
        "psnr", dB, the mean over pictures; "psnr_0.1", ... per sigma; "cosine" of z's tokens and LN_Phi(u)'s;
        "psnr_without_residual", of latents with r dropped.
    """
    device = next(model.decoder.parameters()).device
    chance = torch.Generator().manual_seed(seed)
    sums: dict[str, float] = {}

    def add(name: str, values: Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + float(values.sum())

    for part in pictures.split(_CHUNK):
        pixels = unit(part.to(device))
        z = model.encode(pixels)
        grid = (pixels.shape[2] // model.config.patch, pixels.shape[3] // model.config.patch)
        add("psnr", psnr(model.decode(z, grid=grid), pixels))
        for sigma in sigmas:
            noisy = model.decode(z, smoothing_noise=sigma, generator=chance, grid=grid)
            add(f"psnr_{sigma:g}", psnr(noisy, pixels))
        add("cosine", F.cosine_similarity(z, model.semantic(pixels), dim=-1).mean(1))
        if model.encoder is not None:
            add("psnr_without_residual", psnr(model.decode(model.encode_base(pixels), grid=grid), pixels))
    return {name: total / len(pictures) for name, total in sums.items()}
