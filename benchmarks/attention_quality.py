"""What cache and attention methods lose at equal budgets: needles, pairs and continuations, the question read before
or after the compression.

    python benchmarks/attention_quality.py --data DATA                    # zoo/tiny-recall, contexts of 512 tokens
    python benchmarks/attention_quality.py --data DATA --model smollm2

DATA holds wikitext2_test.txt (WikiText-2, test part). A budget is what every key-value head keeps (methods that evict)
or reads in a layer that reads sparsely; sinks and recent tokens are part of it. Every method has the same items. Lines
go to results/attention-quality.jsonl; a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results_store import Store

import szilard
from szilard.evaluation.attention_quality import measure
from szilard.evaluation.long_context import QUESTIONS, TASKS

LENGTH, SEED = 512, 0
BUDGETS = (16, 32, 64, 128)
Maker = Callable[[int], Any]  # a method from its budget
KEPT = {"sinks": 4, "recent": 8}
# What any model may be measured under; those that need layers by number are added per model.
CONTESTANTS: dict[str, Maker] = {
    "random": lambda budget: szilard.RandomEviction(budget=budget, **KEPT),
    "streaming-llm": lambda budget: szilard.StreamingLlm(budget=budget),
    "h2o": lambda budget: szilard.H2o(budget=budget),
    "tova": lambda budget: szilard.Tova(budget=budget),
    "snapkv": lambda budget: szilard.SnapKv(budget=budget, window=8),
    "pyramidkv": lambda budget: szilard.PyramidKv(budget=budget, window=8),
    "knorm": lambda budget: szilard.Knorm(budget=budget, **KEPT),
    "keydiff": lambda budget: szilard.KeyDiff(budget=budget, **KEPT),
    "expected-attention": lambda budget: szilard.ExpectedAttention(budget=budget, **KEPT),
    "quest": lambda budget: szilard.Quest(budget=budget, page=8, dense_layers=1),
}
BY_MODEL: dict[str, dict[str, Maker]] = {
    "tiny-recall": {
        "tidal-decode": lambda budget: szilard.TidalDecode(budget=budget, dense_layers=1, reselect_layers=()),
        "tidal-decode, a set per layer": lambda budget: szilard.TidalDecode(
            budget=budget, dense_layers=1, reselect_layers=(), per="layer"
        ),
    },
    "smollm2": {
        "tidal-decode": lambda budget: szilard.TidalDecode(budget=budget),
        "tidal-decode, a set per layer, chosen in every fourth": lambda budget: szilard.TidalDecode(
            budget=budget, per="layer", reselect_layers=tuple(range(6, 27, 4))
        ),
    },
}
MODELS = {  # how it is loaded; items of a task, read together, pairs in a context, tokens of a continuation
    "tiny-recall": ("zoo/tiny-recall", 32, 16, 16, 64),
    "smollm2": (None, 8, 4, 8, 48),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="tiny-recall")
    parser.add_argument("--budgets", type=int, nargs="*", default=list(BUDGETS))
    parser.add_argument("--only", nargs="*", help="names of methods")
    arguments = parser.parse_args()
    name, count, batch, pairs, new = MODELS[arguments.model]
    contestants = CONTESTANTS | BY_MODEL[arguments.model]
    unknown = [only for only in arguments.only or () if only not in ("plain", *contestants)]
    if unknown:
        parser.error(f"there is no contestant {unknown[0]!r}; there are: plain, {', '.join(contestants)}.")
    text = (arguments.data / "wikitext2_test.txt").read_text(encoding="utf-8")
    engine = szilard.load(name, engine="transformers", dtype="float32")
    rounds: list[tuple[str, int, Any]] = [("plain", LENGTH, None)]
    rounds += [(who, budget, make(budget)) for budget in arguments.budgets for who, make in contestants.items()]
    store = Store("attention-quality")
    for who, budget, method in rounds:
        if arguments.only and who not in arguments.only:
            continue
        for task in TASKS:
            for question in QUESTIONS if task != "continuation" else ("after",):
                key = {"model": arguments.model, "method": who, "budget": budget, "length": LENGTH, "task": task}
                key |= {"question": question if task != "continuation" else "", "items": count, "seed": SEED}
                key |= {"pairs": pairs} if task == "pairs" else {"new": new} if task == "continuation" else {}
                if key in store:
                    continue
                torch.manual_seed(0)
                start = time.perf_counter()
                (record,) = measure(
                    engine.model,
                    engine.tokenizer,
                    text,
                    method,
                    tasks=[task],
                    questions=[question],
                    length=LENGTH,
                    count=count,
                    batch_size=batch,
                    seed=SEED,
                    pairs=pairs,
                    new=new,
                )
                found: dict[str, Any] = {entry: value for entry, value in record.items() if entry not in key}
                found["answers"] = [[round(one["depth"] or 0, 3), one["right"]] for one in record["answers"]]
                store.add(key, found | {"options": str(method), "seconds": round(time.perf_counter() - start, 1)})
                share = record["right"] / record["tokens"]
                print(
                    f"{who:40} {budget:4} {task:12} {key['question']:6} right {share:6.1%} exact {record['exact']:3} "
                    f"nats {record['nats']:.3f} read {record['kv_read_share']:.1%} held {record['kv_held_share']:.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
