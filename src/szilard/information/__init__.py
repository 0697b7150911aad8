"""Pure functions that measure information; no models, no state."""

from szilard.information.logits import (
    Measures,
    entropy,
    entropy_of_probabilities,
    js_divergence,
    kl_divergence,
    measure,
    perplexity,
    top_k_mass,
    varentropy,
)

__all__ = [
    "Measures",
    "entropy",
    "entropy_of_probabilities",
    "js_divergence",
    "kl_divergence",
    "measure",
    "perplexity",
    "top_k_mass",
    "varentropy",
]
