"""Lexical Unit Decoding: what a lower threshold buys in speed and costs in quality.

    python benchmarks/lud_quality.py --data FOLDER [--adapter zoo/smollm2-lud]

All thresholds answer a batch of Spec-Bench prompts before the next batch comes, beside the model as it is and the tuned
model one token at a time. Quality: how likely the texts are to the model as it is (nats per token), and how much of
them is what the tuned model writes one token at a time. A line per variant goes to results/lud-quality.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from rich.progress import track
from speculative_decoding import batches

import szilard
from szilard.engines.engine import Engine
from szilard.speculative.lud.adapter import LudAdapter

BETAS = (0.98, 0.9, 0.8, 0.7, 0.5, 0.3)
PLAIN, SERIAL = "the model as it is", "tuned, one token at a time"


def variants(adapter: LudAdapter) -> dict[str, szilard.Lud | None]:
    """The curve, the other rule of acceptance, and the check that makes it exact."""
    found: dict[str, szilard.Lud | None] = {PLAIN: None, SERIAL: szilard.Lud(adapter=adapter, beta=2.0)}
    found |= {f"beta = {beta}": szilard.Lud(adapter=adapter, beta=beta, window=adapter.window) for beta in BETAS}
    for name, options in (
        ("beta = 0.9, whole windows or one token", {"beta": 0.9, "acceptance": "all"}),
        ("beta = 0.5, repeats allowed", {"beta": 0.5, "stop_repeats": False}),
        ("beta = 0.5, verified", {"beta": 0.5, "verify": True}),
    ):
        found[name] = szilard.Lud(adapter=adapter, window=adapter.window, **options)
    return found


@torch.no_grad()
def nats(engine: Engine, prompt: str, tokens: list[int]) -> float:
    """Minus the log-probability that the model as it is gives to these tokens, in all."""
    before = engine.encode([prompt])["input_ids"][0].tolist()
    ids = torch.tensor([[*before, *tokens]])
    logits = engine.model(ids, logits_to_keep=len(tokens) + 1).logits[0, :-1]  # type: ignore[attr-defined]
    return float(torch.nn.functional.cross_entropy(logits.float(), ids[0, len(before) :], reduction="sum"))


def shared(one: list[int], other: list[int]) -> int:
    """Length of the common beginning."""
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with spec_bench.jsonl")
    parser.add_argument("--adapter", default="zoo/smollm2-lud", help="what `szilard train lud` made")
    parser.add_argument("--per-category", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    engine = szilard.load(engine="transformers")
    methods = variants(LudAdapter.from_pretrained(arguments.adapter))
    found: dict[str, Any] = {name: {"seconds": [], "tokens": [], "counters": {}, "nats": 0.0} for name in methods}
    work = [prompts for _, _, prompts in batches(arguments.data, arguments.per_category, arguments.batch)]
    engine.generate(work[0], max_new_tokens=8)  # warms up
    for prompts in track(work, description="batches"):
        for name, method in methods.items():
            start = time.perf_counter()
            results = engine.generate(prompts, method, max_new_tokens=arguments.tokens, trace=False)
            own = found[name]
            own["seconds"].append(time.perf_counter() - start)
            own["tokens"] += [result.tokens for result in results]
            own["nats"] += sum(nats(engine, prompt, r.tokens) for prompt, r in zip(prompts, results, strict=True))
            for counter, amount in results[0].cost.counters.items():
                own["counters"][counter] = own["counters"].get(counter, 0) + amount
    store = Store("lud-quality")
    for name, own in found.items():
        total = sum(map(len, own["tokens"]))
        pairs = list(zip(own["tokens"], found[SERIAL]["tokens"], strict=True))
        speeds = [base / mine for base, mine in zip(found[SERIAL]["seconds"], own["seconds"], strict=True)]
        key = {"adapter": Path(arguments.adapter).name, "method": name, "prompts": len(pairs)}
        key |= {"tokens": arguments.tokens, "batch": arguments.batch}
        values = {
            "counters": own["counters"],
            "nats": own["nats"] / total,
            "same": sum(one == other for one, other in pairs),
            "shared": sum(shared(one, other) for one, other in pairs) / sum(len(other) for _, other in pairs),
            "speed": statistics.median(speeds),
            "written": total,
        }
        if key not in store:
            store.add(key, values)
        print(name, values)


if __name__ == "__main__":
    main()
