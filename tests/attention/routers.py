"""Untrained routers for the tiny models."""

from __future__ import annotations

import torch

from szilard.attention.first.routers import LayerRouters


def deciding_routers(layers: int = 3, scale: float = 1.0) -> LayerRouters:
    """Routers whose probabilities lie on both sides of one half, so that prompts are decided differently."""
    routers = LayerRouters(base={"hidden_size": 32, "vocab_size": 97}, layers=layers)
    with torch.no_grad():
        routers.weight.normal_(0, scale, generator=torch.Generator().manual_seed(5))
        routers.bias.zero_()
    return routers.eval()


def fixed_routers(probability: list[float]) -> LayerRouters:
    """Routers that give each layer one probability, whatever they see."""
    routers = LayerRouters(base={"hidden_size": 32, "vocab_size": 97}, layers=len(probability))
    with torch.no_grad():
        routers.bias.copy_(torch.logit(torch.tensor(probability), eps=1e-30))
    return routers.eval()
