"""Tiny vision models and autoencoders, built on the spot."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from szilard.representation.lv_rae.config import LVRAEConfig
from szilard.representation.lv_rae.model import LVRAE

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 4,
}
CONFIG = LVRAEConfig(vfm="tiny", encoder_depth=1, decoder_depth=1, hidden=16, heads=2, patch=4)


def vision_model(kind: str = "vit", **changes: Any) -> nn.Module:
    """A random vision model of transformers whose final norm is not the identity."""
    import transformers as t

    shape = SHAPE | changes
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "vit":
            model: Any = t.ViTModel(t.ViTConfig(**shape), add_pooling_layer=False)
        elif kind == "dinov2":
            model = t.Dinov2Model(t.Dinov2Config(**shape | {"drop_path_rate": 0.5, "mlp_ratio": 2}))
        elif kind == "dinov2_with_registers":
            model = t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**shape | {"mlp_ratio": 2}))
        elif kind == "dinov3":
            model = t.DINOv3ViTModel(t.DINOv3ViTConfig(**shape | {"num_register_tokens": 2}))
        else:
            model = t.SiglipVisionModel(t.SiglipVisionConfig(**shape))
        for weight in model.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
    return model.eval()


def autoencoder(kind: str = "vit", seed: int = 0, **changes: Any) -> LVRAE:
    """A fresh autoencoder."""
    import dataclasses

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LVRAE(dataclasses.replace(CONFIG, **changes), vision_model(kind)).eval()


def awake(model: LVRAE) -> LVRAE:
    """With a residual that is not zero."""
    assert model.encoder is not None
    with torch.random.fork_rng():
        torch.manual_seed(3)
        nn.init.normal_(model.encoder.out.weight, std=0.3)
    return model


def pictures(count: int = 3, height: int = 16, width: int = 16, seed: int = 0) -> torch.Tensor:
    """Random pictures in [0, 1]."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
