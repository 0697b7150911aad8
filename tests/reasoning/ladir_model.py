"""A tiny reasoner, its VAE and a batch, in float64, so that cached and uncached runs agree."""

from __future__ import annotations

import torch

from szilard.engines import TransformersEngine
from szilard.reasoning.ladir.packing import Thought, packer
from szilard.reasoning.ladir.reasoner import LaDiRReasoner
from szilard.reasoning.ladir.vae import SentenceVAE
from tests.conftest import tiny_model, tiny_tokenizer

SIZE, WIDTH = 2, 6  # L_b, d_z


def tiny_engine(architecture: str = "llama") -> TransformersEngine:
    """The tiny model and a tokenizer."""
    return TransformersEngine(tiny_model(architecture), tiny_tokenizer(), name="tiny")


def tiny_reasoner(architecture: str = "llama", **options) -> LaDiRReasoner:
    """Untrained; its head says something, and ends come at different blocks."""
    engine = tiny_engine(architecture)
    torch.manual_seed(11)
    vae = SentenceVAE.from_pretrained(engine, latent_tokens=SIZE, latent_dim=WIDTH)
    reasoner = LaDiRReasoner.from_pretrained(engine, vae=vae.double().eval(), **options).double().eval()
    torch.nn.init.normal_(reasoner.parts.head.out.weight, std=0.1)
    torch.nn.init.normal_(reasoner.parts.head.modulation.weight, std=0.1)
    torch.nn.init.normal_(reasoner.parts.special.weight, std=1.0)
    return reasoner


def thoughts(seed: int = 0) -> list[Thought]:
    """Problems with 3, 1 and 2 blocks."""
    chance = torch.Generator().manual_seed(seed)
    made = []
    for question, answer, blocks in (([5, 6, 7, 8], [9, 1], 3), ([5, 6], [10, 11, 1], 1), ([12, 13, 14], [9, 1], 2)):
        mean = torch.randn(blocks, SIZE, WIDTH, generator=chance)
        made.append(Thought(question, answer, mean, torch.full_like(mean, 0.1)))
    return made


def packed(span: str = "block", draws: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """These as a batch in float64."""
    batch = packer(SIZE, WIDTH, span, draws)(thoughts(seed))
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
