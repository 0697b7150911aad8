"""Dependent binary concepts on a random graph, noisy observations of them, and activations that hold their posteriors.

Liu et al., "I Predict Therefore I Am", ICLR 2026, arXiv:2503.08980, simulation study. Concepts c_1..c_m lie on a random
directed acyclic graph; each is a Bernoulli variable whose parameter, drawn from [0.2, 0.8] for every state of its
parents, gives p(c) over all l = 2^m joint values. Everything below is exact: p(c|x) is a sum over the l values.

(inferred) ERk is an Erdos-Renyi graph with k m expected edges. (inferred) Mixing: the one-hot joint value goes through
a random permutation of the l values, and the bits of where it lands are observed; more than m observations come from
further permutations. (inferred) A share `flip` of the observed bits is wrong, so that posteriors are never 0 or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from szilard.options import check_choice, check_number

MOST_CONCEPTS = 12  # the joint has 2^m values


@dataclass(frozen=True)
class ConceptWorld:
    """Concepts and what is observed of them.

    Attributes:
        parents: [m, m] bool; parents[i, j]: j is a parent of i.
        values: all joint values of the concepts, [l, m], 0 or 1.
        log_prior: log p(c) [l].
        table: the bit that each observed variable has without noise, [l, n].
        flip: probability that an observed bit is wrong.
    """

    parents: Tensor
    values: Tensor
    log_prior: Tensor
    table: Tensor
    flip: float

    @classmethod
    def random(
        cls, concepts: int = 4, observed: int = 12, *, edges: float = 1.0, flip: float = 0.05, seed: int = 0
    ) -> ConceptWorld:
        """Draw a world.

        Args:
            concepts: m, at most 12.
            observed: n, observed binary variables.
            edges: k of ERk: k m expected edges, as far as m concepts can have so many; 0: independent concepts.
            flip: above 0, below 1/2.
            seed: of everything.

        Raises:
            ValueError: a number out of its range.
        """
        check_number("concepts", concepts, low=1, high=MOST_CONCEPTS, integer=True)
        check_number("observed", observed, low=1, integer=True)
        check_number("edges", edges, low=0)
        check_number("flip", flip, low=1e-6, high=0.499)
        check_number("seed", seed, low=0, integer=True)
        draws = torch.Generator().manual_seed(seed)
        share = min(1.0, 2 * edges / max(1, concepts - 1))
        below = torch.rand(concepts, concepts, generator=draws).tril(-1) > 1 - share
        order = torch.randperm(concepts, generator=draws)
        parents = torch.zeros(concepts, concepts, dtype=torch.bool)
        parents[order[:, None], order] = below
        count = 2**concepts
        bits = torch.arange(concepts)
        values = torch.arange(count)[:, None] >> bits & 1  # [l, m]
        chances = 0.2 + 0.6 * torch.rand(concepts, count, generator=draws, dtype=torch.float64)
        # The number that a concept's parents spell in binary picks its parameter.
        spelt = (values[:, None] * parents * (1 << bits)).sum(-1)  # [l, m]
        chance = chances[bits, spelt]
        log_prior = torch.where(values.bool(), chance, 1 - chance).log().sum(1)
        shuffles = [torch.randperm(count, generator=draws) for _ in range(-(-observed // concepts))]
        table = torch.cat([shuffle[:, None] >> bits & 1 for shuffle in shuffles], dim=1)[:, :observed]
        return cls(parents, values, log_prior, table, flip)

    def sample(self, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Concepts [count, m] and observations [count, n], 0 or 1."""
        check_number("count", count, low=1, integer=True)
        check_number("seed", seed, low=0, integer=True)
        draws = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.log_prior.exp(), count, replacement=True, generator=draws)
        seen = self.table[chosen]
        wrong = torch.rand(seen.shape, generator=draws) < self.flip
        return self.values[chosen], seen ^ wrong

    def log_joint_posterior(self, observations: Tensor, visible: Tensor) -> Tensor:
        """log p(c|x) [N, l], float64, where x are the visible ones of [N, n] observations."""
        right = torch.tensor(1 - self.flip, dtype=torch.float64).log()
        wrong = torch.tensor(self.flip, dtype=torch.float64).log()
        table, seen, shown = self.table.double(), observations.double(), visible.double()
        # Visible bits that differ from the table's: x (1 - t) + (1 - x) t, summed over the variables.
        differing = (shown * seen) @ (1 - table).T + (shown * (1 - seen)) @ table.T
        likelihood = right * (shown.sum(1, keepdim=True) - differing) + wrong * differing
        return (self.log_prior + likelihood).log_softmax(1)

    def log_posteriors(self, log_joint: Tensor) -> Tensor:
        """log p(c_k = v|x) [N, m, 2], of log p(c|x) [N, l]."""
        columns = [  # per concept, so that memory stays at that of [N, l]
            torch.stack([log_joint[:, self.values[:, k] == value].logsumexp(1) for value in (0, 1)], dim=-1)
            for k in range(self.values.shape[1])
        ]
        return torch.stack(columns, dim=1)


def masks(count: int, observed: int, share: float, *, seed: int = 0) -> Tensor:
    """Which of [count, observed] are visible: all but a random share of each row, at least one of them hidden."""
    check_number("share", share, low=0.0, high=1.0)
    hidden = min(max(1, round(share * observed)), max(1, observed - 1))
    noise = torch.rand(count, observed, generator=torch.Generator().manual_seed(seed))
    return noise.argsort(1).argsort(1) >= hidden


@dataclass(frozen=True)
class PlantedFeatures:
    """Activations with known posteriors.

    Attributes:
        features: x = log p(c|x) A + b [N, d], float32, norms of the order of sqrt(d).
        log_posteriors: log p(c_k = v|x) [N, m, 2], float64.
        concepts: their values [N, m], 0 or 1.
        directions: A [inputs, d]: a row per column of the log-posteriors that were mixed.
    """

    features: Tensor
    log_posteriors: Tensor
    concepts: Tensor
    directions: Tensor


def plant_features(
    world: ConceptWorld,
    count: int,
    input_dim: int,
    *,
    mixed: str = "concepts",
    hidden_share: float = 0.25,
    noise: float = 0.0,
    seed: int = 0,
    mixing_seed: int = 0,
) -> PlantedFeatures:
    """Activations as the theorem has them: an affine map of log-posteriors of contexts of the world.

    Args:
        world: concepts and observations.
        count: N contexts.
        input_dim: d.
        mixed: concepts: the log-posteriors of every concept's two values, 2 m inputs; joint: those of all l values.
        hidden_share: of the observations of each context.
        noise: standard deviation of what is added, in units of the features' root mean square.
        seed: of contexts and noise.
        mixing_seed: of A; the same for a training and a test set.

    Raises:
        TypeError: no world, or a number of another kind.
        ValueError: a number out of its range, or another word for mixed.
    """
    if not isinstance(world, ConceptWorld):
        raise TypeError(f"world must be a ConceptWorld, as ConceptWorld.random draws one, not {type(world).__name__}.")
    check_choice("mixed", mixed, ("concepts", "joint"))
    check_number("input_dim", input_dim, low=1, integer=True)
    check_number("hidden_share", hidden_share, low=0.0, high=1.0)
    check_number("noise", noise, low=0, high=1e6)
    check_number("seed", seed, low=0, high=2**63 - 3, integer=True)
    check_number("mixing_seed", mixing_seed, low=0, integer=True)
    concepts, observations = world.sample(count, seed=seed)
    visible = masks(count, observations.shape[1], hidden_share, seed=seed + 1)
    log_joint = world.log_joint_posterior(observations, visible)
    log_posteriors = world.log_posteriors(log_joint)
    inputs = log_posteriors.flatten(1) if mixed == "concepts" else log_joint
    draws = torch.Generator().manual_seed(mixing_seed)
    directions = torch.randn(inputs.shape[1], input_dim, generator=draws, dtype=torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)
    bias = torch.randn(input_dim, generator=draws, dtype=torch.float64)
    # The flip's log-odds are the unit of the posteriors; the scale must not be the sample's, so that a training and a
    # test set have the same map.
    unit = math.log((1 - world.flip) / world.flip)
    scale = (input_dim / inputs.shape[1]) ** 0.5 / unit
    features = scale * (inputs @ directions) + bias
    if noise:
        more = torch.randn(features.shape, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
        features = features + noise * features.square().mean().sqrt() * more
    return PlantedFeatures(features.float(), log_posteriors, concepts, scale * directions)
