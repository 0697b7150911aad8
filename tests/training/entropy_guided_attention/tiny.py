"""Small stock configs, and every way to simplify one."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import GPT2Config

from szilard.training.entropy_guided_attention import ARCHITECTURES, Simplification, simplified

VOCAB, LENGTH = 61, 24
VARIANTS: dict[str, Simplification] = dict(ARCHITECTURES)
for _name, _base, _changes in (
    ("SM, t per head", "SM", {"attn_temperature": "head", "temperature_init": 0.3}),
    ("SM+LN+G, t per position", "SM+LN+G", {"attn_temperature": "head_pos", "temperature_init": 0.3}),
    ("SM, weight norm", "SM", {"ffn_norm": "weight"}),
    ("SM, spectral norm", "SM", {"ffn_norm": "spectral"}),
    ("SM, weight norm of QKVO and FFN", "SM", {"ffn_norm": "weight", "norm_of": "qkvo+ffn"}),
    ("SM+LN+G, spectral norm of QK", "SM+LN+G", {"ffn_norm": "spectral", "norm_of": "qk"}),
    ("FuFFN, spectral norm of QKV and FFN", "FuFFN", {"ffn_norm": "spectral", "norm_of": "qkv+ffn"}),
    ("SM, scaled", "SM", {"ffn_norm": "scale"}),
    ("SM+G, scaled, t per head", "SM+G", {"ffn_norm": "scale", "attn_temperature": "head", "temperature_init": 2.0}),
    ("SM, last norm kept", "SM", {"final_layernorm": True}),
):
    VARIANTS[_name] = dataclasses.replace(ARCHITECTURES[_base], **_changes)  # type: ignore[arg-type]


def config() -> GPT2Config:
    """A stock GPT-2 of two layers."""
    return GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=LENGTH,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
        initializer_range=0.2,
    )


def model_of(variant: str, given: Any = None) -> Any:
    """The variant in float64 with every parameter moved off its start."""
    torch.manual_seed(3)
    made = simplified(config() if given is None else given, VARIANTS[variant]).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made


def text(rows: int = 2, length: int = 10, seed: int = 0) -> torch.Tensor:
    """Token ids."""
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))
