"""Information Koopman on systems that are integrated on the spot: what do the three terms do to long forecasts?

    python benchmarks/koopman.py --part choose            # weights for each system, on a seed of its own: 25 minutes
    python benchmarks/koopman.py --part compare --seed 0  # and 1, 2: without, alone, together, wrong sign; DMD, EDMD
    python benchmarks/koopman.py --part manifold          # where latents lie, without and with the terms: 2 minutes

40 noisy trajectories of 120 states are learned from (24 for burgers), 32 clean ones forecast from their first state. A
model has d = 16 (32 for burgers), two hidden layers of 128, windows of 16 steps, 2,000 steps of 32 windows, Adam at
1e-3 that falls along a cosine. "choose" trains a grid of weights with seed 10, and takes for each system and operator
the pair (alpha, gamma), both above 0, of the smallest error over 50 steps; "compare" reports other seeds. A run takes
half a minute on one core and is recorded when it ends, in results/koopman.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from results_store import Store

from szilard.information import effective_dimension
from szilard.representation.koopman.baselines import DmdForecast, EdmdForecast
from szilard.representation.koopman.config import KoopmanConfig
from szilard.representation.koopman.model import InformationKoopman
from szilard.representation.koopman.pictures import leading_plane
from szilard.representation.koopman.systems import trajectories
from szilard.representation.koopman.training import rollout_errors, train_koopman

LENGTH, HELD, STEPS = 120, 32, 2000
HORIZONS = (5, 20, 50, 100)
CHOOSING = 10  # the seed that weights are chosen with
SYSTEMS: dict[str, dict[str, Any]] = {
    "pendulum": {"noise": 0.05},
    "duffing": {"noise": 0.05},
    "lorenz": {"noise": 0.0},
    "oscillator": {"noise": 0.1},
    "burgers": {"noise": 0.05, "sequences": 24, "latent_dim": 32},
}
OPERATORS = {"ridge": {}, "learned": {"consistency_weight": 0.1}}
ALPHAS, GAMMAS = (0.1, 0.5, 2.0), (0.01, 0.1)
CELLS = 40  # of the histogram of long forecasts
DRAWN, DRAWN_STEPS = 10, 60  # trajectories of the manifold's picture, and their states


def data(system: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What is learned from, and what is forecast."""
    entry = SYSTEMS[system]
    learned = trajectories(system, entry.get("sequences", 40), LENGTH, seed=100 + seed, noise=entry["noise"])
    return learned, trajectories(system, HELD, LENGTH, seed=200 + seed)


def forecast_errors(rollout: Any, held: torch.Tensor, spread: torch.Tensor) -> dict[str, Any]:
    """Root mean squared errors in standard deviations of the channels, at horizons and over 50 steps."""
    steps = HORIZONS[-1]
    found = rollout(held[:, 0], steps).clamp(-1e6, 1e6).nan_to_num(1e6)
    square = ((found - held[:, 1 : steps + 1]) / spread).square().mean((0, 2))
    errors = {f"at {horizon}": round(float(square[horizon - 1].sqrt()), 4) for horizon in HORIZONS}
    return errors | {"over 50": round(float(square[:50].mean().sqrt()), 4), "histogram": histogram(found, held)}


def histogram(found: torch.Tensor, held: torch.Tensor) -> float:
    """KL divergence of the values that each channel takes, true from forecast, the mean over channels, nats."""
    low, high = held.amin((0, 1)), held.amax((0, 1))
    total = 0.0
    for channel in range(held.shape[-1]):
        counts = [
            torch.histc(
                x[..., channel].clamp(low[channel], high[channel]), CELLS, float(low[channel]), float(high[channel])
            )
            for x in (held[:, 1:], found)
        ]
        p, q = ((count + 0.5) / (count + 0.5).sum() for count in counts)
        total += float((p * (p / q).log()).sum())
    return round(total / held.shape[-1], 4)


def trained(
    system: str, operator: str, seed: int, learned: torch.Tensor, alpha: float, gamma: float
) -> tuple[InformationKoopman, float]:
    """A model of these weights, and the seconds that it took."""
    config = KoopmanConfig(
        steps=STEPS,
        batch_size=32,
        mutual_information_weight=alpha,
        entropy_weight=gamma,
        save_every=500,
        log_every=100,
        evaluations=4,
        seed=seed,
        held_out=0.15,
        **OPERATORS[operator],
    )
    torch.manual_seed(seed)
    model = InformationKoopman([learned.shape[-1]], SYSTEMS[system].get("latent_dim", 16), operator=operator)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train_koopman(model, learned, Path(folder), config, device="cpu")
    return model, time.perf_counter() - start


def run(store: Store, key: dict[str, Any], alpha: float, gamma: float) -> dict[str, Any]:
    """Train and forecast, unless it is recorded."""
    if key in store:
        return next(record for record in store if record["key"] == key)
    system, operator, seed = key["system"], key["operator"], key["seed"]
    learned, held = data(system, seed)
    model, seconds = trained(system, operator, seed, learned, alpha, gamma)
    values = forecast_errors(model.rollout, held, learned.std((0, 1)))
    values |= {
        name: round(value, 4) for name, value in rollout_errors(model, held, 50).items() if name != "rollout_error"
    }
    values["seconds"] = round(seconds, 1)
    values["eigenvalues"] = [[round(v.real, 4), round(v.imag, 4)] for v in model.eigenvalues().tolist()]
    store.add(key, values)
    print(key, {name: value for name, value in values.items() if name != "eigenvalues"}, flush=True)
    return values


def choose(store: Store, systems: list[str], operators: list[str]) -> None:
    """The grid of weights, with a seed of its own."""
    for system, operator in itertools.product(systems, operators):
        for alpha, gamma in [(0.0, 0.0), *itertools.product(ALPHAS, GAMMAS)]:
            key = {"part": "choose", "system": system, "operator": operator, "alpha": alpha, "gamma": gamma}
            run(store, key | {"seed": CHOOSING}, alpha, gamma)


def chosen(store: Store, system: str, operator: str) -> tuple[float, float]:
    """The pair of weights of the smallest error over 50 steps with the choosing seed."""
    found = [
        (record["over 50"], record["key"]["alpha"], record["key"]["gamma"])
        for record in store
        if record["key"]["part"] == "choose"
        and (record["key"]["system"], record["key"]["operator"]) == (system, operator)
        and record["key"]["alpha"] > 0
    ]
    if not found:
        raise SystemExit(f"no weights are chosen for {system}, {operator}: run --part choose first")
    return min(found)[1:]


def compare(store: Store, systems: list[str], operators: list[str], seed: int) -> None:
    """Variants of the chosen weights, and the linear models."""
    for system in systems:
        learned, held = data(system, seed)
        for name, model in (("DMD", DmdForecast()), ("EDMD", EdmdForecast())):
            key = {"part": "compare", "system": system, "operator": "", "variant": name, "seed": seed}
            if key not in store:
                model.fit(learned)
                errors = forecast_errors(model.rollout, held, learned.std((0, 1)))
                store.add(key, errors | {"largest_eigenvalue": round(float(model.eigenvalues()[0].abs()), 4)})
        for operator in operators:
            alpha, gamma = chosen(store, system, operator)
            variants = {
                "KAE": (0.0, 0.0),
                "alpha": (alpha, 0.0),
                "gamma": (0.0, gamma),
                "alpha and gamma": (alpha, gamma),
                "wrong sign": (alpha, -gamma),
            }
            for name, (a, g) in variants.items():
                key = {"part": "compare", "system": system, "operator": operator, "variant": name, "seed": seed}
                run(store, key, a, g)


@torch.no_grad()
def manifold(store: Store, system: str, operator: str, seed: int) -> None:
    """Clean trajectories in the plane of their latents' leading components: without the terms, with the chosen weights,
    and with the paper's; the states themselves beside them."""
    learned, held = data(system, seed)
    drawn = held[:DRAWN, :: LENGTH // DRAWN_STEPS]
    pairs = {"states": None, "KAE": (0.0, 0.0), "chosen": chosen(store, system, operator), "paper": (2.0, 0.1)}
    for variant, weights in pairs.items():
        key = {"part": "manifold", "system": system, "operator": operator, "variant": variant, "seed": seed}
        if key in store:
            continue
        if weights is None:
            points, whole, values = drawn, held, {}
        else:
            with torch.enable_grad():
                model, _ = trained(system, operator, seed, learned, *weights)
            points, whole = model.encode(drawn), model.encode(held)
            values = {
                "alpha": weights[0],
                "gamma": weights[1],
                **forecast_errors(model.rollout, held, learned.std((0, 1))),
            }
        plane, share = leading_plane(points)
        plane = plane / plane.abs().max()
        values |= {
            "share": round(share, 4),
            "effective_dimension": round(float(effective_dimension(whole.flatten(0, 1))), 3),
            "plane": [[[round(x, 3) for x in point] for point in path] for path in plane.tolist()],
        }
        store.add(key, values)
        print(key, {name: value for name, value in values.items() if name != "plane"}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("choose", "compare", "manifold"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", choices=tuple(SYSTEMS), action="append", help="default: all")
    parser.add_argument("--operator", choices=tuple(OPERATORS), action="append", help="default: both")
    given = parser.parse_args()
    store = Store("koopman")
    systems, operators = given.system or list(SYSTEMS), given.operator or list(OPERATORS)
    if given.part == "choose":
        choose(store, systems, operators)
    elif given.part == "manifold":
        manifold(store, (given.system or ["oscillator"])[0], (given.operator or ["ridge"])[0], given.seed)
    else:
        compare(store, systems, operators, given.seed)


if __name__ == "__main__":
    main()
