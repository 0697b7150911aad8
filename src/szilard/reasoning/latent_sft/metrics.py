"""How much of an explicit chain its latent tokens hold, and how many solutions they hold at once.

ECR@K, effective compression rate: of the reference chain's part that a latent step stands for, the tokens among the K
likeliest of its distribution, averaged over steps. A chain of n tokens and m latent steps is cut at floor(t n / m)
(inferred; so the rate may exceed r where m is small). An explicit chain has 1.

N_eff, effective global parallelism: several reference solutions ("paths"), each cut into T parts.

    s_m = (1/T) sum_t log(mass_t,m + 1e-12)     pi = softmax(s / temperature)     N_eff = exp(H(pi)), 1 <= N_eff <= M

mass_t,m is what the distribution of the latent step matched with part t gives to that part's ids, among its likeliest
100, with multiplicity (an id that occurs twice counts twice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from szilard.options import check_number

_EPSILON = 1e-12


def cut_evenly(chain: Sequence[int], parts: int) -> list[list[int]]:
    """A chain in so many parts: part t is [floor(t n / parts), floor((t + 1) n / parts))."""
    n = len(chain)
    return [list(chain[t * n // parts : (t + 1) * n // parts]) for t in range(parts)]


def effective_compression_rate(
    likeliest: torch.Tensor, reference: Sequence[int], count: int, *, rate: int | None = None, ahead: int = 0
) -> float:
    """ECR@K of one chain.

    Args:
        likeliest: ids of every step's distribution, the likeliest first, int64 [steps, at least K].
        reference: token ids of the explicit chain.
        count: K.
        rate: r, where the parts are to be the training's chunks; None: equal parts, whatever the number of steps.
        ahead: 0: a step's own part, as in the paper; 1: the next, which its latent token is taught to lead to (ours).

    Returns:
        Explicit tokens that a latent step covers, on average. NaN without latent steps that have a part.

    Raises:
        ValueError: fewer than K ids per step.
    """
    check_number("count", count, low=1, integer=True)
    if likeliest.dim() != 2 or (len(likeliest) and likeliest.shape[1] < count):
        raise ValueError(f"likeliest must be [steps, at least {count}] ids, not {tuple(likeliest.shape)}.")
    check_number("rate", rate, low=1, integer=True, optional=True)
    check_number("ahead", ahead, low=0, integer=True)
    steps = len(likeliest) - ahead
    if steps < 1:
        return float("nan")
    if rate is None:
        parts = cut_evenly(reference, len(likeliest))[ahead:]
    else:
        parts = [list(reference[(t + ahead) * rate : (t + ahead + 1) * rate]) for t in range(steps)]
    step = torch.tensor([t for t, part in enumerate(parts) for _ in part], dtype=torch.long)
    tokens = torch.tensor([token for part in parts for token in part], dtype=torch.long)
    covered = (likeliest.cpu()[step, :count] == tokens[:, None]).any(-1)  # [n]
    return float(covered.sum()) / steps


@dataclass(frozen=True)
class Parallelism:
    """How many paths a latent chain holds at once.

    Attributes:
        effective: N_eff.
        naive: the mean N_eff under random matchings of parts and latent steps; None where none were drawn.
        normalised: effective / naive, or None.
        top_2: pi_(2) / pi_(1), the second likeliest path beside the likeliest (inferred: the paper's "Top-2 score" is
            not defined where we could read it); 0 with one path.
        posterior: pi, [paths].
    """

    effective: float
    naive: float | None
    normalised: float | None
    top_2: float
    posterior: torch.Tensor


def effective_global_parallelism(
    likeliest: torch.Tensor,
    shares: torch.Tensor,
    paths: Sequence[Sequence[int]],
    *,
    topk: int = 100,
    temperature: float = 1.0,
    segments: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
    embeddings: torch.Tensor | None = None,
    matchings: int = 0,
    seed: int = 0,
) -> Parallelism:
    """N_eff of one latent chain of T steps.

    Part t of every path belongs to latent step t (first version, inferred). With `segments` or `embeddings` each latent
    step, in order, takes the nearest part that is left, by cosine (second version).

    Args:
        likeliest, shares: ids and probabilities of every step's distribution, the likeliest first, [T, n].
        paths: token ids of M reference solutions.
        topk: ids of a distribution that count.
        temperature: of pi.
        segments: per path vectors of its T parts and of the T latent steps, [T, d] each; usually the parts' latent
            tokens, as the encoder makes them, and the chain's own.
        embeddings: where there are no `segments`: the vocabulary's embeddings [vocab, d], in which a part is the mean
            of its tokens, and a latent step the weighted mean of its likeliest.
        matchings: random one-to-one matchings for the naive N_eff; the paper draws 64.
        seed: of these.

    Raises:
        ValueError: no path, no latent step, or shapes that do not belong together.
    """
    if likeliest.shape != shares.shape or likeliest.dim() != 2 or not len(likeliest):
        raise ValueError(
            f"likeliest and shares must both be [steps, n] with at least one step, not {tuple(likeliest.shape)} and "
            f"{tuple(shares.shape)}."
        )
    if not paths:
        raise ValueError("paths must hold at least one reference solution.")
    check_number("topk", topk, low=1, integer=True)
    check_number("temperature", temperature, low=1e-6)
    check_number("matchings", matchings, low=0, integer=True)
    ids, weights = likeliest[:, :topk].cpu(), shares[:, :topk].double().cpu()
    steps = len(ids)
    masses = torch.stack([_masses(ids, weights, cut_evenly(path, steps)) for path in paths])  # [paths, steps, parts]
    if segments is None and embeddings is not None:
        segments = [_by_embeddings(ids, weights, cut_evenly(path, steps), embeddings.cpu()) for path in paths]
    in_order = torch.arange(steps)
    if segments is None:
        places = in_order.expand(len(paths), -1)
    else:
        if len(segments) != len(paths) or any(len(a) != steps or len(b) != steps for a, b in segments):
            raise ValueError(
                f"segments must hold {steps} parts and {steps} latent steps for each of {len(paths)} paths."
            )
        places = torch.stack([_nearest(parts, latents) for parts, latents in segments])  # [paths, steps]
    posterior, effective = _effective(masses, places, temperature)
    naive = None
    if matchings:
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(matchings):
            drawn = torch.stack([torch.randperm(steps, generator=generator) for _ in paths])
            found.append(_effective(masses, drawn, temperature)[1])
        naive = sum(found) / matchings
    ordered = posterior.sort(descending=True).values
    top_2 = float(ordered[1] / ordered[0]) if len(ordered) > 1 else 0.0
    return Parallelism(effective, naive, None if naive is None else effective / naive, top_2, posterior)


def _masses(ids: torch.Tensor, weights: torch.Tensor, parts: Sequence[Sequence[int]]) -> torch.Tensor:
    """What each step's distribution gives to the ids of each part, with multiplicity: [steps, parts]."""
    part = torch.tensor([number for number, tokens in enumerate(parts) for _ in tokens], dtype=torch.long)
    tokens = torch.tensor([token for found in parts for token in found], dtype=torch.long)
    each = torch.where(ids[:, :, None] == tokens, weights[:, :, None], 0).sum(1)  # [steps, tokens]
    return each.new_zeros(len(ids), len(parts)).index_add(1, part, each)


def _effective(masses: torch.Tensor, places: torch.Tensor, temperature: float) -> tuple[torch.Tensor, float]:
    """pi and N_eff, where latent step t of path m is matched with part `places[m, t]`."""
    mass = masses.gather(2, places[:, :, None])[..., 0]  # [paths, steps]
    scores = (mass + _EPSILON).log().mean(1)
    posterior = (scores / temperature).softmax(0)
    return posterior, float(torch.special.entr(posterior).sum().exp())


def _nearest(parts: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Each latent step, in order, takes the nearest part, by cosine, that is left: int64 [steps]."""
    parts, latents = (torch.nn.functional.normalize(rows.double(), dim=-1) for rows in (parts, latents))
    near = latents @ parts.T
    found = []
    for row in near:  # greedy: a step's choice depends on those before it
        place = int(row.argmax())
        found.append(place)
        near[:, place] = -torch.inf
    return torch.tensor(found)


def _by_embeddings(
    ids: torch.Tensor, weights: torch.Tensor, parts: Sequence[Sequence[int]], embeddings: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of parts and of latent steps in the vocabulary's own space, [steps, d] each; an empty part is 0."""
    rows = embeddings.double()
    own = torch.stack([rows[list(part)].mean(0) if part else rows.new_zeros(rows.shape[1]) for part in parts])
    return own, torch.einsum("tk,tkd->td", weights / weights.sum(-1, keepdim=True), rows[ids])
