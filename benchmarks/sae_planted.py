"""Planted dependent concepts: two worlds with exact posteriors, and how much of them an autoencoder recovers.

graph    `ConceptWorld` of the library: 8 concepts on a random graph with 16 edges; every observation depends on all
         concepts, so that a context moves all posteriors at once.
topics   40 concepts whose chances depend on one of 6 topics, p(c|t); a context shows a few concepts, by three noisy
         observations each, and the topic through them. With e_k the observations of concept k, all of it is exact:

             log p(t|x) = log p(t) + sum_k log sum_v p(c_k = v|t) p(e_k|v) + const
             p(c_k = v|x) = sum_t p(t|x) p(c_k = v|t) p(e_k|v) / sum_u p(c_k = u|t) p(e_k|u)

         A concept's log-posterior is what its topic says, a part of low rank, and what its own few observations say, a
         sparse part: the code that z = S + R assumes.

Activations are x = A log p(c|x) + b in fewer dimensions than log-posteriors (topics), or more (graph).
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from results_store import Store
from torch import Tensor

from szilard.representation.concept_sae.coder import SparseCoder
from szilard.representation.concept_sae.evaluation import grade_features
from szilard.representation.concept_sae.kinds import make_sae
from szilard.representation.concept_sae.measures import sae_measures
from szilard.representation.concept_sae.planted import ConceptWorld, PlantedFeatures, plant_features
from szilard.representation.concept_sae.training import SaeConfig, train_sae

CONCEPTS, TOPICS, SHOWN, LOOKS, FLIP = 40, 6, 0.1, 3, 0.1
WIDTHS = {"graph": 24, "topics": 48}  # d; a dictionary has 4 d columns
WEIGHTS = {"graph": (0.25, 0.5, 1.0), "topics": (0.5, 1.0, 2.0)}  # lambda
ACTIVE = {"graph": (2, 4, 8), "topics": (4, 8, 16)}  # k
GAMMAS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
STEPS = 800
TRAINED, TESTED = 20_000, 1_000


def planted(world: str, count: int, *, seed: int, draw: int) -> PlantedFeatures:
    """Activations of `count` contexts.

    Args:
        world: graph or topics.
        count: N.
        seed: of the world and of A.
        draw: of the contexts; another for training and test.
    """
    if world == "graph":
        drawn = ConceptWorld.random(8, 16, edges=2.0, flip=FLIP, seed=seed)
        return plant_features(drawn, count, WIDTHS[world], hidden_share=0.5, seed=draw, mixing_seed=seed)
    return _topics(count, WIDTHS[world], seed, draw)


def _topics(count: int, width: int, seed: int, draw: int) -> PlantedFeatures:
    fixed, chance = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(10_000 + draw)
    wide: dict[str, Any] = {"dtype": torch.float64}
    chances = (2 * torch.randn(TOPICS, CONCEPTS, generator=fixed, **wide)).sigmoid().clamp(0.02, 0.98)
    topic = torch.randint(TOPICS, (count,), generator=chance)
    concepts = (torch.rand(count, CONCEPTS, generator=chance, **wide) < chances[topic]).long()
    shown = torch.rand(count, CONCEPTS, generator=chance) < SHOWN
    wrong = torch.rand(count, CONCEPTS, LOOKS, generator=chance) < FLIP
    ones = (concepts[..., None] ^ wrong.long()).sum(-1).double()  # of the observations of a concept
    right, slip = torch.tensor([1 - FLIP, FLIP], **wide).log()
    evidence = torch.stack([(LOOKS - ones) * right + ones * slip, ones * right + (LOOKS - ones) * slip], -1)
    evidence = evidence * shown[..., None]  # log p(e_k|v) [N, K, 2]
    given_topic = torch.stack([1 - chances, chances], -1).log()  # [T, K, 2]
    joint = evidence[:, None] + given_topic  # [N, T, K, 2]
    of_concept = joint.logsumexp(-1)
    log_topic = of_concept.sum(-1).log_softmax(1)
    log_posteriors = (log_topic[:, :, None, None] + joint - of_concept[..., None]).logsumexp(1)
    inputs = log_posteriors.flatten(1)
    directions = F.normalize(torch.randn(inputs.shape[1], width, generator=fixed, **wide), dim=1)
    bias = torch.randn(width, generator=fixed, **wide)
    directions = directions * (width / inputs.shape[1]) ** 0.5
    return PlantedFeatures((inputs @ directions + bias).float(), log_posteriors, concepts, directions)


@dataclass(frozen=True)
class _Readout:
    """Dense codes D^T (s x - b_dec) of a dictionary, without its encoder."""

    sae: SparseCoder

    @property
    def dictionary_size(self) -> int:
        return self.sae.dictionary_size

    def encode(self, x: Tensor) -> Tensor:
        return (self.sae.scaled(x) - self.sae.decoder_bias) @ self.sae.dictionary


def recovery(sae: SparseCoder, test: PlantedFeatures) -> dict[str, float]:
    """How much of the planted concepts is found, on contexts that were not learned from.

    "log", "exp", "auroc": the best feature of every concept's posterior, chosen on one half of the contexts and told of
    the other, means over concepts; "floor", "exp floor": of a random dictionary as dense; "ceiling": AUROC of the
    posteriors. "sparse ...": of S alone. "readout ...": of the dense codes D^T x of the same dictionary. "directions":
    mean over the rows of A of the largest |cosine| with a column of D; "random directions": of a random D.
    """

    def graded(coder: Any, code: str = "all") -> dict[str, float]:
        given = (coder, test.features, test.log_posteriors, test.concepts)
        options: dict[str, Any] = {"code": code, "either_side": True, "floor_draws": 1}
        by_log = grade_features(*given, metric="log_pearson", **options)
        by_exp = grade_features(*given, metric="exp_pearson", **options)
        values = {"log": by_log.mean, "exp": by_exp.mean, "auroc": by_log.auroc}
        return values | {"floor": by_log.floor, "exp floor": by_exp.floor, "ceiling": by_log.ceiling}

    with torch.no_grad():
        found = sae_measures(sae, test.features) | graded(sae)
        if sae.parts(test.features[:2])[1] is not None:
            found |= {f"sparse {name}": value for name, value in graded(sae, "sparse").items()}
        found |= {f"readout {name}": value for name, value in graded(_Readout(sae)).items()}
        true = F.normalize(test.directions.float(), dim=1)
        chance = torch.randn(sae.dictionary.shape, generator=torch.Generator().manual_seed(0))
        found["directions"] = float((true @ sae.dictionary).abs().amax(1).mean())
        found["random directions"] = float((true @ F.normalize(chance, dim=0)).abs().amax(1).mean())
    return {name: round(float(value), 4) for name, value in found.items()}


def contestants(world: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, kind, settings) of every run."""
    weights = WEIGHTS[world]
    found: list[tuple[str, str, dict[str, Any]]] = []
    for at in range(3):
        weight = {"sparsity_weight": weights[at]}
        found.append(("L1", "l1", weight))
        found.append(("TopK", "top-k", {"k": ACTIVE[world][at]}))
        # Its default threshold, 0.05, hardly moves in so few steps: nothing becomes sparse.
        jump = {"sparsity_weight": (0.05, 0.15, 0.5)[at], "threshold": 0.5, "bandwidth": 0.5}
        found.append(("JumpReLU", "jump-relu", jump))
        found.append(("p-annealing", "p-annealing", weight))
        found += [(f"structured, gamma {gamma:g}", "structured", {**weight, "rank_weight": gamma}) for gamma in GAMMAS]
        bounded = {"rank_head": "factorised", "rank": TOPICS - 1, "rank_weight": 0.1}
        found.append((f"structured, rank {TOPICS - 1}", "structured", {**weight, **bounded}))
    return found


def run_planted(store: Store, world: str, seed: int, only: str | None = None, steps: int = STEPS) -> None:
    """Train and grade every contestant that is not recorded yet."""
    sets: list[PlantedFeatures] = []
    for name, kind, settings in contestants(world):
        key = {"part": "planted", "world": world, "name": name, "settings": settings, "seed": seed, "steps": steps}
        if key in store or (only is not None and only not in name):
            continue
        sets = sets or [
            planted(world, count, seed=seed, draw=10 * seed + at) for at, count in enumerate((TRAINED, TESTED))
        ]
        width, start = WIDTHS[world], time.process_time()
        torch.manual_seed(seed)
        sae = make_sae(kind, width, 4 * width, **settings)
        config = SaeConfig(
            steps=steps,
            batch_size=512,
            learning_rate=2e-3,
            evaluations=1,
            save_every=10 * steps,
            log_every=steps,
            seed=seed,
        )
        with tempfile.TemporaryDirectory() as folder:
            train_sae(sae, sets[0].features, folder, config, device="cpu")
        seconds = round(time.process_time() - start, 1)
        values = recovery(sae, sets[1]) | {"seconds": seconds}
        store.add(key, values)
        print(world, seed, name, settings, values, flush=True)
