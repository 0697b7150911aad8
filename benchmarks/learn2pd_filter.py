"""A filter of Learn2PD for zoo/tiny-diffusion: prompts of its own kinds, rows of its own decoding, two thousand numbers.

    python benchmarks/learn2pd_filter.py -o build/learn2pd [--prompts 1200] [--steps 4000]

The same as `szilard train learn2pd` on the prompts that it writes (they are drawn from another seed than the model's
training and the benchmark's samples). What the training found goes to results/learn2pd.jsonl. Resumes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

from results_store import Store

import szilard
from szilard.diffusion.learn2pd.collect import collect_egp_rows
from szilard.diffusion.learn2pd.config import FilterConfig
from szilard.diffusion.learn2pd.training import train_filter
from szilard_zoo.train_tiny_diffusion import example

SHARES = {"items": 0.45, "names": 0.15, "grids": 0.12, "sums": 0.12, "texts": 0.16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="zoo/tiny-diffusion")
    parser.add_argument("--prompts", type=int, default=1200)
    parser.add_argument("--length", type=int, default=32, help="columns of an answer; a block")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--layers", type=int, default=2)
    arguments = parser.parse_args()
    rng = random.Random("filter")
    families = rng.choices(list(SHARES), list(SHARES.values()), k=arguments.prompts)
    prompts = [example(rng, family)[1] for family in families]
    engine: Any = szilard.load(arguments.model)
    start = time.perf_counter()
    length = arguments.length
    rows = collect_egp_rows(
        engine,
        prompts,
        arguments.output / "rows",
        gen_length=length,
        block_length=length,
        batch_size=50,
        raw=True,
        progress=lambda done, total: print(f"{done} of {total} prompts", flush=True),
    )
    collected = time.perf_counter() - start
    config = FilterConfig(steps=arguments.steps, layers=arguments.layers, save_every=min(1000, arguments.steps))
    metrics = train_filter(rows, config, arguments.output)
    (arguments.output / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    found = {name: round(metrics[f"test_{name}"], 4) for name in ("loss", "label_entropy", "precision", "recall")}
    key = {"model": engine.name, "prompts": len(prompts), "length": length, "steps": arguments.steps}
    key |= {"layers": arguments.layers}
    print(key, found)
    store = Store("learn2pd")
    if key not in store:
        store.add(key, found | {"rows": len(rows), "seconds": round(collected, 1)})


if __name__ == "__main__":
    main()
