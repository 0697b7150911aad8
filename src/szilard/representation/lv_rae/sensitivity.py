"""How a decoder answers noise on its latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from szilard.options import check_number
from szilard.representation.lv_rae.model import LVRAE
from szilard.representation.lv_rae.objective import psnr
from szilard.representation.lv_rae.patches import grid_of
from szilard.representation.qlae.model import unit

SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Sensitivity:
    """What noise of each deviation does.

    Attributes:
        sigmas: deviations of the noise, in units of z.
        psnr: of the decoded pictures to the true ones, dB, the mean over pictures.
        gain: |D(z + sigma eps) - D(z)| / |sigma eps|, of unclamped pixels, the mean over pictures; for a small sigma
            the root of |J|_F^2 / (N D), J the Jacobian of D. 0 at sigma 0.
    """

    sigmas: tuple[float, ...]
    psnr: tuple[float, ...]
    gain: tuple[float, ...]


@torch.no_grad()
def decoder_sensitivity(
    model: LVRAE, pixels: Tensor, sigmas: Sequence[float] = SIGMAS, *, seed: int = 0, batch_size: int = 64
) -> Sensitivity:
    """Decode latents with noise of growing deviation, the same noise for each.

    Args:
        model: is put into evaluation mode and back.
        pixels: [N, 3, H, W], bytes or numbers in [0, 1].
        sigmas: of the noise, at least one.
        seed: of the noise.
        batch_size: pictures at a time.

    Raises:
        TypeError, ValueError: pictures that do not fit, no sigma, or one below 0.
    """
    if not isinstance(model, LVRAE):
        raise TypeError(f"the model must be an LVRAE, not a {type(model).__name__}.")
    if not isinstance(pixels, Tensor):
        raise TypeError(f"pictures must be a tensor [N, 3, H, W], not a {type(pixels).__name__}.")
    if not sigmas:
        raise ValueError("sigmas must hold at least one deviation of noise.")
    for sigma in sigmas:
        check_number("sigmas", sigma, low=0)
    check_number("batch_size", batch_size, low=1, integer=True)
    device = next(model.decoder.parameters()).device
    chance = torch.Generator().manual_seed(seed)
    mode = model.training
    model.eval()
    totals = torch.zeros(2, len(sigmas), dtype=torch.float64)
    for part in pixels.split(batch_size):
        true = unit(part.to(device))
        grid = grid_of(true, model.config.patch)
        z = model.encode(true)
        clean = model.decoder(z, grid)
        noise = torch.randn(z.shape, generator=chance).to(z)
        length = noise.flatten(1).norm(dim=1)
        for place, sigma in enumerate(sigmas):
            found = model.decoder(z + sigma * noise, grid)
            totals[0, place] += psnr(found.clamp(0, 1), true).sum().cpu()
            if sigma:
                moved = (found - clean).flatten(1).norm(dim=1) / (sigma * length)
                totals[1, place] += moved.sum().cpu()
    model.train(mode)
    means = (totals / len(pixels)).tolist()
    return Sensitivity(tuple(sigmas), tuple(means[0]), tuple(means[1]))
