"""A small VL-JEPA and its parts, built on the spot."""

from __future__ import annotations

from typing import Any

import torch

from szilard.representation.vl_jepa.model import VLJEPA
from szilard.representation.vl_jepa.predictor import VLJEPAPredictor
from szilard.representation.vl_jepa.scenes import scene_words, word_tokenizer
from szilard.representation.vl_jepa.text_encoder import TextEncoder
from szilard.representation.vl_jepa.vision_encoder import PatchEncoder

WIDTH = 16


def tokenizer() -> Any:
    return word_tokenizer(scene_words())


def encoder(size: int = 16) -> PatchEncoder:
    return PatchEncoder(size, 8, WIDTH, 1, 2)


def small(*, bidirectional: bool = True, size: int = 16, seed: int = 0, **settings: Any) -> VLJEPA:
    """Two layers of width 16, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = tokenizer()
        predictor = VLJEPAPredictor.from_scratch(
            len(words),
            words.pad_token_id,
            visual_width=WIDTH,
            width=WIDTH,
            layers=2,
            heads=2,
            embed_dim=12,
            bidirectional=bidirectional,
        )
        text = TextEncoder.from_scratch(len(words), words.pad_token_id, width=WIDTH, layers=1, heads=2, embed_dim=12)
        model = VLJEPA(encoder(size), predictor, text, query_tokenizer=words, answer_tokenizer=words, **settings)
    return model.eval()


def pictures(count: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=chance, dtype=torch.uint8)
