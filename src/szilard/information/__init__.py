"""Pure functions that measure information; no models, no state."""

from szilard.information.attention_entropy import (
    attention_entropy,
    entropy_from_logits,
    uniform_causal_entropy,
)
from szilard.information.categorical_entropy import categorical_entropy
from szilard.information.cknna import cknna
from szilard.information.frechet_distance import energy_distance, frechet_distance, nearest_distance
from szilard.information.gaussian_latents import (
    effective_dimension,
    gaussian_dissipating_information,
    gaussian_latent_information,
    von_neumann_entropy,
    water_filling,
)
from szilard.information.infomec import (
    InfoMEC,
    infomec,
    normalized_mutual_information,
    predictive_information,
)
from szilard.information.label_information import neighbor_information
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
from szilard.information.markov_surplus import markov_surplus
from szilard.information.matrix_entropy import effective_rank, matrix_entropy, spectrum
from szilard.information.mutual_information import MutualInformation, mutual_information_from_log_likelihood
from szilard.information.nuclear_norm import nuclear_norm, nuclear_norm_of_product
from szilard.information.predictive_geometry import mean_pullback_metric, pullback_metric
from szilard.information.predictive_similarity import dirichlet_energy, predictive_similarity, spectral_alignment
from szilard.information.rate_distortion import RateDistortion, rate_distortion
from szilard.information.temporal_infonce import temporal_infonce
from szilard.information.text_diversity import (
    dataset_bleu,
    distinct_n,
    ends_in_loop,
    loop_rate,
    repeated_ngram_rate,
    self_bleu,
    type_token_ratio,
)
from szilard.information.text_overlap import SpanIndex, copy_rate, longest_overlap
from szilard.information.token_entropy import token_matrix_entropy
from szilard.information.transport import sinkhorn

__all__ = [
    "InfoMEC",
    "Measures",
    "MutualInformation",
    "RateDistortion",
    "SpanIndex",
    "attention_entropy",
    "categorical_entropy",
    "cknna",
    "copy_rate",
    "dataset_bleu",
    "dirichlet_energy",
    "distinct_n",
    "effective_dimension",
    "effective_rank",
    "ends_in_loop",
    "energy_distance",
    "entropy",
    "entropy_from_logits",
    "entropy_of_probabilities",
    "frechet_distance",
    "gaussian_dissipating_information",
    "gaussian_latent_information",
    "infomec",
    "js_divergence",
    "kl_divergence",
    "longest_overlap",
    "loop_rate",
    "markov_surplus",
    "matrix_entropy",
    "mean_pullback_metric",
    "measure",
    "mutual_information_from_log_likelihood",
    "nearest_distance",
    "neighbor_information",
    "normalized_mutual_information",
    "nuclear_norm",
    "nuclear_norm_of_product",
    "perplexity",
    "predictive_information",
    "predictive_similarity",
    "pullback_metric",
    "rate_distortion",
    "repeated_ngram_rate",
    "self_bleu",
    "sinkhorn",
    "spectral_alignment",
    "spectrum",
    "temporal_infonce",
    "token_matrix_entropy",
    "top_k_mass",
    "type_token_ratio",
    "uniform_causal_entropy",
    "varentropy",
    "von_neumann_entropy",
    "water_filling",
]
