"""A small vision model that sees no colour, and pictures to train it on: an LV-RAE without any download.

It is a ViT of transformers with one channel, so that `VisionBackbone` shows it the luminance with mean 0 and deviation
1 of each picture: what it says about a picture cannot hold colours. It learns by rebuilding hidden patches (SimMIM, Xie
et al., CVPR 2022).
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from szilard.options import check_number
from szilard.representation.lv_rae.backbone import VisionBackbone
from szilard.representation.lv_rae.patches import patchify
from szilard.representation.qlae.model import unit
from szilard.representation.qlae.pictures import Pictures
from szilard.representation.sprites import COLOURS, SHAPES, render
from szilard.training.config import TrainingConfig
from szilard.training.loop import fit
from szilard.whole_folder import whole_folder

_HIDDEN = 0.4  # share of the patches
_STEPS = 100


def small_vit(
    size: int = 32,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    *,
    channels: int = 1,
    seed: int = 0,
) -> Any:
    """A ViT of one channel, or of three, with random weights: `transformers.ViTModel`."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=size,
        patch_size=patch,
        num_channels=channels,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ViTModel(config, add_pooling_layer=False, use_mask_token=True).eval()


class HiddenPatches(nn.Module):
    """Mean squared error of all patches of what the model sees, hidden or not; see `small_vit`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = VisionBackbone(model, learns=True)
        self.rebuild = nn.Linear(self.backbone.width, self.backbone.channels * self.backbone.patch**2)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Bytes or numbers [B, 3, s, s] -> {"loss"}."""
        pixels = unit(pictures)
        grid = (pixels.shape[2] // self.backbone.patch, pixels.shape[3] // self.backbone.patch)
        seen = self.backbone.view(pixels, grid)
        patches = patchify(seen, self.backbone.patch)
        gone = torch.rand(patches.shape[:2], device=seen.device) < _HIDDEN
        states = self.backbone.model(seen, bool_masked_pos=gone).last_hidden_state[:, 1:]
        return {"loss": (self.rebuild(states) - patches).square().mean()}


def train_small_backbone(
    model: nn.Module, pictures: Tensor | Pictures, folder: Path, config: TrainingConfig, *, device: str | None = None
) -> list[dict[str, float]]:
    """Train what `small_vit` gave, in place; the rows of the loop. A stopped run goes on."""
    source = pictures if isinstance(pictures, Pictures) else Pictures(pictures)
    rows = fit(HiddenPatches(model), source, config, folder, collate=Pictures.collate, device=device)
    model.eval()
    return rows


def small_backbone(
    folder: Path, pictures: Pictures, patch: int, *, seed: int = 0, restart: bool = False, device: str | None = None
) -> Any:
    """The ViT in a folder's "backbone", trained and written there first where there is none.

    Args:
        folder: of the autoencoder, which reads it from there.
        pictures: square, of sides that are a multiple of the patch.
        patch: in pixels.
        seed: of its weights.
        restart: train it anew.
        device: "cpu" keeps a GPU out of it.
    """
    from transformers import ViTModel

    there, size = folder / "backbone", pictures[0].shape[-1]
    if restart:
        for name in (there, folder / "backbone-training"):
            shutil.rmtree(name, ignore_errors=True)
    if not there.is_dir():
        model = small_vit(size, patch, seed=seed)
        config = TrainingConfig(steps=_STEPS, batch_size=64, seed=seed, save_every=50, log_every=10)
        train_small_backbone(model, pictures, folder / "backbone-training", config, device=device)
        with whole_folder(there) as scratch:
            model.cpu().save_pretrained(scratch)
    found = ViTModel.from_pretrained(there, add_pooling_layer=False, use_safetensors=True)
    if (found.config.image_size, found.config.patch_size) != (size, patch):
        raise ValueError(f"{str(there)!r} is for other pictures or patches: name another folder, or --restart.")
    return found


def wavy_pictures(count: int, size: int = 32, *, seed: int = 0) -> Tensor:
    """Pictures of one coloured shape on a coloured wavy background.

    Args:
        count: how many.
        size: side, in pixels.
        seed: of the draws.

    Returns:
        uint8 [count, 3, size, size].
    """
    check_number("count", count, low=1, integer=True)
    chance = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=chance)

    # A shape's share of each pixel is its picture in white on black.
    shapes = torch.randint(len(SHAPES), (count, 1), generator=chance)
    cover = render(
        shapes,
        torch.ones(count, 1, 3),
        between(0.16, 0.3, 1),
        between(0, 2 * math.pi, 1),
        between(0.3, 0.7, 1),
        between(0.3, 0.7, 1),
        size=size,
    )[:, :1]
    palette = torch.tensor(list(COLOURS.values()))
    colour = palette[torch.randint(len(palette), (count,), generator=chance)].view(count, 3, 1, 1)
    place = (torch.arange(size) + 0.5) / size
    angle, waves = between(0, math.pi, 1, 1, 1), between(1, 3, 1, 1, 1)
    along = angle.cos() * place.view(1, 1, 1, -1) + angle.sin() * place.view(1, 1, -1, 1)
    wave = (2 * math.pi * (waves * along + between(0, 1, 1, 1, 1))).sin()
    ground = (between(0.2, 0.8, 3, 1, 1) + between(-0.25, 0.25, 3, 1, 1) * wave).clamp(0, 1)
    return ((ground + cover * (colour - ground)) * 255).round().to(torch.uint8)
