"""The simulation study of the theorem, and how linear exact models are."""

from __future__ import annotations

import time

import torch
from results_store import Store

from szilard.representation.concept_sae.identity import posterior_identity
from szilard.representation.concept_sae.planted import ConceptWorld
from szilard.representation.concept_sae.simulation import SimulationConfig, simulate

SHARPNESS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES, CONTEXTS, TOKENS = 4, 200, 30


def simulation(store: Store) -> None:
    """Graphs of all three kinds and two numbers of concepts, more and more observed."""
    config = SimulationConfig(epochs=8, contexts=10_000, tested=4_000, save_every=10_000, log_every=100)
    worlds = [(4, edges, observed) for edges in (1, 2, 3) for observed in (4, 8, 16, 32)]
    worlds += [(8, 2, observed) for observed in (8, 16, 32)]
    for seed in range(3):
        for concepts, edges, observed in worlds:
            key = {"part": "simulation", "concepts": concepts, "edges": edges, "observed": observed, "seed": seed}
            if key in store:
                continue
            start = time.process_time()
            world = ConceptWorld.random(concepts, observed, edges=edges, flip=0.1, seed=seed)
            found = simulate(world, None, config, device="cpu")
            values = {
                name: round(sum(getattr(found, name)) / concepts, 4)
                for name in ("accuracy", "bayes", "majority", "log_odds_share")
            }
            values |= {"epsilon": round(found.epsilon, 4), "loss": round(found.loss, 4)}
            values["seconds"] = round(time.process_time() - start, 1)
            store.add(key, values)
            print(key, values, flush=True)


def identity(store: Store) -> None:
    """Exact models with random tables: R^2 of log p(y|x) on log p(c|x), and epsilon, as tables grow sharper."""
    for sharpness in SHARPNESS:
        for seed in range(5):
            key = {"part": "identity", "sharpness": sharpness, "seed": seed}
            if key in store:
                continue
            draws = torch.Generator().manual_seed(seed)
            tables = [
                (sharpness * torch.randn(VALUES, size, generator=draws, dtype=torch.float64)).softmax(1)
                for size in (CONTEXTS, TOKENS)
            ]
            found = posterior_identity(*tables, torch.full((VALUES,), 1 / VALUES))
            values = {"epsilon": float(found.epsilon.mean()), "R2": found.linear_share, "error": found.error}
            store.add(key, values)
