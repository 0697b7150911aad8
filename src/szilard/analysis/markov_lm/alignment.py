"""Geometry of the head, and whether contexts that predict alike lie near each other, from one pass over texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from szilard.analysis.markov_lm.collection import Collected, collect
from szilard.information.predictive_geometry import spectrum_numbers
from szilard.information.predictive_similarity import (
    dirichlet_energy,
    linear_cka,
    operator_spectrum,
    predictive_similarity,
    spectral_alignment,
)
from szilard.training.recipe import own_chance

_DIRECTIONS = 16  # of the mean metric that are compared with chance


@dataclass(frozen=True)
class Alignment:
    """Of one layer.

    Attributes:
        layer: whose states.
        rho: share of what tells contexts apart in their predictions that states hold linearly, on held-out contexts.
        cka: linear centred kernel alignment.
        null: rho with contexts permuted: mean and largest; None without permutations.
        untrained: rho of the same architecture with weights drawn by chance; None: not measured.
    """

    layer: int
    rho: float
    cka: float
    null: tuple[float, float] | None
    untrained: float | None


def mean_metric(found: Collected, head: Tensor) -> dict[str, Any]:
    """Numbers and leading directions of E[g*] = U^T diag(E p) U - E[u_bar u_bar^T]."""
    assert found.mass is not None and found.outer is not None
    u = head.double()
    metric = (u.T * found.mass) @ u - found.outer
    values, vectors = torch.linalg.eigh(metric)
    numbers = spectrum_numbers(metric)
    numbers["trace_per_dimension"] = numbers["trace"] / len(metric)
    order = values.argsort(descending=True)
    leading = order[: min(_DIRECTIONS, (len(order) + 1) // 2)]
    return {
        "geometry": numbers,
        "eigenvalues": values[leading].tolist(),
        "directions": vectors[:, leading].T.tolist(),
        "last": vectors[:, order[-min(_DIRECTIONS, len(order) // 2) :] if len(order) > 1 else order[:0]].T,
    }


def taught(model: Any, stretches: Any, vocabulary: int, draws: dict[str, Any]) -> Tensor:
    """The teacher's distributions at the same contexts: which they are depends on lengths and seed alone."""
    found = collect(model, stretches, divergences=(), layers=(0,), head=None, vocabulary=vocabulary, **draws)
    assert found.contexts is not None
    return found.contexts


def untrained_states(model: Any, stretches: Any, layers: Sequence[int], draws: dict[str, Any]) -> dict[int, Tensor]:
    """Hidden states of the same architecture with weights drawn by chance, at the same contexts."""
    with own_chance(draws["seed"]):
        fresh = type(model)(model.config).to(model.device).float().eval()
    size = model.config.get_text_config().vocab_size
    found = collect(fresh, stretches, divergences=(), layers=layers, head=None, vocabulary=size, **draws)
    assert found.positions is not None and found.context_rows is not None
    return {layer: found.positions.hidden[layer][found.context_rows] for layer in layers}


def alignments(
    found: Collected,
    head: Tensor,
    layers: Sequence[int],
    *,
    kernel: str,
    beta: float,
    source: Any,
    judged: Tensor | None,
    untrained: dict[int, Tensor] | None,
    permutations: int,
    directions: Tensor,
    last: Tensor,
    seed: int,
) -> dict[str, Any]:
    assert found.positions is not None and found.contexts is not None and found.context_rows is not None
    rows = found.context_rows
    prototypes = torch.nn.functional.normalize(head, dim=1)
    if source == "next-token":
        vectors = prototypes[found.positions.following[rows, 0]]
        gram = vectors @ vectors.T
    else:
        p = (found.contexts if judged is None else judged).float()
        p = p / p.sum(-1, keepdim=True)
        if kernel == "prototype":
            vectors = p @ prototypes
            gram = vectors @ vectors.T
        else:
            gram = predictive_similarity(p, kernel, beta=beta)
            vectors = gram
    own = kernel == "prototype"
    chance = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(rows), generator=chance) for _ in range(permutations)]
    aligned = []
    for layer in layers:
        h = found.positions.hidden[layer][rows].float()

        def rho(states: Tensor) -> float:
            return spectral_alignment(states, vectors, prototypes=own, seed=seed)

        null = [rho(h[order]) for order in orders]
        aligned.append(
            Alignment(
                layer,
                rho(h),
                linear_cka(h, gram),
                (sum(null) / len(null), max(null)) if null else None,
                None if untrained is None else rho(untrained[layer].float()),
            )
        )
    read = found.positions.hidden[-1][rows].double()  # the states that the metric's directions are of
    drawn = torch.randn(64, directions.shape[1], generator=chance, dtype=torch.float64)
    drawn = torch.nn.functional.normalize(drawn, dim=1)
    energy = {
        name: float(dirichlet_energy(gram, read @ chosen.T).mean())
        for name, chosen in (("leading", directions), ("chance", drawn), ("last", last))
        if len(chosen)
    }
    return {
        "alignment": aligned,
        "kernel": kernel,
        "source": source,
        "spectrum": operator_spectrum(gram)[:64].tolist(),
        "dirichlet": energy,
    }
