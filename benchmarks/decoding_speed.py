"""Is our loop as fast as transformers' own? Alternates the two in one process and prints the ratio of medians.

    python benchmarks/decoding_speed.py [--model NAME] [--tokens 128] [--rounds 8]

Compared on the embedded model (float32): `generate` of transformers against the same call with szilard's greedy, with
LEAD in its neutral setting, as published, and forced to be latent in every step, at batch 1 and 8. Each round takes
other prompts (at batch 1 one after the other). Ratios are tokens/s relative to transformers.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from results_store import Store

import szilard

PROMPTS = [
    "Why is the sky blue?",
    "A train travels 60 miles in 1.5 hours. What is its speed?",
    "Name three uses of copper.",
    "What is the difference between a virus and a bacterium?",
    "Write a short poem about rain.",
    "How many minutes are there in a week?",
    "Explain photosynthesis to a child.",
    "What is the capital of Australia?",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--save", action="store_true", help="keep the ratios in results/speed.jsonl")
    arguments = parser.parse_args()
    engine = szilard.load(arguments.model)
    contestants = {
        "transformers": None,
        "greedy": szilard.Greedy(),
        "lead neutral": szilard.Lead.neutral(),
        "lead": szilard.Lead(),
        "lead released": szilard.Lead.released(),
        "lead, every step latent": szilard.Lead(threshold=0.0, window=0),
    }
    rows = []
    for batch in arguments.batches:
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        settings = {"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens, "do_sample": False}
        for number in range(arguments.rounds + 1):  # the first round warms up
            inputs = engine.encode([PROMPTS[(number * batch + row) % len(PROMPTS)] for row in range(batch)])
            for name, method in contestants.items():
                start = time.perf_counter()
                engine.model.generate(**inputs, custom_generate=method, **settings)
                seconds[name].append(time.perf_counter() - start)
        peer = statistics.median(seconds["transformers"][1:])
        for name, times in seconds.items():
            paired = [a / b for a, b in zip(seconds["transformers"][1:], times[1:], strict=True)]
            rows.append(
                {
                    "batch": batch,
                    "method": name,
                    "tokens/s": round(batch * arguments.tokens / statistics.median(times[1:]), 1),
                    "ratio": round(peer / statistics.median(times[1:]), 3),
                    "paired ratio": round(statistics.median(paired), 3),
                }
            )
    if arguments.save:
        store = Store("speed")
        for row in rows:
            key = {
                "peer": "transformers generate",
                "model": engine.name,
                "batch": row["batch"],
                "method": row["method"],
            }
            store.add(key, {"ratio": row["paired ratio"], "tokens_per_second": row["tokens/s"]})
    print(f"{engine.name}, {engine.model.dtype}, {torch.get_num_threads()} threads, {arguments.tokens} new tokens")
    print(f"{'batch':>5}  {'method':<24} {'tokens/s':>9} {'ratio':>7} {'paired':>7}")
    for row in rows:
        print(f"{row['batch']:>5}  {row['method']:<24} {row['tokens/s']:>9} {row['ratio']:>7} {row['paired ratio']:>7}")


if __name__ == "__main__":
    main()
