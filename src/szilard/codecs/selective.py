"""Guided selective compression: elements of y that are almost surely their mean are not coded at all.

MLICv2's equations 11 to 13. A small network reads what the decoder knows and says which elements of a pass to code;
what is not coded is decoded as its mean. A symbol is 0 whenever |y - mean| < 1/2: a right skip changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.layers import conv1x1, conv3x3

THRESHOLD = 0.3
SCALE_THRESHOLD = 0.15  # a Gaussian this narrow is another symbol than 0 once in 1,160


class SelectionPredictor(nn.Module):
    """Logits of "code this element" [B, C, h, w] for one pass over one slice.

    Args:
        channels: C of a slice.
        inner: channels of what the decoder knows else: hyperprior and earlier slices.
        hidden: its width.
    """

    def __init__(self, channels: int, inner: int, hidden: int = 64) -> None:
        super().__init__()
        self.known = conv1x1(inner, hidden)
        self.parameters_of_pass = conv1x1(2 * channels, hidden)
        self.mix, self.out = conv3x3(hidden, hidden), conv1x1(hidden, channels)

    def forward(self, scales: Tensor, means: Tensor, known: Tensor) -> Tensor:
        hidden = self.known(known) + self.parameters_of_pass(torch.cat([scales, means], dim=1))
        found: Tensor = self.out(F.gelu(self.mix(F.gelu(hidden))))
        return found


def worth_coding(y: Tensor, means: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """What the predictor learns: |y - mean| >= threshold."""
    return (y - means).abs() >= threshold
