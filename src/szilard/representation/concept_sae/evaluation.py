"""Grading a sparse autoencoder without a label per feature: does some feature follow the concept's posterior?

Liu et al., "I Predict Therefore I Am", ICLR 2026, arXiv:2503.08980. As D z ~ f ~ A log p(c|x) + b, a feature that has
found concept k is affine in log p(c_k|x). For every concept, over the 2 N states of its pairs:

    exp_pearson   Pearson's correlation of exp(z_i) and p(c_k = 1|x)          (the paper's)
    log_pearson   Pearson's correlation of z_i and log p(c_k = 1|x)

and the score is the best over features i = 1..m: the largest, not the largest absolute value; `either_side` also lets a
feature follow the concept's other value, p(c_k = 0|x). exp(z) is shifted by its largest exponent, which changes no
correlation and cannot overflow.

Paper: feature and score from the same states; here: the feature is chosen on one half of the pairs and graded on the
other, and the other way round, because among 10^4 features and 100 states the best one of noise is good. The probe that
gives p(c_k|x) is fitted on the first half, too. Beside the score: AUROC of the feature, that of the probe (the
ceiling), and the score of a random dictionary with as many active features (the floor).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from szilard.options import check_bool, check_choice, check_number
from szilard.representation.concept_sae.feature_scores import METRICS, auroc, posterior_correlations, random_codes
from szilard.representation.concept_sae.probe import ConceptProbe
from szilard.representation.concept_sae.states import checked_states

SELECTIONS = ("split", "all")
Half = tuple[Tensor, Tensor]  # rows on which a feature is chosen, rows on which it is graded


@dataclass(frozen=True)
class ConceptScore:
    """How well one concept is found.

    Attributes:
        name: of the concept.
        features: the one chosen on each half, or on all.
        correlation: of the chosen features, the mean over halves.
        auroc: of the chosen features against the labels.
        probe_auroc: of the probe: the ceiling.
        floor: correlation of a random dictionary, chosen and graded alike.
        floor_auroc: its AUROC.
        active: features of a state that are not 0, on average.
    """

    name: str
    features: tuple[int, ...]
    correlation: float
    auroc: float
    probe_auroc: float
    floor: float
    floor_auroc: float
    active: float


@dataclass(frozen=True)
class SaeReport:
    """Scores of an autoencoder.

    Attributes:
        concepts: a score each.
        metric, selection, code, scaling: as given.
        dictionary_size: m.
        error: mean ||x - x^||^2 over the states, in their own units; None: there is no decoder.
        unexplained: the same as a share of the states' variance; None: there is no decoder.
    """

    concepts: tuple[ConceptScore, ...]
    metric: str
    selection: str
    code: str
    scaling: str
    dictionary_size: int
    error: float | None
    unexplained: float | None

    def _mean(self, field: str) -> float:
        return sum(getattr(score, field) for score in self.concepts) / len(self.concepts)

    @property
    def mean(self) -> float:
        """Mean correlation over concepts."""
        return self._mean("correlation")

    @property
    def floor(self) -> float:
        """That of a random dictionary."""
        return self._mean("floor")

    @property
    def auroc(self) -> float:
        """Mean AUROC of the chosen features."""
        return self._mean("auroc")

    @property
    def ceiling(self) -> float:
        """Mean AUROC of the probes."""
        return self._mean("probe_auroc")

    @property
    def active(self) -> float:
        """Mean number of features of a state that are not 0."""
        return self._mean("active")

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        means = {name: getattr(self, name) for name in ("mean", "floor", "auroc", "ceiling", "active")}
        return asdict(self) | means


@torch.no_grad()
def evaluate_sae(
    sae: Any,
    states: Any,
    probes: Mapping[str, ConceptProbe] | None = None,
    *,
    metric: str = "exp_pearson",
    selection: str = "split",
    code: str = "all",
    either_side: bool = False,
    scaling: str = "none",
    floor_draws: int = 3,
    penalty: str | float = "cv",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> SaeReport:
    """Grade an autoencoder on the concepts of pairs.

    Args:
        sae: has `encode(x [N, d]) -> [N, m]` and `dictionary_size`; with `decode` its error is told, too.
        states: (E1 [N, d], E0 [N, d]) by concept, of the layer that the autoencoder was trained on.
        probes: by concept, used as they are; None: fitted on the pairs on which a feature is chosen.
        metric: exp_pearson or log_pearson.
        selection: split, or all: the paper's.
        code: all: the features are z; sparse: S alone, for an autoencoder whose `parts` gives S and R.
        either_side: a feature may follow p(c = 0|x) instead.
        scaling: none, or max: features are divided by their largest absolute value first.
        floor_draws: random dictionaries behind the floor.
        penalty: of the probes that are fitted here.
        seed: of halves, probes and random dictionaries.
        progress: called with the number of concepts done.

    Raises:
        TypeError: no autoencoder or no states.
        ValueError: states as `checked_states` says, a concept without a probe, another width, codes that are not
            finite or of another shape, or an option that is none.
    """
    _check(metric, selection, scaling, floor_draws, seed)
    check_choice("code", code, ("all", "sparse"))
    check_bool("either_side", either_side)
    given = checked_states(states)
    encode, size = _encoder(sae, code)
    least = min(given, key=lambda name: len(given[name][0]))
    if selection == "split" and probes is None and len(given[least][0]) < 8:
        raise ValueError(
            f"concept {least!r} has {len(given[least][0])} pairs; a probe for each half needs 8: give more, or probes."
        )
    if not (probes is None or isinstance(probes, Mapping)):
        raise TypeError(f"probes must map names to ConceptProbe, or be None, not {type(probes).__name__}.")
    if probes is not None and (missing := [name for name in given if name not in probes]):
        raise ValueError(f"there is no probe for concept {missing[0]!r}: fit one, or give probes=None.")
    for name in given if probes is not None else ():
        if not callable(getattr(probes[name], "log_posterior", None)):  # type: ignore[index]
            raise TypeError(f"the probe of concept {name!r} must be a ConceptProbe, not {type(probes[name]).__name__}.")  # type: ignore[index]
    scores = []
    for at, (name, (first, second)) in enumerate(given.items()):
        x = torch.cat([first, second])
        labels = torch.cat([torch.ones(len(first)), torch.zeros(len(second))]).bool()
        halves = _halves(len(first), selection, seed, sides=2)
        targets = []
        for chosen_on, _ in halves:
            one, other = x[chosen_on][labels[chosen_on]], x[chosen_on][~labels[chosen_on]]
            probe = ConceptProbe.fit(one, other, penalty=penalty, seed=seed) if probes is None else probes[name]
            targets.append((probe.log_posterior(x, 1), probe.log_posterior(x, 0)))
        scores.append(
            _scored(name, encode(x), x, labels, halves, targets, metric, scaling, either_side, floor_draws, seed)
        )
        if progress is not None:
            progress(at + 1)
    error, unexplained = _errors(sae, torch.cat([side for both in given.values() for side in both]))
    return SaeReport(tuple(scores), metric, selection, code, scaling, size, error, unexplained)


@torch.no_grad()
def grade_features(
    sae: Any,
    features: Any,
    log_posteriors: Any,
    concepts: Any,
    *,
    names: Sequence[str] | None = None,
    metric: str = "exp_pearson",
    selection: str = "split",
    code: str = "all",
    either_side: bool = False,
    scaling: str = "none",
    floor_draws: int = 3,
    seed: int = 0,
) -> SaeReport:
    """Grade an autoencoder where posteriors are known: planted concepts.

    Args:
        sae: as of `evaluate_sae`.
        features: x [N, d].
        log_posteriors: log p(c_k = v|x) [N, n, 2], last index v.
        concepts: values of the concepts [N, n], 0 or 1; both must occur in both halves.
        names: of the concepts; None: their numbers.
        metric, selection, code, either_side, scaling, floor_draws, seed: as of `evaluate_sae`.

    Raises:
        as `evaluate_sae`.
    """
    _check(metric, selection, scaling, floor_draws, seed)
    check_choice("code", code, ("all", "sparse"))
    check_bool("either_side", either_side)
    given = {"features": features, "log_posteriors": log_posteriors, "concepts": concepts}
    features, log_posteriors, concepts = (_tensor(name, value) for name, value in given.items())
    if concepts.dim() != 2 or not concepts.shape[1]:
        raise ValueError(f"concepts must be [N, n], a column each, not {list(concepts.shape)}.")
    if not bool(((concepts == 0) | (concepts == 1)).all()):
        raise ValueError("concepts must be 0 or 1 everywhere: turn other values into one column each.")
    count, n = concepts.shape
    if log_posteriors.shape != (count, n, 2) or features.dim() != 2 or len(features) != count or count < 8:
        raise ValueError(
            "features [N, d], log_posteriors [N, n, 2] and concepts [N, n] must be of the same N >= 8 samples, not "
            f"{list(features.shape)}, {list(log_posteriors.shape)} and {list(concepts.shape)}."
        )
    if names is not None and (isinstance(names, str) or len(names) != n):
        raise ValueError(f"names must be {n}, one for each concept, not {names!r:.60}.")
    encode, size = _encoder(sae, code)
    x = features.double()
    codes = encode(x)
    halves = _halves(count, selection, seed, sides=1)
    scores = []
    for k in range(n):
        labels = concepts[:, k].bool()
        for half in halves[0]:
            if labels[half].all() or not labels[half].any():
                raise ValueError(f"concept {k} has one value only among {len(half)} samples: give more of them.")
        targets = [(log_posteriors[:, k, 1].double(), log_posteriors[:, k, 0].double())] * len(halves)
        name = str(k) if names is None else str(names[k])
        scores.append(_scored(name, codes, x, labels, halves, targets, metric, scaling, either_side, floor_draws, seed))
    error, unexplained = _errors(sae, x)
    return SaeReport(tuple(scores), metric, selection, code, scaling, size, error, unexplained)


def _scored(
    name: str,
    codes: Tensor,
    x: Tensor,
    labels: Tensor,
    halves: list[Half],
    targets: list[tuple[Tensor, Tensor]],
    metric: str,
    scaling: str,
    either_side: bool,
    floor_draws: int,
    seed: int,
) -> ConceptScore:
    def graded(z: Tensor) -> tuple[tuple[int, ...], float, float]:
        found = [
            _graded(z, labels, half, both, metric, scaling, either_side)
            for half, both in zip(halves, targets, strict=True)
        ]
        features, correlations, areas = zip(*found, strict=True)
        return tuple(features), sum(correlations) / len(found), sum(areas) / len(found)

    active = float((codes != 0).sum(1).double().mean())
    features, correlation, area = graded(codes)
    generator = torch.Generator().manual_seed(seed)
    floors = [graded(random_codes(x, codes.shape[1], max(1, round(active)), generator))[1:] for _ in range(floor_draws)]
    of_probe = [auroc(both[0][half[1]], labels[half[1]]) for half, both in zip(halves, targets, strict=True)]
    return ConceptScore(
        name=name,
        features=features,
        correlation=correlation,
        auroc=area,
        probe_auroc=sum(of_probe) / len(of_probe),
        floor=sum(found[0] for found in floors) / floor_draws,
        floor_auroc=sum(found[1] for found in floors) / floor_draws,
        active=active,
    )


def _graded(
    codes: Tensor,
    labels: Tensor,
    half: Half,
    targets: tuple[Tensor, Tensor],
    metric: str,
    scaling: str,
    either_side: bool,
) -> tuple[int, float, float]:
    """The feature that is best where it is chosen; its correlation and AUROC where it is graded."""
    chosen_on, graded_on = half
    sides = targets if either_side else targets[:1]
    found = torch.stack([posterior_correlations(codes[chosen_on], side[chosen_on], metric, scaling) for side in sides])
    side, feature = divmod(int(found.argmax()), codes.shape[1])
    column = codes[graded_on, feature]
    correlation = posterior_correlations(column[:, None], targets[side][graded_on], metric, scaling)[0]
    area = auroc(column, labels[graded_on])
    return feature, float(correlation), 1 - area if side else area


def _halves(count: int, selection: str, seed: int, sides: int) -> list[Half]:
    """Rows of the halves; with two sides, rows i and count + i are a pair and stay together."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = [order.sort().values] if selection == "all" else [part.sort().values for part in order.tensor_split(2)]
    rows = [torch.cat([part + side * count for side in range(sides)]) for part in parts]
    return [(rows[0], rows[0])] if selection == "all" else [(rows[0], rows[1]), (rows[1], rows[0])]


def _encoder(sae: Any, code: str) -> tuple[Callable[[Tensor], Tensor], int]:
    """x [N, d] float64 -> finite z [N, m], and m."""
    size = getattr(sae, "dictionary_size", None)
    if not callable(getattr(sae, "encode", None)) or not isinstance(size, int):
        raise TypeError(f"an autoencoder needs encode(x) and dictionary_size; {type(sae).__name__} has not both.")
    if code == "sparse" and not callable(getattr(sae, "parts", None)):
        raise ValueError(f"code 'sparse' needs an autoencoder with parts(x); {type(sae).__name__} has none.")

    def encode(x: Tensor) -> Tensor:
        x = x.to(_like(sae))
        z = sae.parts(x)[0] if code == "sparse" else sae.encode(x)
        if z.shape != (len(x), size):
            raise ValueError(f"encode must give [{len(x)}, {size}], not {list(z.shape)}.")
        if not bool(torch.isfinite(z).all()):
            raise ValueError("the autoencoder's codes are not finite: its weights or the states are broken.")
        return z.detach().cpu()

    return encode, size


def _like(sae: Any) -> Tensor:
    """A tensor of the type and on the device that the autoencoder works with."""
    parameters = sae.parameters() if callable(getattr(sae, "parameters", None)) else ()
    return next(iter(parameters), torch.zeros(1))


def _errors(sae: Any, x: Tensor) -> tuple[float | None, float | None]:
    if not callable(getattr(sae, "decode", None)):
        return None, None
    given = x.to(_like(sae))
    error = float((sae.decode(sae.encode(given)).cpu().double() - x).square().sum(1).mean())
    variance = float((x - x.mean(0)).square().sum(1).mean())
    return error, error / variance if variance else 0.0


def _tensor(name: str, given: Any) -> Tensor:
    try:
        return torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or an array of numbers, not {type(given).__name__}.") from error


def _check(metric: str, selection: str, scaling: str, floor_draws: int, seed: int) -> None:
    check_choice("metric", metric, METRICS)
    check_choice("selection", selection, SELECTIONS)
    check_choice("scaling", scaling, ("none", "max"))
    check_number("floor_draws", floor_draws, low=1, integer=True)
    check_number("seed", seed, low=0, integer=True)
