"""Training a patch encoder on pictures alone: hide patches, and rebuild the picture from the tokens.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022; hidden patches are a learned token inside the
encoder, as in Xie et al., "SimMIM", CVPR 2022. VL-JEPA then never changes the encoder. It sees no text: this stands in
for the published V-JEPA 2 where a small encoder is wanted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from szilard.options import check_number
from szilard.representation.vl_jepa.vision_encoder import PatchEncoder, as_frames


class MaskedPatchObjective(nn.Module):
    """Mean squared error of all patches, hidden or not, so that tokens keep what they show, too.

    Args:
        encoder: what learns.
        hidden: the share of the patches that is hidden.
    """

    def __init__(self, encoder: PatchEncoder, hidden: float = 0.4) -> None:
        super().__init__()
        check_number("hidden", hidden, low=0, high=0.95)
        self.encoder, self.hidden = encoder, hidden
        self.token = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.rebuild = nn.Linear(encoder.width, 3 * encoder.patch**2)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pictures or frames -> {"loss", "hidden_error"}, squared, of colours from -1 to 1."""
        encoder = self.encoder
        patches = encoder.patches(as_frames(pixels).flatten(0, 1))
        gone = torch.rand(patches.shape[:2], device=patches.device) < self.hidden
        states = torch.where(gone.unsqueeze(-1), self.token, encoder.embed(patches)) + encoder.places
        error = (self.rebuild(encoder.blocks(states)) - patches).square().mean(-1)
        hidden = (error * gone).sum() / gone.sum().clamp(min=1)
        return {"loss": error.mean(), "hidden_error": hidden.detach()}
