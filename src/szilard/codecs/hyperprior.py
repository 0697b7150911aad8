"""The mean-scale hyperprior, the baseline of every learned codec.

Minnen, Ballé, Toderici, "Joint Autoregressive and Hierarchical Priors for Learned Image Compression", NeurIPS 2018,
without its autoregressive part. Parameters have the names of CompressAI's `MeanScaleHyperprior`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from szilard.codecs.bounds import GDN
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.quantizers import Predicted, Quantizer
from szilard.options import check_number


@dataclass(frozen=True)
class HyperpriorConfig:
    """Sizes.

    Attributes:
        N: channels of the transforms and of z.
        M: channels of y.
    """

    N: int = 128
    M: int = 192

    def __post_init__(self) -> None:
        for name in ("N", "M"):
            check_number(name, getattr(self, name), low=2, integer=True)
        if self.M % 2:
            raise ValueError(f"M={self.M} must be even.")


def conv(inner: int, outer: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """A convolution that divides the size by its stride."""
    return nn.Conv2d(inner, outer, kernel, stride=stride, padding=kernel // 2)


def deconv(inner: int, outer: int, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """A transposed convolution that multiplies the size by its stride."""
    return nn.ConvTranspose2d(inner, outer, kernel, stride=stride, output_padding=stride - 1, padding=kernel // 2)


class MeanScaleHyperprior(LearnedCodec):
    """The codec.

    Args:
        config: sizes, or the fields of one.
    """

    name: ClassVar[str] = "mean-scale"

    def __init__(self, config: HyperpriorConfig | Mapping[str, Any] = HyperpriorConfig()) -> None:
        own = config if isinstance(config, HyperpriorConfig) else HyperpriorConfig(**dict(config))
        super().__init__(own.M, own.N)
        self.settings = own
        N, M = own.N, own.M
        self.g_a = nn.Sequential(conv(3, N), GDN(N), conv(N, N), GDN(N), conv(N, N), GDN(N), conv(N, M))
        self.g_s = nn.Sequential(
            deconv(M, N), GDN(N, inverse=True), deconv(N, N), GDN(N, inverse=True), deconv(N, N), GDN(N, inverse=True),
            deconv(N, 3),
        )  # fmt: skip
        self.h_a = nn.Sequential(conv(M, N, 3, 1), nn.LeakyReLU(), conv(N, N), nn.LeakyReLU(), conv(N, N))
        wide = M * 3 // 2
        self.h_s = nn.Sequential(deconv(N, M), nn.LeakyReLU(), deconv(M, wide), nn.LeakyReLU(), conv(wide, 2 * M, 3, 1))

    def walk(self, hyper: Tensor, quantizer: Quantizer) -> Predicted:
        """One pass over all of y."""
        scales, means = hyper.chunk(2, dim=1)
        everywhere = torch.ones(hyper.shape[-2:], dtype=torch.bool, device=hyper.device)
        return Predicted(quantizer(slice(0, self.latent_channels), everywhere, scales, means, None), scales, means)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> MeanScaleHyperprior:
        """A codec of weights whose sizes are read from their shapes, CompressAI's among them.

        Raises:
            ValueError: weights of another model.
        """
        from szilard.codecs.state_dicts import renamed

        own = renamed(state_dict)
        try:
            codec = cls(HyperpriorConfig(N=own["g_a.0.weight"].shape[0], M=own["g_a.6.weight"].shape[0]))
            codec.load_state_dict(own)
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"these are not weights of a mean-scale hyperprior: {str(error).splitlines()[0]}"
            ) from None
        return codec.eval()
