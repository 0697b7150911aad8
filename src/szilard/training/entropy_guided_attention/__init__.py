"""Entropy-Guided Attention: decoders without layer norms and activations, held together by the entropy of attention.

Jha and Reagen 2025, "Entropy-Guided Attention for Private LLMs", PPAI at AAAI 2025, arXiv 2501.03489.
"""

from szilard.training.entropy_guided_attention.folding import fold_for_inference, read_simplified, simplification_of
from szilard.training.entropy_guided_attention.regularizer import EntropyRegularizer, comparable_weight
from szilard.training.entropy_guided_attention.simplified import (
    ARCHITECTURES,
    Simplification,
    simplified,
    simplify_gpt2,
)

__all__ = [
    "ARCHITECTURES",
    "EntropyRegularizer",
    "Simplification",
    "comparable_weight",
    "fold_for_inference",
    "read_simplified",
    "simplification_of",
    "simplified",
    "simplify_gpt2",
]
