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
        x, y = (x + 1) / 2, (y + 1) / 2
        if levels < len(_SCALES):  # pytorch-msssim asks for room for all five
            return 1 - few_scales(x, y, levels)
        found: Tensor = ms_ssim(x, y, data_range=1.0)
        return 1 - found


def few_scales(x: Tensor, y: Tensor, levels: int) -> Tensor:
    """MS-SSIM of the first levels, whose exponents are scaled to add up to 1; [B, C, H, W] in [0, 1] -> a scalar."""
    product = torch.ones((), device=x.device)
    for level in range(levels):
        whole, contrast = _similarity(x, y)
        part = F.relu(whole if level == levels - 1 else contrast).clamp(min=1e-6)  # [B, C]
        product = product * part ** (_SCALES[level] / sum(_SCALES[:levels]))
        if level < levels - 1:
            padding = [side % 2 for side in x.shape[-2:]]
            x, y = (F.avg_pool2d(one, 2, padding=padding) for one in (x, y))
    return product.mean()


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM, and its contrast and structure alone, [B, C] each (Wang et al. 2004)."""
    place = torch.arange(_WINDOW, device=x.device, dtype=x.dtype) - _WINDOW // 2
    bell = torch.exp(-(place**2) / (2 * 1.5**2))
    bell = bell / bell.sum()

    def blurred(one: Tensor) -> Tensor:
        channels = one.shape[1]
        across = F.conv2d(one, bell.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(across, bell.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)

    first, second = blurred(x), blurred(y)
    variance = blurred(x * x) - first**2 + blurred(y * y) - second**2
    covariance = blurred(x * y) - first * second
    c1, c2 = 0.01**2, 0.03**2
    contrast = (2 * covariance + c2) / (variance + c2)
    luminance = (2 * first * second + c1) / (first**2 + second**2 + c1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


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
