"""Concepts and sparse autoencoders: planted concepts, the simulation study, and SmolLM2. A CPU is enough.

    python benchmarks/sae.py --part planted --seed 0           # and 1, 2: about 7 minutes each
    python benchmarks/sae.py --part simulation                 # about 5 minutes
    python benchmarks/sae.py --part smollm2                    # about 6 minutes
    python benchmarks/sae.py --part harvest --data FOLDER      # about 20 minutes, 1.2 GB of disk
    python benchmarks/sae.py --part saes --data FOLDER         # about 30 minutes, after harvest

FOLDER holds wikitext2_valid.txt, wikitext2_test.txt, tinyshakespeare.txt and gsm8k_train.jsonl. Every run is recorded
when it ends, in results/sae.jsonl; a harvest and a training that were stopped go on. Minutes are of one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sae_models as models
from results_store import Store
from sae_planted import STEPS, WIDTHS, run_planted
from sae_simulation import identity, simulation

PARTS = ("planted", "simulation", "smollm2", "harvest", "saes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of planted")
    parser.add_argument("--world", choices=tuple(WIDTHS), action="append", help="of planted; default: both")
    parser.add_argument("--only", help="of planted: contestants with this in their names")
    parser.add_argument("--steps", type=int, default=STEPS, help="of planted")
    parser.add_argument("--model", help="folder or hub id; default: the embedded SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, help="FOLDER, for harvest and saes")
    parser.add_argument("--activations", type=Path, default=Path("build/sae-activations"))
    parser.add_argument("--rows", type=int, default=models.ROWS, help="of harvest")
    parser.add_argument("--kind", action="append", help="of saes; default: all")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/saes"), help="of saes")
    given = parser.parse_args()
    store = Store("sae")
    if given.part == "planted":
        for world in given.world or list(WIDTHS):
            run_planted(store, world, given.seed, given.only, given.steps)
    elif given.part == "simulation":
        simulation(store)
        identity(store)
    elif given.part == "smollm2":
        models.alignment(store, given.model)
    elif given.data is None:
        raise SystemExit("this part needs --data FOLDER")
    elif given.part == "harvest":
        models.harvest(store, given.model, given.data, given.activations, given.rows)
    else:
        models.saes(store, given.model, given.data, given.activations, given.output, given.kind)


if __name__ == "__main__":
    main()
