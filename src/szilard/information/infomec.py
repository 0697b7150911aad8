"""InfoMEC: how modular, explicit and compact a representation is, given the factors that made the data.

Hsu, Dorrell, Whittington, Wu, Finn, "Disentanglement via Latent Quantization", NeurIPS 2023, arXiv:2305.18378.

With sources s (whole numbers, [N, n_s]), latents z ([N, n_z]) and NMI_ij = I(s_i; z_j) / H(s_i) over the n_a latents
that are active (that move at all):

    InfoM = (mean_j max_i NMI_ij / sum_i NMI_ij - 1/n_s) / (1 - 1/n_s)    each latent tells about one source
    InfoC = (mean_i max_j NMI_ij / sum_j NMI_ij - 1/n_a) / (1 - 1/n_a)    each source lives in one latent
    InfoE = mean_i (H_V(s_i) - H_V(s_i | z)) / H_V(s_i)                   a linear classifier reads each source

I(s; z) of a discrete latent is the plug-in value of the table of counts. Of a continuous one it is the estimate of
Ross (2014) from nearest neighbours, as scikit-learn's `mutual_info_classif` computes it; in one dimension, neighbours
stand beside each other in sorted order, so that no tree is needed. V is multinomial logistic regression without penalty
and with balanced classes, fitted and scored on the same samples; its H_V(s) without features is log K exactly. InfoE is
therefore a number in the sample: with few samples per column it goes to 1 for noise.

Nats everywhere.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from szilard.information.label_information import binned, count_entropy, plug_in, ross
from szilard.information.sample_tables import (
    Array,
    as_columns,
    class_labels,
    number_table,
    sample_table,
    source_labels,
)
from szilard.options import check_bool, check_number
from szilard.report_page import heat_map

_JITTER = 1e-10  # of the standardised column: breaks ties, as scikit-learn does


@dataclass(frozen=True)
class InfoMEC:
    """What `infomec` found.

    Attributes:
        modularity: InfoM; 0 is chance. 0, too, where nothing can be told: no active latent carries anything, or there
            is one source.
        explicitness: InfoE, at most 1; below 0 where balanced classes cost more than they give.
        compactness: InfoC; 0 is chance. 0, too, for one active latent.
        nmi: [n_s, n_z], shares of each source's entropy.
        active: bool [n_z].
        explicitness_of: [n_s].
        samples: N.
        columns: features that the classifier saw; InfoE means something where samples are many more.
    """

    modularity: float
    explicitness: float
    compactness: float
    nmi: np.ndarray
    active: np.ndarray
    explicitness_of: np.ndarray
    samples: int
    columns: int

    @property
    def modularity_gap(self) -> float:
        """Largest minus second largest NMI of an active latent, the mean; not what the authors recommend."""
        return _gap(self.nmi[:, self.active], axis=0)

    @property
    def compactness_gap(self) -> float:
        """Largest minus second largest NMI of a source over the active latents, the mean."""
        return _gap(self.nmi[:, self.active], axis=1)

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "modularity": self.modularity,
            "explicitness": self.explicitness,
            "compactness": self.compactness,
            "nmi": self.nmi.tolist(),
            "active": self.active.tolist(),
            "explicitness_of": self.explicitness_of.tolist(),
            "samples": self.samples,
            "columns": self.columns,
        }

    def heatmap(self) -> str:
        """The NMI as an SVG: a row per source, a column per latent."""
        return heat_map(self.nmi.tolist(), rows="source", columns="latent")


def infomec(
    sources: Array,
    latents: Array,
    *,
    discrete: bool,
    neighbors: int = 10,
    active_fraction: float = 1 / 20,
    bins: int | None = None,
) -> InfoMEC:
    """Grade a representation against known factors.

    Args:
        sources: [N, n_s] factors; numbers or words, equal ones are one class.
        latents: [N, n_z] of the same samples. Of quantised latents give the indices: a straight-through output differs
            from its value by rounding.
        discrete: whether latents are labels. Else they are numbers.
        neighbors: k of the nearest-neighbour estimate, for continuous latents.
        active_fraction: a continuous latent is active if its range exceeds this share of the largest range; a discrete
            one if it takes two values.
        bins: estimate the information of continuous latents by the plug-in over so many bins of equal counts instead,
            which is what a discrete latent of so many values is measured with; None: nearest neighbours.

    Raises:
        ValueError: shapes that do not match, values that are no numbers, a source with one value, or one in which no
            value occurs twice; bins for latents that are labels.
        ImportError: scikit-learn is not installed.
    """
    check_bool("discrete", discrete)
    _check_estimate(discrete, neighbors, bins)
    check_number("active_fraction", active_fraction, low=0, high=1)
    labels, z = source_labels(sources), _latents(latents, discrete)
    if len(labels) != len(z):
        raise ValueError(f"sources have {len(labels)} samples and latents {len(z)}: give both of the same samples.")
    width = np.ptp(z / max(1.0, float(np.abs(z).max())), axis=0)  # the largest numbers overflow otherwise
    active = width > (0.0 if discrete else active_fraction * width.max())
    if not discrete:
        z = _standardised(z)
    nmi = _nmi(labels, z, discrete, neighbors, bins)
    features = _one_hot(z) if discrete else z
    explicit = np.array([_explicitness(features, column) for column in labels.T])
    told = nmi[:, active]
    return InfoMEC(
        modularity=_ratio(told, axis=0),
        explicitness=float(explicit.mean()),
        compactness=_ratio(told, axis=1),
        nmi=nmi,
        active=active,
        explicitness_of=explicit,
        samples=len(labels),
        columns=features.shape[1],
    )


def normalized_mutual_information(
    sources: Array, latents: Array, *, discrete: bool, neighbors: int = 10, bins: int | None = None
) -> np.ndarray:
    """[n_s, n_z]: I(s_i; z_j) / H(s_i), what share of a source's entropy a latent tells; arguments as in `infomec`."""
    check_bool("discrete", discrete)
    _check_estimate(discrete, neighbors, bins)
    labels, z = source_labels(sources), _latents(latents, discrete)
    if len(labels) != len(z):
        raise ValueError(f"sources have {len(labels)} samples and latents {len(z)}: give both of the same samples.")
    return _nmi(labels, z if discrete else _standardised(z), discrete, neighbors, bins)


def predictive_information(features: Array, labels: Array, *, continuous: bool = False) -> float:
    """What share of the labels' entropy a linear model reads from features, fitted and scored on the same samples.

    Args:
        features: [N, d]; the scale is taken as it is.
        labels: [N] classes; or numbers.
        continuous: labels are numbers: the share of their variance that linear regression explains, R^2.

    Returns:
        (log K - log-loss) / log K, or R^2.

    Raises:
        ValueError: shapes that do not match, no numbers, or one class.
        ImportError: scikit-learn is not installed.
    """
    check_bool("continuous", continuous)
    x = number_table("features", features)
    y = number_table("labels", as_columns(labels)) if continuous else source_labels(as_columns(labels), "labels")
    if len(x) != len(y):
        raise ValueError(f"features have {len(x)} samples and labels {len(y)}: give both of the same samples.")
    if y.shape[1] != 1:
        raise ValueError(f"labels must be one column [{len(x)}], not {list(y.shape)}: call it for each of them.")
    if not continuous:
        return _explicitness(x, y[:, 0])
    y = _standardised(y)
    if not np.ptp(y) > 0:
        raise ValueError("the labels are all equal: there is nothing to predict.")
    design = np.column_stack([x, np.ones(len(x))])
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - rest.var() / y.var())


def _nmi(labels: np.ndarray, z: np.ndarray, discrete: bool, neighbors: int, bins: int | None) -> np.ndarray:
    entropies = [count_entropy(np.bincount(column)) for column in labels.T]
    if discrete or bins is not None:
        columns = [class_labels(column) if discrete else binned(column, bins or 2) for column in z.T]
        found = [[plug_in(source, column) for column in columns] for source in labels.T]
    else:
        noise = np.random.default_rng(0).standard_normal(len(z)) * _JITTER  # one for all: columns stay exchangeable
        noisy = z + noise[:, None] * np.maximum(1.0, np.abs(z).mean(0))
        found = [[ross(column, source, neighbors) for column in noisy.T] for source in labels.T]
    return np.array(found) / np.array(entropies)[:, None]


def _ratio(told: np.ndarray, axis: int) -> float:
    """(mean of largest share - chance) / (1 - chance) along an axis of NMI; what tells nothing is left out."""
    # Paper: 0/0 where an active latent tells nothing, for one latent or none; here: such rows and columns are left out,
    # and the number is 0 if none stays, because a silent NaN would hide what the other latents are.
    chance = 1 / told.shape[axis] if told.shape[axis] else 1.0
    total = told.sum(axis)
    if chance == 1 or not (total > 0).any():
        return 0.0
    shares = told.max(axis)[total > 0] / total[total > 0]
    return float((shares.mean() - chance) / (1 - chance))


def _gap(told: np.ndarray, axis: int) -> float:
    if told.size == 0 or told.shape[axis] < 2:
        return 0.0
    two = np.sort(told, axis=axis).take([-2, -1], axis=axis)
    return float(np.diff(two, axis=axis).mean())


def _explicitness(features: Any, labels: np.ndarray) -> float:
    try:
        from scipy.special import log_softmax
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ImportError("explicitness needs the package scikit-learn: pip install 'szilard[eval]'") from None
    classes = int(labels.max()) + 1
    chance = math.log(classes)  # of balanced classes, whatever their sizes
    model = LogisticRegression(C=np.inf, class_weight="balanced", tol=1e-4, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable classes never converge
        model.fit(features, labels)
    scores = model.decision_function(features)
    scores = np.column_stack([np.zeros(len(labels)), scores]) if scores.ndim == 1 else scores
    loss = -log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean()
    return float((chance - loss) / chance)


# --- what is measured -------------------------------------------------------------------------------------------------


def _check_estimate(discrete: bool, neighbors: int, bins: int | None) -> None:
    check_number("neighbors", neighbors, low=1, integer=True)
    check_number("bins", bins, low=2, integer=True, optional=True)
    if discrete and bins is not None:
        raise ValueError("bins cut latents that are numbers, and labels are counted as they are: leave bins out.")


def _latents(given: Array, discrete: bool) -> np.ndarray:
    if not discrete:
        return number_table("latents", given)
    return np.stack([class_labels(column) for column in sample_table("latents", given).T], axis=1)


def _standardised(z: np.ndarray) -> np.ndarray:
    largest = np.abs(z).max(0)
    z = z / np.where(largest > 0, largest, 1.0)  # neither tiny nor huge numbers leave float64
    spread = z.std(0)
    flat = spread <= 1e-12
    return np.where(flat, 0.0, (z - z.mean(0)) / np.where(flat, 1.0, spread))


def _one_hot(z: np.ndarray) -> Any:
    """Sparse [N, sum of values], float64: a one per latent and row."""
    from scipy.sparse import csr_matrix

    columns = [class_labels(column) for column in z.T]
    offsets = np.cumsum([0, *(int(column.max()) + 1 for column in columns)])
    places = np.stack(columns, axis=1) + offsets[:-1]
    rows = np.repeat(np.arange(len(z)), z.shape[1])
    shape = (len(z), int(offsets[-1]))
    return csr_matrix((np.ones(places.size), (rows, places.reshape(-1))), shape=shape)
