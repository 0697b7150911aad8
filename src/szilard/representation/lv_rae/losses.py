"""What stage I and stage II minimise, beside the mean absolute error of pixels.

    L_align = mean (z - u*)^2                                       (equation 4)
    w_gan = clamp(||grad L_rec|| / (||grad L_gan|| + 1e-6), 0, 1e4) (equation 10; both of D's last weight)
    discriminator: mean max(0, 1 - D(real)) / 2 + mean max(0, 1 + D(fake)) / 2;  generator: -mean D(fake)

LPIPS compares features of a VGG that is a download of its own. Where it is not on the machine, training goes by L1,
with MS-SSIM if asked for, and the card says so.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WINDOW = 11
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM's levels
LARGEST_WEIGHT = 1e4


def alignment(z: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference over all elements of [B, N, D]; a scalar."""
    return F.mse_loss(z, target)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """w_gan: brings the gradient of one loss at a weight to the length of the other's.

    Args:
        reconstruction, adversarial: scalars with graphs, which are kept.
        last: the weight both depend on.

    Returns:
        A scalar without a graph, between 0 and 1e4.
    """
    with torch.autocast(last.device.type, enabled=False):
        ours = torch.autograd.grad(reconstruction.float(), last, retain_graph=True)[0].float().norm()
        theirs = torch.autograd.grad(adversarial.float(), last, retain_graph=True)[0].float().norm()
    return (ours / (theirs + 1e-6)).clamp(0, LARGEST_WEIGHT).detach()


def generator_loss(fake: Tensor) -> Tensor:
    """-mean of the discriminator's logits."""
    return -fake.mean()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises, of its logits."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


class MultiScaleDissimilarity(nn.Module):
    """1 - MS-SSIM of pictures in [-1, 1], on as many scales as their size allows (five above 160 pixels)."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, 3, H, W] twice -> a scalar.

        Raises:
            ValueError: sides of 11 pixels or fewer, or no pytorch-msssim.
        """
        try:
            from pytorch_msssim import ms_ssim
        except ModuleNotFoundError:
            raise ValueError("MS-SSIM needs the package pytorch-msssim: pip install 'szilard[codecs]'") from None
        side = min(x.shape[-2:])
        levels = sum(side > (_WINDOW - 1) * 2**level for level in range(len(_SCALES)))
        if not levels:
            raise ValueError(f"MS-SSIM needs sides of more than {_WINDOW - 1} pixels, not {side}: perceptual='none'.")
        # pytorch-msssim asks for room for five scales whatever the weights: fewer are asked of a larger padding.
        if levels == len(_SCALES):
            found: Tensor = ms_ssim((x + 1) / 2, (y + 1) / 2, data_range=1.0)
            return 1 - found
        return 1 - _few_scales((x + 1) / 2, (y + 1) / 2, levels)


def _few_scales(x: Tensor, y: Tensor, levels: int) -> Tensor:
    """MS-SSIM of the first levels, their exponents scaled to add up to 1."""
    from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim

    window = _fspecial_gauss_1d(_WINDOW, 1.5).repeat(x.shape[1], 1, 1, 1).to(x)
    total = sum(_SCALES[:levels])
    product = torch.ones((), device=x.device)
    for level in range(levels):
        whole, contrast = _ssim(x, y, data_range=1.0, win=window)
        part = F.relu(whole if level == levels - 1 else contrast)
        product = product * part.clamp(min=1e-6) ** (_SCALES[level] / total)
        if level < levels - 1:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product.mean()


class Lpips(nn.Module):
    """LPIPS with VGG, of the package lpips, from weights that are on this machine.

    Raises:
        ValueError: no package, or no weights of VGG in torch's cache.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import lpips
        except ModuleNotFoundError:
            raise ValueError("perceptual='lpips' needs the package lpips: pip install lpips") from None
        kept = Path(torch.hub.get_dir()) / "checkpoints"
        if not list(kept.glob("vgg16-*.pth")):
            raise ValueError(
                f"perceptual='lpips' needs VGG-16's weights in {str(kept)!r}: take 'ms-ssim' or 'none', or fetch "
                "them once with torchvision.models.vgg16(weights='DEFAULT')."
            )
        self.net = lpips.LPIPS(net="vgg", verbose=False).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Lpips:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] twice -> a scalar."""
        found: Tensor = self.net(x, y)
        return found.mean()


def perceptual_loss(kind: str) -> nn.Module | None:
    """The loss of a name of `config.PERCEPTUAL`, ([-1, 1], [-1, 1]) -> scalar; None for "none"."""
    if kind == "lpips":
        return Lpips()
    return MultiScaleDissimilarity() if kind == "ms-ssim" else None
