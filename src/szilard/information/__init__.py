"""Pure functions that measure information; no models, no state."""

from szilard.information.attention_entropy import (
    attention_entropy,
    entropy_from_logits,
    uniform_causal_entropy,
)
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
from szilard.information.matrix_entropy import effective_rank, matrix_entropy, spectrum
from szilard.information.mutual_information import MutualInformation, mutual_information_from_log_likelihood
from szilard.information.rate_distortion import RateDistortion, rate_distortion
from szilard.information.token_entropy import token_matrix_entropy
from szilard.information.transport import sinkhorn

__all__ = [
    "Measures",
    "MutualInformation",
    "RateDistortion",
    "attention_entropy",
    "effective_rank",
    "entropy",
    "entropy_from_logits",
    "entropy_of_probabilities",
    "js_divergence",
    "kl_divergence",
    "matrix_entropy",
    "measure",
    "mutual_information_from_log_likelihood",
    "perplexity",
    "rate_distortion",
    "sinkhorn",
    "spectrum",
    "token_matrix_entropy",
    "top_k_mass",
    "uniform_causal_entropy",
    "varentropy",
]
